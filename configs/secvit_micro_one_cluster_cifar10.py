# One cluster in every stage: each token attends to all.
_base_ = './secvit_micro_sec_cifar10.py'
model = dict(backbone=dict(num_clusters=(1, 1, 1, 1)))
