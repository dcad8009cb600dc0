# 1-D parameters (norms, biases, step sizes, layer scales) take no decay. The
# weights of the heads learn at twice the rate; the three keys below keep
# their norms and biases out of that, and out of the decay it would bring.
optim_wrapper = dict(
    type='OptimWrapper',  # --amp for the mixed precision of the published runs
    optimizer=dict(
        type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.005),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        flat_decay_mult=0.,
        custom_keys={
            'head': dict(lr_mult=2.),
            'step_size': dict(decay_mult=0.),
            'log_threshold': dict(decay_mult=0.),
            '.norm.': dict(decay_mult=0.),
            '.bn.': dict(decay_mult=0.),
            '.bias': dict(decay_mult=0.)
        }))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.,
        begin=1500,
        end=160000,
        by_epoch=False)
]
train_cfg = dict(
    type='IterBasedTrainLoop', max_iters=160000, val_interval=2500)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=32)  # 2 x 16
