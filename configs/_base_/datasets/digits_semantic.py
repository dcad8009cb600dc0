# Digits scenes in ADE20K format; see tools/prepare_data.py. Label 0 is
# unlabeled, 1 the background, 2..11 the digits.
dataset_type = 'BaseSegDataset'
data_root = 'data/digits/seg'
metainfo = dict(
    classes=('background', *(str(d) for d in range(10))),
    palette=[[60, 60, 60], [230, 25, 75], [60, 180, 75], [255, 225, 25],
             [0, 130, 200], [245, 130, 48], [145, 30, 180], [70, 240, 240],
             [240, 50, 230], [210, 245, 60], [250, 190, 212]])

# The digits were scanned at 8x8: at 64 pixels a scene loses nothing of them,
# and costs a sixth. Scores are taken at the full size of the label maps.
resize = dict(
    type='mmqsdt.ResizeCentred',
    scale=(64, 64),
    keep_ratio=True,
    interpolation='area')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomResize',
        resize_type='mmqsdt.ResizeCentred',
        scale=(64, 64),
        ratio_range=(0.9, 1.4),
        keep_ratio=True,
        interpolation='area'),
    dict(type='RandomRotate', prob=0.7, degree=15., seg_pad_val=255),
    dict(type='RandomCrop', crop_size=(64, 64)),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'), resize,
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]

train_dataloader = dict(
    batch_size=16,
    num_workers=0,  # two cores: workers would only compete
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        reduce_zero_label=True,
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=0,  # two cores: workers would only compete
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        reduce_zero_label=True,
        data_prefix=dict(
            img_path='images/validation',
            seg_map_path='annotations/validation'),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
