# The baseline with its own schedule, to compare with SEC-Swin-T.
_base_ = 'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py'
