# Table 6: CSWin's cross-shaped windows instead of semantic clusters.
_base_ = './secvit_t_cifar10.py'
model = dict(backbone=dict(attention='cswin'))
