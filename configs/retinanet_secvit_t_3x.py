_base_ = [
    './_base_/models/retinanet_secvit.py',
    './_base_/datasets/coco_detection_ms.py',
    './_base_/schedules/coco_3x.py',
    'mmdet::_base_/default_runtime.py',
]
model = dict(backbone=dict(arch='tiny'))
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
