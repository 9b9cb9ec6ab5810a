# Table 6: without the convolutional stem.
_base_ = './secvit_t_in1k.py'
model = dict(backbone=dict(stem='patch'))
