# Table 6: without the convolutional position encoding.
_base_ = './secvit_t_cifar10.py'
model = dict(backbone=dict(cpe=False))
