# Table 6: without local context enhancement.
_base_ = './secvit_t_in1k.py'
model = dict(backbone=dict(lce=False))
