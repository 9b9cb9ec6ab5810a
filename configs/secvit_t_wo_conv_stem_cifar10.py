# Table 6: without the convolutional stem.
_base_ = './secvit_t_cifar10.py'
model = dict(backbone=dict(stem='patch'))
