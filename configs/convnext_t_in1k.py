# The baseline with its own schedule, to compare with SecViT-S.
_base_ = 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py'
