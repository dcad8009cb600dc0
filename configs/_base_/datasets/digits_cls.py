# Scanned digits, an ImageNet-style folder set; see tools/prepare_data.py.
dataset_type = 'ImageNet'
data_root = 'data/digits/cls'
classes = [str(d) for d in range(10)]

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='Rotate',
        magnitude_range=(0., 15.),
        random_negative_prob=0.5,
        prob=0.7,
        pad_val=0),
    dict(type='RandomCrop', crop_size=32, padding=3, pad_if_needed=True),
    dict(type='PackInputs')
]
# The digits are 32 pixels wide and stay as they are; other pictures become so.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=32, edge='short', interpolation='area'),
    dict(type='CenterCrop', crop_size=32),
    dict(type='PackInputs')
]

train_dataloader = dict(
    batch_size=64,
    num_workers=0,  # two cores: workers would only compete
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='train',
        metainfo=dict(classes=classes),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=64,
    num_workers=0,  # two cores: workers would only compete
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        split='val',
        metainfo=dict(classes=classes),
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
