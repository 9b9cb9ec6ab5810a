# CSWin's cross-shaped windows instead of semantic clusters.
_base_ = './secvit_micro_sec_cifar10.py'
model = dict(backbone=dict(attention='cswin'))
