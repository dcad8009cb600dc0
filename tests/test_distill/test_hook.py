"""Distillation in training: a small model of mmengine, and the three tasks."""

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

import mmqsdt
from mmqsdt import FGDistillHook, QSDTransformer
from mmqsdt.checkpoints.packing import pack
from mmqsdt.checkpoints.read import load_state_dict
from mmqsdt.distill.hook import _is_channels_last

ROOT = Path(mmqsdt.get_config_path())
ARCH = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1), num_heads=2)
ANN = dict(weight_bits=None, neuron=dict(type='ReLU'))
STUDENT = dict(type='SmallClassifier', arch=ARCH)
TEACHER = dict(STUDENT, **ANN)


@MODELS.register_module(force=True)
class SmallClassifier(BaseModel):
    """A QSDTransformer and a linear head."""

    def __init__(self, num_classes: int = 4, **backbone) -> None:
        super().__init__()
        self.backbone = QSDTransformer(**backbone)
        self.head = nn.Linear(self.backbone.channels[-1], num_classes)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.head(self.backbone(inputs)[-1].mean((2, 3)))
        if mode != 'loss':
            return logits
        return dict(
            loss=nn.functional.cross_entropy(logits, data_samples))


@MODELS.register_module(force=True)
class ThreeConvs(BaseModel):
    """Something that compiles in no time."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(3, width, 8, 8) for _ in 'qkv')

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = self.q(inputs) + self.k(inputs) + self.v(inputs)
        return dict(loss=out.square().mean()) if mode == 'loss' else out


class Images(torch.utils.data.Dataset):

    def __init__(self, different: int = 16) -> None:
        self.different = different

    def __len__(self):
        return 16

    def __getitem__(self, i):
        i %= self.different
        generator = torch.Generator().manual_seed(i)
        return dict(
            inputs=torch.rand(3, 64, 64, generator=generator),
            data_samples=i % 4)


def save(model_cfg: dict, path: Path, seed: int = 1) -> str:
    """A checkpoint of a model with random weights."""
    torch.manual_seed(seed)
    torch.save(dict(state_dict=MODELS.build(model_cfg).state_dict()), path)
    torch.manual_seed(0)
    return str(path)


@pytest.fixture
def checkpoint(tmp_path) -> str:
    return save(TEACHER, tmp_path / 'teacher.pth')


def hook_cfg(path: str | None, **kwargs) -> dict:
    return dict(
        dict(type='mmqsdt.FGDistillHook', teacher=TEACHER, checkpoint=path),
        **kwargs)


def make_runner(folder, hooks, iterations=2, model=STUDENT, resume=False,
                images=None, compile=False, **optim) -> Runner:
    """A runner without validation; the order of the images is fixed."""
    make_runner.count += 1
    return Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=4,
            dataset=images or Images(),
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=False, max_iters=iterations),
        optim_wrapper=dict(
            dict(optimizer=dict(type='SGD', lr=0.1)), **optim),
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook', by_epoch=False, interval=2)),
        custom_hooks=hooks,
        randomness=dict(seed=0),
        resume=resume,
        log_level='ERROR',
        cfg=dict(compile=compile),
        experiment_name=f'distill{make_runner.count}')


make_runner.count = 0


def history(runner, name='loss_fgd') -> list[float]:
    return runner.message_hub.get_scalar(f'train/{name}').data[0].tolist()


def attached(model: nn.Module, cfg: dict) -> FGDistillHook:
    """The hook as a runner would start it."""
    hook = mmqsdt.registry.HOOKS.build(cfg)
    hook.before_train(SimpleNamespace(model=model))
    hook.before_train_iter(SimpleNamespace(model=model, iter=0), 0)
    return hook


def batch() -> dict:
    items = [Images()[i] for i in range(4)]
    return dict(
        inputs=torch.stack([i['inputs'] for i in items]),
        data_samples=torch.tensor([i['data_samples'] for i in items]),
        mode='loss')


# --- the three tasks -------------------------------------------------------

TASKS = {
    'cls/qsdt_digits.py': 'cls/qsdt-ann_digits.py',
    'det/qsdt_maskrcnn_digits.py': 'det/qsdt-ann_maskrcnn_digits.py',
    'seg/qsdt_fpn_digits.py': 'seg/qsdt-ann_fpn_digits.py',
}
DATA = dict(cls='data/digits/cls', det='data/digits/det/',
            seg='data/digits/seg')


@pytest.fixture(scope='module')
def scenes(copy_digits, tmp_path_factory) -> Path:
    return copy_digits(tmp_path_factory.mktemp('scenes'))


@pytest.mark.parametrize('config', TASKS)
def test_trains_in_the_three_frameworks_and_the_loss_falls(
        config, scenes, tmp_path, monkeypatch):
    cfg = Config.fromfile(ROOT / config.replace('_digits', '_fgd_digits'))
    pytest.importorskip(cfg.default_scope)
    hook, = cfg.custom_hooks
    assert hook.type == 'mmqsdt.FGDistillHook'
    assert hook.teacher == f'configs/{TASKS[config]}'
    monkeypatch.chdir(scenes)
    teacher = Config.fromfile(ROOT / TASKS[config])
    import_module(f'{cfg.default_scope}.models')
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        hook.checkpoint = save(teacher.model, tmp_path / 'teacher.pth')
    hook.teacher = str(ROOT / TASKS[config])
    hook.loss.loss_weight = 10.  # the tasks' own losses matter less
    for part in ('val', 'test'):
        for key in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{part}_{key}'] = None
    loader = cfg.train_dataloader
    loader.batch_size = 2
    # The same two images again, so that the loss of two iterations compares.
    loader.dataset.indices = 2
    loader.dataset.pipeline = [
        step for step in loader.dataset.pipeline
        if 'Random' not in step['type']
    ]
    if 'seg' in config:
        loader.dataset.pipeline.insert(
            2, dict(type='Resize', scale=(64, 64)))
    cfg.train_cfg = dict(by_epoch=False, max_iters=2)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    cfg.param_scheduler = None
    cfg.optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05))
    cfg.work_dir = str(tmp_path / 'work')
    cfg.log_level = 'ERROR'
    cfg.experiment_name = f'fgd_{config}'
    runner = Runner.from_cfg(cfg)
    runner.train()
    first, second = history(runner)
    assert 0 < second < first
    assert {k for k in runner.message_hub.log_scalars if 'loss' in k} > {
        'train/loss_fgd'}
    saved = load_state_dict(tmp_path / 'work/iter_2.pth')
    assert saved.keys() == runner.model.state_dict().keys()


@pytest.mark.parametrize('config', [
    *(c.replace('_digits', '_fgd_digits') for c in TASKS),
    'cls/qsdt_fgd_imagenet.py'])
def test_configs_add_the_hook_and_name_what_the_teacher_wrote(config):
    cfg = Config.fromfile(ROOT / config)
    plain = Config.fromfile(ROOT / config.replace('_fgd', ''))
    *others, hook = cfg.custom_hooks
    assert others == plain.get('custom_hooks', [])
    assert cfg.model == plain.model and cfg.train_cfg == plain.train_cfg
    assert hook.type == 'mmqsdt.FGDistillHook'
    train = Config.fromfile(ROOT.parent / hook.teacher).train_cfg
    name = f'iter_{train.max_iters}' if 'max_iters' in train else \
        f'epoch_{train.max_epochs}'
    assert hook.checkpoint == f'work_dirs/{Path(hook.teacher).stem}/{name}.pth'


# --- what it must leave alone ----------------------------------------------


def test_without_weight_the_training_is_the_plain_one(tmp_path, checkpoint):
    """Same random numbers (drop path), same running statistics."""
    model = dict(STUDENT, drop_path_rate=0.5)
    states = []
    for name, hooks in dict(
            plain=[],
            fgd=[hook_cfg(
                checkpoint, loss=dict(
                    type='mmqsdt.FGDLoss', loss_weight=0.))]).items():
        runner = make_runner(tmp_path / name, hooks, model=model)
        runner.train()
        states.append(runner.model.state_dict())
    for key, plain in states[0].items():
        assert torch.equal(states[1][key], plain), key


def test_nothing_of_the_teacher_is_saved_averaged_or_optimised(
        tmp_path, checkpoint):
    runner = make_runner(tmp_path,
                         [hook_cfg(checkpoint), dict(type='EMAHook')])
    own = set(runner.model.state_dict())
    runner.train()
    saved = torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    assert set(saved['state_dict']) == own
    assert {k.removeprefix('module.')
            for k in saved['ema_state_dict']} == own | {'steps'}
    count = sum(len(g['params']) for g in runner.optim_wrapper.param_groups)
    assert count == len(list(runner.model.parameters()))
    for module in runner.model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_the_teacher_is_frozen_in_eval_mode_and_unchanged(checkpoint):
    model = MODELS.build(STUDENT)
    hook = attached(model.train(), hook_cfg(checkpoint))
    teacher = hook.teacher
    sum(model(**batch()).values()).backward()
    expected = load_state_dict(checkpoint)
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, expected[key])
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert any(p.grad is not None for p in model.parameters())


def test_prediction_and_validation_are_not_touched(checkpoint):
    model = MODELS.build(STUDENT).eval()
    inputs = batch()['inputs']
    expected = model(inputs)
    hook = attached(model, hook_cfg(checkpoint))
    calls = []
    hook.teacher.register_forward_hook(lambda *_: calls.append(1))
    hook.teacher.backbone.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(model(inputs), expected)  # a prediction
    hook.after_train_iter(None, 0)
    assert set(model(**batch())) == {'loss'}  # a loss while validating
    assert not calls


def hooks_on(model: nn.Module) -> int:
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks)
        for m in model.modules())


def test_a_training_that_was_interrupted_leaves_nothing_to_the_next(
        checkpoint):
    model = MODELS.build(STUDENT)
    hook = attached(model, hook_cfg(checkpoint))
    once = hooks_on(model)
    hook.before_train(SimpleNamespace(model=model))
    assert hooks_on(model) == once
    hook.after_train(None)
    assert not hooks_on(model)
    assert hook.teacher is None


def test_logits_are_kept_only_where_they_are_compared(checkpoint):
    model = MODELS.build(STUDENT)
    hook = attached(model, hook_cfg(
        checkpoint, interval=2,
        logit_loss=dict(type='mmqsdt.LogitDistillLoss')))
    assert 'loss_logit' in model(**batch())
    hook.before_train_iter(SimpleNamespace(iter=1), 1)
    assert 'loss_logit' not in model(**batch())
    assert not hook._logits


# --- schedules, resume, AMP, accumulation, recomputation, DDP --------------


@pytest.mark.parametrize('schedule, iterations', [
    (dict(), [0, 1, 2, 3, 4, 5]),
    (dict(start=2), [2, 3, 4, 5]),
    (dict(start=1, end=4, interval=2), [1, 3]),
])
def test_start_end_and_interval(schedule, iterations, checkpoint):
    model = MODELS.build(STUDENT)
    hook = attached(model, hook_cfg(checkpoint, **schedule))
    found = []
    for i in range(6):
        hook.before_train_iter(SimpleNamespace(iter=i), i)
        if 'loss_fgd' in model(**batch()):
            found.append(i)
        hook.after_train_iter(None, i)
    assert found == iterations


def test_resumed_training_goes_on_as_if_never_stopped(tmp_path, checkpoint):
    hooks = [hook_cfg(checkpoint, interval=3)]  # iterations 0 and 3
    slow = dict(optimizer=dict(type='SGD', lr=1e-3))
    whole = make_runner(tmp_path / 'whole', hooks, iterations=4, **slow)
    whole.train()
    make_runner(tmp_path / 'parts', hooks, iterations=2, **slow).train()
    resumed = make_runner(
        tmp_path / 'parts', hooks, iterations=4, resume=True, **slow)
    resumed.train()
    assert history(resumed)[-1] == history(whole)[-1]
    expected = whole.model.state_dict()
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_mixed_precision(tmp_path, checkpoint):
    runner = make_runner(tmp_path, [hook_cfg(checkpoint)],
                         type='mmqsdt.BFloat16OptimWrapper')
    runner.train()
    assert np.isfinite(history(runner)).all()
    model = MODELS.build(STUDENT)
    attached(model, hook_cfg(checkpoint))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert model(**batch())['loss_fgd'].dtype == torch.float32


def test_accumulated_gradients(tmp_path, checkpoint):
    """Two halves of the weight each are one step of the whole."""
    states = []
    for name, counts, iterations in (('one', 1, 1), ('two', 2, 2)):
        runner = make_runner(
            tmp_path / name, [hook_cfg(checkpoint)], iterations=iterations,
            model=dict(STUDENT, norm_eval=True), accumulative_counts=counts,
            images=Images(4))  # the same four in both iterations
        runner.train()
        states.append(runner.model.state_dict())
        assert len(history(runner)) == iterations
    for key, one in states[0].items():
        # sums of two halves; float32 rounding
        torch.testing.assert_close(states[1][key], one, rtol=1e-5, atol=1e-6)


def test_recomputed_blocks_give_the_same_gradients(checkpoint):
    gradients = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = MODELS.build(dict(STUDENT, with_cp=with_cp)).train()
        attached(model, hook_cfg(checkpoint))
        losses = model(**batch())
        losses['loss_fgd'].backward()  # no path but through q, k, v
        gradients.append(
            {n: p.grad for n, p in model.named_parameters()})
    assert gradients[0]['backbone.stages.0.downsample.conv.weight'].any()
    for name, expected in gradients[0].items():
        found = gradients[1][name]
        assert (found is None) == (expected is None)
        if expected is not None:
            assert torch.equal(found, expected), name


def test_the_teacher_runs_in_the_format_of_the_student(checkpoint):
    model = MODELS.build(STUDENT)
    assert not _is_channels_last(attached(model, hook_cfg(checkpoint)).teacher)
    model.to(memory_format=torch.channels_last)
    hook = attached(model, hook_cfg(checkpoint))
    maps = []
    hook.teacher.backbone.stages[2].register_forward_hook(
        lambda module, args, output: maps.append(output))
    model(**batch())
    assert maps[0].is_contiguous(memory_format=torch.channels_last)


def test_compiled_training_is_the_same(tmp_path):
    teacher = dict(type='ThreeConvs', width=6)
    taps = dict(q='q', k='k', v='v', num_heads=2)
    hook = hook_cfg(
        save(teacher, tmp_path / 'teacher.pth'), teacher=teacher,
        student_taps=taps, teacher_taps=taps, interval=2)
    found = []
    for compiled in (False, dict(backend='eager')):
        counters.clear()
        runner = make_runner(
            tmp_path / str(bool(compiled)), [hook],
            model=dict(type='ThreeConvs'), compile=compiled)
        runner.train()
        assert bool(counters['stats']) == bool(compiled)
        found.append((history(runner), runner.model.state_dict()))
    assert found[0][0] == found[1][0] and len(found[0][0]) == 1
    for key, expected in found[0][1].items():
        assert torch.equal(found[1][1][key], expected), key


def test_two_teachers_add_up(tmp_path, checkpoint):
    other = save(TEACHER, tmp_path / 'other.pth', seed=2)

    def loss(*checkpoints: str) -> torch.Tensor:
        torch.manual_seed(0)
        model = MODELS.build(STUDENT)
        for path in checkpoints:
            attached(model, hook_cfg(path))
        return model(**batch())['loss_fgd']

    assert loss(checkpoint) != loss(other)
    assert loss(checkpoint, other) == loss(other) + loss(checkpoint)


def _distributed(rank: int, folder: str, checkpoint: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank,
        world_size=2)
    torch.manual_seed(0)
    model = MMDistributedDataParallel(MODELS.build(STUDENT))
    hook = attached(model, hook_cfg(checkpoint))
    wrapper = build_optim_wrapper(
        model, dict(optimizer=dict(type='SGD', lr=0.1)))
    data = {k: v[2 * rank:2 * rank + 2]
            for k, v in batch().items() if k != 'mode'}
    gradients = {}
    wrapper.optimizer.register_step_pre_hook(lambda *_: gradients.update(
        {n: p.grad.clone() for n, p in model.module.named_parameters()}))
    logged = model.train_step(data, wrapper)
    hook.after_train(None)
    torch.save(
        dict(loss=logged['loss_fgd'].item(), gradients=gradients),
        f'{folder}/rank{rank}.pth')
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel(tmp_path, checkpoint):
    """The gradient is the mean of what each half of the batch gives."""
    expected, losses = {}, []
    for rank in range(2):
        torch.manual_seed(0)
        model = MODELS.build(STUDENT).train()
        attached(model, hook_cfg(checkpoint))
        half = {k: v[2 * rank:2 * rank + 2] if k != 'mode' else v
                for k, v in batch().items()}
        out = model(**half)
        losses.append(out['loss_fgd'].item())
        sum(out.values()).backward()
        for name, p in model.named_parameters():
            expected[name] = expected.get(name, 0) + p.grad / 2
    torch.multiprocessing.start_processes(
        _distributed, (str(tmp_path), checkpoint), nprocs=2,
        start_method='fork')  # imports are not repeated
    for rank in range(2):
        found = torch.load(tmp_path / f'rank{rank}.pth')
        assert found['loss'] == losses[rank]
        assert found['gradients'].keys() == expected.keys()
        for name, gradient in found['gradients'].items():
            # the order of two additions; float32 rounding
            torch.testing.assert_close(
                gradient, expected[name], rtol=1e-4, atol=1e-6)


# --- logits ----------------------------------------------------------------


@pytest.mark.parametrize('logit_loss, target', [
    (dict(type='mmqsdt.LogitDistillLoss'), 'soft'),
    (dict(type='mmqsdt.LogitDistillLoss', kind='hard'), 'hard'),
    (dict(type='mmpretrain.CrossEntropyLoss', use_soft=True), 'soft'),
    (dict(type='mmpretrain.CrossEntropyLoss'), 'hard'),
])
def test_logits_are_distilled(logit_loss, target, checkpoint):
    if 'mmpretrain' in logit_loss['type']:
        pytest.importorskip('mmpretrain.models')
    model = MODELS.build(STUDENT).eval()  # the same logits twice
    hook = attached(model, hook_cfg(checkpoint, logit_loss=logit_loss))
    losses = model(**batch())
    student = model(batch()['inputs'])
    teacher = hook.teacher(batch()['inputs'])
    cross_entropy = nn.functional.cross_entropy
    expected = cross_entropy(student, teacher.argmax(1))
    if target == 'soft':
        expected = cross_entropy(student, teacher.softmax(1))
        if 'mmqsdt' in logit_loss['type']:  # KL: less the teacher's entropy
            expected = expected - cross_entropy(teacher, teacher.softmax(1))
    torch.testing.assert_close(losses['loss_logit'], expected)
    assert losses['loss_fgd'] > 0


# --- teachers of other kinds, and the student's start ----------------------


def test_a_backbone_alone_teaches_from_the_checkpoint_of_a_model(checkpoint):
    whole = MODELS.build(STUDENT).eval()
    alone = MODELS.build(STUDENT).eval()
    alone.load_state_dict(whole.state_dict())
    attached(whole, hook_cfg(checkpoint))
    attached(alone, hook_cfg(checkpoint, teacher=dict(
        type='mmqsdt.QSDTransformer', arch=ARCH, **ANN)))
    assert whole(**batch())['loss_fgd'] == alone(**batch())['loss_fgd']


def test_init_cfg_of_the_teacher_serves_as_checkpoint(checkpoint):
    model = MODELS.build(STUDENT)
    hook = attached(model, hook_cfg(None, teacher=dict(
        type='mmqsdt.QSDTransformer', arch=ARCH, init_cfg=dict(
            type='Pretrained', checkpoint=checkpoint), **ANN)))
    assert not any(m.training for m in hook.teacher.modules())
    expected = load_state_dict(checkpoint)
    for key, value in hook.teacher.state_dict().items():
        assert torch.equal(value, expected[f'backbone.{key}'])


def test_packed_weights_serve_as_checkpoint(tmp_path):
    """Of a teacher with more bits, say."""
    cfg = dict(STUDENT, weight_bits=8)
    teacher = MODELS.build(cfg).eval()
    pack(teacher, str(tmp_path / 'teacher.safetensors'), 'no config')
    model = MODELS.build(STUDENT)
    hook = attached(model, hook_cfg(
        str(tmp_path / 'teacher.safetensors'), teacher=cfg))
    images = batch()['inputs']
    assert torch.equal(hook.teacher(images), teacher(images))


def test_student_starts_from_the_weights_of_the_teacher(checkpoint):
    """Float weights load; every step size is derived from them."""
    model = QSDTransformer(ARCH, init_cfg=dict(
        type='Pretrained', checkpoint=checkpoint))
    model.init_weights()
    expected = load_state_dict(checkpoint)
    steps = 0
    for key, value in model.state_dict().items():
        if not key.endswith('step_size'):
            assert torch.equal(value, expected[f'backbone.{key}']), key
            continue
        steps += 1
        weight = expected[f'backbone.{key[:-9]}weight']
        start = 2 * weight.abs().mean() / 7**0.5
        torch.testing.assert_close(value, start.expand_as(value))
    assert steps > 20


def test_init_cfg_of_a_whole_student_loads_its_head_too(tmp_path):
    models = pytest.importorskip('mmpretrain.models')
    teacher, student = (
        Config.fromfile(ROOT / f'cls/{name}.py').model
        for name in ('qsdt-ann_digits', 'qsdt_digits'))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        path = save(teacher, tmp_path / 'teacher.pth')
        student.init_cfg = dict(type='Pretrained', checkpoint=path)
        model = models.build_classifier(student)
        model.init_weights()
    expected = load_state_dict(path)
    for key, value in model.state_dict().items():
        if key.endswith('step_size'):
            weight = expected[f'{key[:-9]}weight']
            start = 2 * weight.abs().mean() / 7**0.5
            torch.testing.assert_close(value, start.expand_as(value))
        elif not key.endswith('log_threshold'):  # starts from a batch
            assert torch.equal(value, expected[key]), key
    assert model.head.fc.step_size.any()


# --- bad input: one clear error when training starts -----------------------


def test_a_teacher_that_diverged_is_refused(checkpoint, tmp_path):
    state = load_state_dict(checkpoint)
    name = next(k for k in state if k.endswith('conv.weight'))
    state[name][0] = float('nan')
    torch.save(dict(state_dict=state), tmp_path / 'diverged.pth')
    with pytest.raises(ValueError, match=f'diverged.pth: .*{name}'):
        attached(MODELS.build(STUDENT),
                 hook_cfg(str(tmp_path / 'diverged.pth')))


@pytest.mark.parametrize('change, error, message', [
    (dict(teacher=STUDENT), ValueError, 'teacher is the student'),
    (dict(teacher=dict(type='mmqsdt.QSDTransformer', arch=ARCH)), ValueError,
     'teacher is the student'),
    (dict(teacher='nowhere.py'), FileNotFoundError, 'teacher: no config at'),
    (dict(teacher=dict(arch='tiny')), TypeError, 'dict of a model'),
    (dict(checkpoint='nowhere.pth'), FileNotFoundError,
     'teacher: no checkpoint at nowhere.pth; it is trained before'),
    (dict(checkpoint=None), ValueError, 'teacher has no weights'),
    (dict(teacher=dict(TEACHER, arch=dict(ARCH, depths=(2, 1)))), ValueError,
     'teacher has 3 attention layers, the student 2'),
    (dict(teacher=dict(TEACHER, out_indices=(2, ))), ValueError,
     'teacher runs no attention layer'),
    (dict(student_taps=dict(q='backbone.*.nothing')), ValueError,
     r"q='backbone.\*.nothing' of student_taps matches no module"),
    (dict(teacher_taps=dict(q='backbone.*.nothing')), ValueError,
     'of teacher_taps matches no module'),
    (dict(teacher_taps=dict(q='*.attn.q_neuron')), ValueError,
     r"teacher_taps have no \['k', 'v'\]"),
    (dict(loss=dict(type='mmqsdt.FGDLoss', layer_weights=[1.])), ValueError,
     '1 layer_weights for 2 layers'),
])
def test_bad_input_is_refused_before_training(change, error, message,
                                              checkpoint, tmp_path):
    cfg = hook_cfg(checkpoint, **change)
    if isinstance(cfg['teacher'], dict) and cfg['checkpoint'] == checkpoint \
            and 'type' in cfg['teacher']:
        cfg['checkpoint'] = save(cfg['teacher'], tmp_path / 'own.pth')
    model = MODELS.build(STUDENT)
    with pytest.raises(error, match=message):
        attached(model, cfg)
    assert not any(m._forward_hooks for m in model.modules())


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, checkpoint):
    model = MODELS.build(STUDENT)

    def refused(message: str, state_dict: dict) -> None:
        path = tmp_path / 'other.pth'
        torch.save(dict(state_dict=state_dict), path)
        with pytest.raises(ValueError, match=message):
            attached(model, hook_cfg(str(path)))

    state_dict = load_state_dict(checkpoint)
    refused('no key matches; expected', nn.Linear(2, 2).state_dict())
    shorter = dict(state_dict)
    del shorter['head.weight']
    refused('1 of .* keys are missing, e.g. head.weight', shorter)
    refused('head.weight is .* in the file',
            dict(state_dict, **{'head.weight': torch.zeros(9, 9)}))
    refused('1 of .* values of head.bias are not finite',
            dict(state_dict, **{
                'head.bias': torch.tensor([0., 0., 0., float('nan')])}))


def test_an_init_cfg_that_does_not_fit_is_refused(tmp_path):
    """mmengine itself would only warn."""
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / 'other.pth')
    teacher = dict(TEACHER, init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'other.pth')))
    with pytest.raises(ValueError, match='no key matches'):
        attached(MODELS.build(STUDENT), hook_cfg(None, teacher=teacher))


def test_a_student_that_could_not_learn_is_refused(checkpoint):
    model = MODELS.build(dict(STUDENT, frozen_stages=4)).train()
    attached(model, hook_cfg(checkpoint, start=1000))
    with pytest.raises(ValueError, match='nothing would learn'):
        model(**batch())
    model = MODELS.build(dict(STUDENT, frozen_stages=3)).train()
    attached(model, hook_cfg(checkpoint))
    model(**batch())['loss_fgd'].backward()  # stage 4 learns


@pytest.mark.parametrize('teacher, more, message', [
    (dict(TEACHER, stage4_stride=2), dict(),
     'layer 1 of the teacher sees a grid of 2x2 .* 4x4'),
    (dict(TEACHER, num_classes=7), dict(
        logit_loss=dict(type='mmqsdt.LogitDistillLoss')),
     'the teacher has 7, the student 4'),
])
def test_other_grids_and_classes_are_refused_in_the_first_iteration(
        teacher, more, message, tmp_path):
    """Even if the loss starts much later."""
    path = save(teacher, tmp_path / 'teacher.pth')
    runner = make_runner(tmp_path, [
        hook_cfg(path, teacher=teacher, start=1000, **more)], iterations=1)
    with pytest.raises(ValueError, match=message):
        runner.train()


def test_other_grids_are_resampled_on_request(tmp_path):
    teacher = dict(TEACHER, stage4_stride=2)
    path = save(teacher, tmp_path / 'teacher.pth')
    model = MODELS.build(STUDENT)
    attached(model, hook_cfg(path, teacher=teacher, loss=dict(
        type='mmqsdt.FGDLoss', resample=True)))
    assert 0 < model(**batch())['loss_fgd'] < 2**0.5


def test_images_normalised_in_another_way_are_refused(checkpoint):
    from mmengine.model import ImgDataPreprocessor

    from mmqsdt.distill.teacher import check_teacher
    student, teacher = MODELS.build(STUDENT), MODELS.build(TEACHER)
    student.data_preprocessor = ImgDataPreprocessor([1.] * 3, [2.] * 3)
    check_teacher(teacher, student)  # a teacher that does not say
    teacher.data_preprocessor = ImgDataPreprocessor([1.] * 3, [2.] * 3)
    check_teacher(teacher, student)
    teacher.data_preprocessor = ImgDataPreprocessor([0.] * 3, [2.] * 3)
    with pytest.raises(ValueError, match='normalized in another way'):
        check_teacher(teacher, student)


@pytest.mark.parametrize('schedule', [
    dict(start=-1), dict(interval=0), dict(start=5, end=5)])
def test_schedules_out_of_range_are_refused(schedule):
    with pytest.raises(ValueError, match='start < end'):
        FGDistillHook(TEACHER, **schedule)


# --- cost ------------------------------------------------------------------


def step_operations(model: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter:
        sum(model(**batch()).values()).backward()
    return counter.get_total_flops()


def test_a_step_costs_at_most_1_6_times_a_plain_one(checkpoint):
    """In multiplications of matrices and convolutions."""
    model = MODELS.build(STUDENT)
    plain = step_operations(model)
    attached(model, hook_cfg(checkpoint))
    assert plain < step_operations(model) <= 1.6 * plain
