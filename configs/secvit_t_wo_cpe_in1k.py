# Table 6: without the convolutional position encoding.
_base_ = './secvit_t_in1k.py'
model = dict(backbone=dict(cpe=False))
