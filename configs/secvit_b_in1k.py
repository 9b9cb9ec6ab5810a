_base_ = [
    './_base_/models/classifier_secvit.py',
    './_base_/datasets/imagenet.py',
    './_base_/schedules/imagenet_300e.py',
    './_base_/runtimes/mmpretrain.py',
]
model = dict(backbone=dict(arch='base', drop_path_rate=0.4))
