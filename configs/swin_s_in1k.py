# The baseline with its own recipe, for runs beside SEC-Swin-S.
_base_ = 'mmpretrain::swin_transformer/swin-small_16xb64_in1k.py'
