_base_ = [
    './_base_/models/semantic_fpn_secvit.py',
    './_base_/datasets/ade20k.py',
    './_base_/schedules/ade20k_80k.py',
    './_base_/runtimes/mmseg.py',
]
model = dict(backbone=dict(arch='tiny'))
