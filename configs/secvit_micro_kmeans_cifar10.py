# As many clusters of equal size, by k-means.
_base_ = './secvit_micro_sec_cifar10.py'
model = dict(backbone=dict(attention='kmeans'))
