"""Whole trainings over images with nothing on them, alone and in pairs."""

import json
import math
import os
import socket
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from small_models import (
    MODEL,
    NEURON,
    classifier,
    random_data,
    scope_of,
    spike,
)
from test_empty_batches import DETECTORS, without_boxes

from mmqsdt.engine.distributed import join_processes

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytest.importorskip('mmseg')

ITERATIONS = 2  # DDP complains in the second
HOOKS = dict(
    monitor=dict(type='mmqsdt.SpikeMonitorHook', interval=1, window=1),
    finite=dict(type='mmqsdt.NonFiniteHook'),
    statistics=dict(type='mmqsdt.AverageStatisticsHook'))


@DATASETS.register_module(force=True)
class Scenes(torch.utils.data.Dataset):
    """Random images; those of the odd numbers have no box, or none has.

    Of two processes, which take turns, the second one then sees none.
    """
    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, name: str, empty: str) -> None:
        torch.manual_seed(0)
        self.samples = []
        for _ in range(ITERATIONS):
            data = random_data(name)
            if scope_of(name) == 'mmdet':
                without_boxes(data, dict(all=(0, 1), odd=(1, ))[empty])
            self.samples += [dict(zip(data, pair))
                             for pair in zip(*data.values())]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> dict:
        return self.samples[i]


def train(rank: int, folder: Path, name: str, empty: str, processes: int,
          port: int) -> None:
    torch.set_num_threads(1)
    model = dict(MODEL, classifier=classifier)[name](
        spike(dict(NEURON, threshold='learned'), 4))
    if name in ('mask_rcnn', 'cascade_rcnn'):
        model['roi_head']['mask_head']['norm_cfg'] = dict(type='BN')
    cfg = Config(dict(
        model=model,
        work_dir=str(folder),
        default_scope=scope_of(name),
        experiment_name=f'{name}_{empty}_{processes}_{rank}',
        train_dataloader=dict(
            batch_size=2 // processes,
            dataset=dict(type='Scenes', name=name, empty=empty,
                         _scope_='mmengine'),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate')),
        train_cfg=dict(by_epoch=False, max_iters=ITERATIONS),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=list(HOOKS.values()),
        visualizer=dict(type='Visualizer', _scope_='mmengine',
                        vis_backends=[dict(type='LocalVisBackend')]),
        log_level='WARNING',
        launcher='none'))
    if processes == 2:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2',
            MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        cfg.launcher = 'pytorch'
    join_processes(cfg)
    runner = Runner.from_cfg(cfg)
    runner.train()
    model = getattr(runner.model, 'module', runner.model)
    torch.save(model.state_dict(), folder / f'{rank}.pt')


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.mark.parametrize('name, empty, processes', [
    *((name, 'all', 1) for name in DETECTORS),
    *((name, 'odd', 2) for name in DETECTORS),
    ('cascade_rcnn', 'all', 2),
    # An image a process.
    ('semantic_fpn', 'all', 2), ('classifier', 'all', 2)])
def test_it_trains_to_the_end(tmp_path, name, empty, processes):
    arguments = (tmp_path, name, empty, processes, free_port())
    if processes == 1:
        train(0, *arguments)
    else:
        if not torch.distributed.is_gloo_available():
            pytest.skip('this build of torch has no gloo')
        context = torch.multiprocessing.start_processes(
            train, arguments, nprocs=2, join=False, start_method='fork')
        # It returns whenever one of them ends.
        hung = not context.join(timeout=120) and not context.join(timeout=30)
        for process in context.processes:
            process.kill()
        assert not hung
        a, b = (torch.load(tmp_path / f'{rank}.pt') for rank in range(2))
        assert a.keys() == b.keys()
        # A norm counts the batches in which it saw a region.
        assert [k for k in a if not torch.equal(a[k], b[k])
                and not k.endswith('num_batches_tracked')] == []
    state = torch.load(tmp_path / '0.pt')
    assert all(torch.isfinite(x).all() for x in state.values())
    (path, ) = tmp_path.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert any('firing_rate/all' in line for line in lines)
    values = [x for line in lines for x in line.values()]
    assert all(math.isfinite(x) for x in values)
