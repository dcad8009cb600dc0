model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    backbone=dict(type='mmqsdt.QSDTransformer', arch='15m'),
    head=dict(
        type='mmqsdt.SpikeLinearClsHead',
        num_classes=1000,
        in_channels=360,
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')))
