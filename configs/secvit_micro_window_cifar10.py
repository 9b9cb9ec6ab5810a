# Swin's windows, without shift, instead of semantic clusters.
_base_ = './secvit_micro_sec_cifar10.py'
model = dict(backbone=dict(attention='window'))
