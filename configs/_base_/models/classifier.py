# What all classifiers share: cross entropy with label smoothing, and the mixing of images
# (Appendix B).
custom_imports = dict(imports=['mmsecvit'])
model = dict(
    type='ImageClassifier',
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
    ),
    # The paper writes "Mixup (prob = 0.8), CutMix (prob = 1.0)" and refers to DeiT. There, these
    # numbers are the alphas, and each batch gets one of the two, each with probability 1/2.
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
