# Without the convolutional position encoding.
_base_ = './secvit_micro_sec_cifar10.py'
model = dict(backbone=dict(cpe=False))
