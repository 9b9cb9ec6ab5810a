# Table 6: without local context enhancement.
_base_ = './secvit_t_cifar10.py'
model = dict(backbone=dict(lce=False))
