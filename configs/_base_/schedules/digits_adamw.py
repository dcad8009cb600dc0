# Minutes on two CPU cores; each config sets its own length. The large
# gradients of the first iterations would hold back an average over 1000 of
# them (the usual 0.999) for most of so short a run.
# 1-D parameters (norms, biases, step sizes, layer scales) take no decay.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW',
        lr=2e-3,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        fused=True),
    clip_grad=dict(max_norm=35., norm_type=2),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        flat_decay_mult=0.,
        # Adam moves every parameter by the learning rate; a step size is
        # only a few hundredths.
        custom_keys=dict(step_size=dict(lr_mult=0.05, decay_mult=0.))))
auto_scale_lr = dict(enable=False, base_batch_size=8)
randomness = dict(seed=0)
