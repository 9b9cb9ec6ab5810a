# Without the convolutional stem.
_base_ = './secvit_micro_sec_cifar10.py'
model = dict(backbone=dict(stem='patch'))
