"""Trains a config with mmengine's FlexibleRunner, as docs/scaling.md has it.

    torchrun --nproc-per-node 2 -m experiments.torture.flexible \\
        CONFIG STRATEGY WORK_DIR
"""

import os
import sys

import torch
import torch.distributed
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import FlexibleRunner

import mmqsdt

# What our hooks need, a sharded model does not have.
LEFT_OUT = ('stop_signal', 'non_finite', 'channels_last', 'statistics')
# On CPUs there is no device of a number.
STRATEGIES = dict(
    single=dict(type='SingleDeviceStrategy'),
    ddp=dict(
        type='DDPStrategy',
        model_wrapper=dict(
            type='MMDistributedDataParallel', device_ids=None)),
    fsdp=dict(
        type='FSDPStrategy',
        model_wrapper=dict(
            type='MMFullyShardedDataParallel', use_orig_params=True,
            device_id=torch.device('cpu'))))


def main(config: str, strategy: str, work_dir: str) -> None:
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.set_num_threads(1)
    launcher = 'none'
    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        torch.distributed.init_process_group('gloo')
        launcher = 'pytorch'
    hooks = {k: v for k, v in cfg.default_hooks.items() if k not in LEFT_OUT}
    hooks['checkpoint'] = dict(type='CheckpointHook', interval=1)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    mmqsdt.layers.settle_step_sizes(model)
    runner = FlexibleRunner(
        model=model, launcher=launcher, strategy=STRATEGIES[strategy],
        work_dir=work_dir, default_hooks=hooks,
        default_scope=cfg.default_scope, randomness=dict(seed=0),
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        **{key: cfg[key] for key in (
            'visualizer', 'train_dataloader', 'val_dataloader',
            'optim_wrapper', 'param_scheduler', 'train_cfg', 'val_cfg',
            'val_evaluator')})
    runner.train()


if __name__ == '__main__':
    main(*sys.argv[1:])
