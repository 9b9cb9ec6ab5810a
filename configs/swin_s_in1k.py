# The baseline with its own schedule, to compare with SEC-Swin-S.
_base_ = 'mmpretrain::swin_transformer/swin-small_16xb64_in1k.py'
