# The micro network of the ablations: docs/experiments.md says why it looks like this.
_base_ = './secvit_micro_cifar10.py'
model = dict(
    backbone=dict(
        # Five of the seven blocks are in the two stages that have more than one cluster.
        arch=dict(depths=[2, 3, 1, 1]),
        # Clusters of 32, 16, 16 and 4 tokens. Swin's windows of up to 7x7 have 25 to 36 on the map
        # of 16x16 and 16, 16 and 4 on the others; CSWin's stripes have 16, 16, 16 and 4.
        num_clusters=(8, 4, 1, 1),
    ),
)
val_dataloader = dict(dataset=dict(indices=5000))
test_dataloader = val_dataloader
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        by_epoch=True,
        begin=0,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-5,
        by_epoch=True,
        begin=1,
        end=6,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=6, val_interval=3)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
