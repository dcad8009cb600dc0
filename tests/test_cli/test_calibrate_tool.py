"""From an ANN's checkpoint to a spiking network's, by the command line."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from shared import run_tool

from mmqsdt.checkpoints import load_for_test, load_state_dict, read_checkpoint
from mmqsdt.cli.calibrate import FILE
from mmqsdt.layers import IELIF, LSQWeight
from mmqsdt.models.counterpart import counterpart_config
from mmqsdt.utils.build import build_model

ROOT = Path(__file__).parents[2]
TASKS = dict(
    mmpretrain='configs/cls/qsdt_digits.py',
    mmdet='configs/det/qsdt_maskrcnn_digits.py',
    mmseg='configs/seg/qsdt_fpn_digits.py')
SHORT = ('--cfg-options', 'train_cfg.max_epochs=1',
         'train_dataloader.batch_size=8')


@pytest.fixture(scope='module')
def workplace(copy_workplace, tmp_path_factory) -> Path:
    """A folder with a few digits."""
    return copy_workplace(tmp_path_factory.mktemp('workplace'))


def config(framework: str) -> Config:
    pytest.importorskip(f'{framework}.models')
    return Config.fromfile(ROOT / TASKS[framework])


def ann(folder: Path, framework: str) -> Path:
    """A checkpoint of the counterpart, as a runner leaves it."""
    path = folder / f'ann_{framework}.pth'
    if not path.exists():
        model = build_model(counterpart_config(config(framework)))
        meta = dict(epoch=3, dataset_meta=dict(classes=['a', 'b']))
        torch.save(dict(meta=meta, state_dict=model.state_dict()), path)
    return path


@pytest.mark.parametrize('framework', TASKS)
def test_all_of_a_network_is_calibrated(framework, workplace, monkeypatch,
                                        capsys):
    start = ann(workplace, framework)
    run_tool(monkeypatch, workplace, 'calibrate.py', ROOT / TASKS[framework],
             start, f'{framework}.pth', '--images', '4')
    printed = capsys.readouterr().out
    assert f'written: {framework}.pth' in printed
    cfg = config(framework)
    model = build_model(cfg)
    load_for_test(model, workplace / f'{framework}.pth')
    neurons = [m for m in model.modules() if isinstance(m, IELIF)]
    assert neurons and all(m.learned and m._started for m in neurons)
    assert f'calibrated: {len(neurons)} thresholds' in printed
    steps = [m for m in model.modules()
             if isinstance(m, LSQWeight) and m.bits is not None]
    assert steps and not any(m._step_is_default for m in steps)
    weights, before = model.state_dict(), load_state_dict(str(start))
    for key, value in before.items():
        if key.endswith('weight'):
            assert torch.equal(weights[key], value), key
    meta = read_checkpoint(workplace / f'{framework}.pth')['meta']
    assert meta['dataset_meta'] == dict(classes=['a', 'b'])
    assert Config.fromstring(meta['cfg'], '.py').model == cfg.model


def trained_from(monkeypatch, workplace: Path, *more) -> Path:
    run_tool(monkeypatch, workplace, 'train.py', ROOT / TASKS['mmpretrain'],
             '--work-dir', 'trained', '--from-ann',
             ann(workplace, 'mmpretrain'), *SHORT, *more)
    return workplace / 'trained'


def test_a_training_starts_calibrated_and_is_resumed(workplace, monkeypatch):
    config('mmpretrain')
    work_dir = trained_from(monkeypatch, workplace, 'optim_wrapper.'
                            'optimizer.lr=0.', 'param_scheduler=[]')
    first, start = (load_state_dict(str(work_dir / name))
                    for name in ('epoch_1.pth', FILE))
    for key, value in start.items():  # a learning rate of zero
        if not key.endswith(('running_mean', 'running_var', 'tracked')):
            assert torch.equal(first[key], value), key
    (work_dir / FILE).unlink()
    trained_from(monkeypatch, workplace, 'train_cfg.max_epochs=2',
                 '--resume')
    assert (work_dir / 'epoch_2.pth').exists()
    assert not (work_dir / FILE).exists()


def test_load_from_takes_the_file_too(workplace, monkeypatch):
    config('mmpretrain')
    run_tool(monkeypatch, workplace, 'calibrate.py',
             ROOT / TASKS['mmpretrain'], ann(workplace, 'mmpretrain'),
             'start.pth', '--images', '4', '--method', 'percentile',
             '--percentile', '99.9')
    run_tool(monkeypatch, workplace, 'train.py', ROOT / TASKS['mmpretrain'],
             '--work-dir', 'loaded', *SHORT, 'load_from=start.pth')
    with pytest.raises(SystemExit, match='two starts of one training'):
        trained_from(monkeypatch, workplace, 'load_from=start.pth')


def test_two_processes_start_from_one_file(workplace):
    if not torch.distributed.is_gloo_available():
        pytest.skip('this build of torch has no gloo')
    config('mmpretrain')
    from experiments.torture.processes import train_two
    start = ann(workplace, 'mmpretrain')
    assert train_two(workplace, 'epochs.py', 'two', '--from-ann',
                     str(start), '--cfg-options',
                     'train_cfg.max_epochs=1') == []
    assert (workplace / 'two' / FILE).exists()
    told = train_two(workplace, 'epochs.py', 'none', '--from-ann', 'no.pth')
    assert 'no checkpoint at no.pth' in told[0] and 'hung' not in told[0]


def spoiled(workplace: Path, how: str) -> Path:
    """A checkpoint that is none of the counterpart."""
    state = load_state_dict(str(ann(workplace, 'mmpretrain')))
    if how == 'spiking':
        state = build_model(config('mmpretrain')).state_dict()
    elif how == 'without head':
        state = {k: v for k, v in state.items() if 'head' not in k}
    elif how == 'other shape':
        state['head.fc.weight'] = torch.zeros(3, 128)
    elif how == 'not finite':
        state['head.fc.weight'][0] = torch.nan
    path = workplace / f'{how}.pth'
    names = [str(digit) for digit in range(10)]
    if how == 'other order':
        names.reverse()
    torch.save(dict(state_dict=state, meta=dict(
        dataset_meta=dict(classes=names))), path)
    return path


NEURON = 'model.backbone.neuron.'


@pytest.mark.parametrize('how, options, words', [
    ('spiking', (), 'is of no ANN'),
    ('without head', (), 'head.fc.weight is missing'),
    ('other shape', (), r'head.fc.weight is \(3, 128\) in the file'),
    ('not finite', (), 'head.fc.weight are not finite'),
    ('other order', (), 'same classes in another order'),
    ('good', ('--images', '0'), 'images must be at least 1'),
    ('good', ('--percentile', '0'), 'percentile in'),
    ('good', ('--cfg-options', f'{NEURON}threshold=0.25',
              'model.head.neuron.threshold=0.25'), 'threshold="learned"'),
    ('good', ('--cfg-options', 'train_dataloader.dataset.data_root=nowhere'),
     'The data set of this config is not there'),
])
def test_bad_input_leaves_no_file(how, options, words, workplace,
                                  monkeypatch):
    config('mmpretrain')
    before = set(workplace.iterdir())
    path = spoiled(workplace, how)
    with pytest.raises(SystemExit, match=words):
        run_tool(monkeypatch, workplace, 'calibrate.py',
                 ROOT / TASKS['mmpretrain'], path, 'new.pth', *options)
    assert set(workplace.iterdir()) - before <= {path}


def test_the_file_to_write_is_a_checkpoint(workplace, monkeypatch):
    config('mmpretrain')
    with pytest.raises(SystemExit, match='must end in .pth'):
        run_tool(monkeypatch, workplace, 'calibrate.py',
                 ROOT / TASKS['mmpretrain'], 'x.pth', 'new.safetensors')
