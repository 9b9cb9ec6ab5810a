# DeiT's augmentation (Appendix B): random crops to 224, flip, RandAugment m9-mstd0.5-inc1, Random
# Erasing with probability 0.25. The base has all of it. 8 GPUs with 128 images each.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'
train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
