# Recordings of an event camera as frames over time, (T, 2, H, W): how many
# events of each polarity, at each pixel. Of each class, 9 in 10 are for
# training.
dataset_type = 'mmqsdt.EventFrames'
data_root = 'data/cifar10dvs'
time_steps = 10  # T; the model must have the same

# All frames of a recording are moved alike.
train_pipeline = [
    dict(type='torchvision/RandomHorizontalFlip'),
    dict(
        type='torchvision/RandomAffine',
        degrees=15,
        translate=(5 / 128, 5 / 128),
        shear=8),
    dict(type='PackInputs')
]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=16,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        name='CIFAR10DVS',
        data_root=data_root,
        train=True,
        frames_number=time_steps,
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        name='CIFAR10DVS',
        data_root=data_root,
        train=False,
        frames_number=time_steps,
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
