default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='mmqsdt.ReliableCheckpointHook', interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    stop_signal=dict(type='mmqsdt.StopSignalHook'),
    non_finite=dict(type='mmqsdt.NonFiniteHook', policy='stop'),
    small_batch=dict(type='mmqsdt.SmallBatchHook'),
    eager_first_step=dict(type='mmqsdt.EagerFirstStepHook'),
    # With several processes: one set of batch norm statistics for all.
    statistics=dict(type='mmqsdt.AverageStatisticsHook'))
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
vis_backends = [dict(type='LocalVisBackend')]
# Brings the stand-in for mmcv's compiled ops in time when a framework's own
# tools run this config; the names need no import.
custom_imports = dict(imports=['mmqsdt'], allow_failed_imports=False)
log_level = 'INFO'
load_from = None
resume = False
