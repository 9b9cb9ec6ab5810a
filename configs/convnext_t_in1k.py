# The baseline with its own recipe, for runs beside SecViT-S.
_base_ = 'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py'
