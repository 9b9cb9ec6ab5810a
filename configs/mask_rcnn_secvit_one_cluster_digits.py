# The demo with one cluster in every stage: each token attends to all.
_base_ = './mask_rcnn_secvit_digits.py'
model = dict(backbone=dict(num_clusters=(1, 1, 1, 1)))
