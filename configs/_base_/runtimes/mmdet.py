_base_ = 'mmdet::_base_/default_runtime.py'
default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))
