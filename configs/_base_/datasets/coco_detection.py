_base_ = 'mmdet::_base_/datasets/coco_detection.py'
# Label i is the i-th of `classes`, and annotations are checked. mmdet's own data set and metric
# number classes in the order of the file's categories.
train_dataloader = dict(dataset=dict(type='CheckedCocoDataset'))
val_dataloader = dict(dataset=dict(type='CheckedCocoDataset'))
test_dataloader = val_dataloader
val_evaluator = dict(type='CheckedCocoMetric')
test_evaluator = val_evaluator
