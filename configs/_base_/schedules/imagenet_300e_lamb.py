# 1-D parameters (norms, biases, step sizes, layer scales) take no decay.
optim_wrapper = dict(
    type='OptimWrapper',  # --amp for the mixed precision of the published runs
    optimizer=dict(
        type='Lamb',
        lr=6e-4 * 1568 / 256,
        weight_decay=0.05,
        trust_clip=True),
    paramwise_cfg=dict(
        norm_decay_mult=0., bias_decay_mult=0., flat_decay_mult=0.))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6,
        by_epoch=True,
        begin=0,
        end=15,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        by_epoch=True,
        begin=15,
        end=300,
        convert_to_iter_based=True)
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=1568)  # 8 x 196
# The published code averages weights too, but never tests or saves them. The
# statistics of the batch norms are averaged with the weights they belong to.
custom_hooks = [
    dict(
        type='EMAHook',
        momentum=1 - 0.99996,
        update_buffers=True,
        priority='ABOVE_NORMAL')
]
