# The demo with Swin's windows, without shift, instead of semantic clusters.
_base_ = './mask_rcnn_secvit_digits.py'
model = dict(backbone=dict(attention='window'))
