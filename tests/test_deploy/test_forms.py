"""Float, integer and spike form are one function, to the last spike."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS
from networks import CONVERSIONS, assert_equal_forms
from shared import run_tool
from torch import nn

from mmqsdt.checkpoints.convert import convert_reference_checkpoint
from mmqsdt.cli.common import use_double
from mmqsdt.deploy import (
    FORMS,
    describe,
    to_form,
    to_integer,
    to_spikes,
)
from mmqsdt.deploy.fold import FoldedLayer
from mmqsdt.deploy.spikes import SlotNeuron, SlotProduct
from mmqsdt.layers import (
    IELIF,
    ConvUnit,
    LSQConv2d,
    SepConv,
    SpikeAttention,
)

ROOT = Path(__file__).parents[2]
NEURONS = dict(
    lif=dict(type='mmqsdt.LIF'),
    binary=dict(type='mmqsdt.IELIF', levels=1),
    three=dict(type='mmqsdt.IELIF', levels=3, rounding='half_even'),
    eight=dict(type='mmqsdt.IELIF', levels=8),
    learned=dict(type='mmqsdt.IELIF', threshold='learned'),
    learned_even=dict(
        type='mmqsdt.IELIF', levels=15, threshold='learned', amplitude=.5,
        rounding='half_even'),
    uneven=dict(type='mmqsdt.IELIF', threshold=.35, amplitude=.3, leak=.5))


@pytest.mark.parametrize('time_steps', [1, 2])
@pytest.mark.parametrize('weight_bits', [1, 'ternary', 2, 3, 4, 8])
def test_classifiers(weight_bits, time_steps, conversion, build, inputs):
    convert, dtype = conversion
    model = build('cls', weight_bits, time_steps=time_steps).to(dtype)
    assert_equal_forms(model, convert(model), inputs('cls', dtype))


@pytest.mark.parametrize('weight_bits, time_steps', [(2, 2), (4, 1),
                                                     ('ternary', 1)])
@pytest.mark.parametrize('task', ['det', 'seg'])
def test_detectors_and_segmenters(task, weight_bits, time_steps, conversion,
                                  build, inputs):
    convert, dtype = conversion
    model = build(task, weight_bits, time_steps=time_steps).to(dtype)
    assert_equal_forms(model, convert(model), inputs(task, dtype))


@pytest.mark.parametrize('time_steps', [1, 2])
@pytest.mark.parametrize('neuron', NEURONS)
def test_neurons(neuron, time_steps, build, inputs, exact):
    model = build('cls', neuron=NEURONS[neuron], time_steps=time_steps)
    model = model.double()
    assert_equal_forms(model, exact(model), inputs('cls', torch.float64))


@pytest.mark.parametrize('options', [
    dict(weight_bits=None), dict(inner_neurons=True),
    dict(inner_neurons=True, time_steps=2)
], ids=str)
def test_float_weights_and_inner_neurons(options, build, inputs, exact):
    model = build('cls', **options).double()
    assert_equal_forms(model, exact(model), inputs('cls', torch.float64))


def test_the_golden_model(conversion, golden):
    pytest.importorskip('mmpretrain.models')
    vectors = golden('tiny_cls')
    meta = json.loads(vectors['meta_json'])
    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(
                type='mmqsdt.QSDTransformer',
                arch=dict(
                    embed_dims=meta['embed_dim'], depths=meta['depths'])),
            head=dict(
                type='mmqsdt.SpikeLinearClsHead',
                num_classes=10,
                in_channels=meta['embed_dim'][-1])))
    state = golden('tiny_cls', 'state/')
    model.load_state_dict(convert_reference_checkpoint(
        {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}))
    convert, dtype = conversion
    model = model.to(dtype).eval()
    x = vectors['input'].to(dtype)
    assert_equal_forms(model, convert(model), x)
    with torch.no_grad():
        logits = convert(model)(x)
    # Computed by the authors' code in float32.
    torch.testing.assert_close(
        logits.float(), vectors['logits'], rtol=1e-5, atol=1e-5)


def test_a_model_after_training_steps(build, inputs, exact):
    model = build('cls').train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(3):
        feats = model.extract_feat(inputs('cls')['inputs'])
        loss = model.head(feats).logsumexp(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model = model.double()
    assert_equal_forms(
        model.eval(), exact(model), inputs('cls', torch.float64))


def test_integer_and_spike_form_agree_to_the_last_bit(build, inputs):
    """Exact integers in float32 whatever the slots: no rounding differs."""
    model, x = build('cls', 8, time_steps=2), inputs('cls')
    with torch.no_grad():
        outs = [convert(model)(**x) for convert in CONVERSIONS.values()]
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


@pytest.mark.parametrize('options', [
    dict(time_steps=2),
    dict(inner_neurons=True, neuron=dict(type='mmqsdt.IELIF', levels=6))
], ids=['published, T = 2', 'inner neurons, D = 6'])
@pytest.mark.parametrize('task', ['cls', 'det', 'seg'])
@pytest.mark.parametrize('encoding', ['thermometer', 'bitwise'])
def test_spike_fed_layers_read_zeros_and_ones(task, encoding, options, build,
                                              inputs):
    model = build(task, **options)
    spikes = to_spikes(model, encoding)
    fed = [d.name for d in describe(model) if d.reads == 'spike']
    read = {}

    def record(module, args, name):
        values = torch.cat([x.flatten() for x in args]).unique().tolist()
        read[name] = read.get(name, set()) | set(values)

    for name, module in spikes.named_modules():
        if name in fed:
            assert isinstance(module, (FoldedLayer, SlotProduct)), name
            module.register_forward_pre_hook(partial(record, name=name))
    with torch.no_grad():
        spikes(**inputs(task))
    assert read.keys() == set(fed)
    assert all(values <= {0., 1.} for values in read.values())
    # Silent layers would prove nothing.
    assert sum(values == {0., 1.} for values in read.values()) > .9 * len(fed)


def test_every_neuron_emits_slots_or_counts(build):
    model = build('det')
    assert all(m.amplitude == 1 for m in to_integer(model).modules()
               if isinstance(m, IELIF))
    spikes = to_spikes(model)
    slots = [m.neuron for m in spikes.modules() if isinstance(m, SlotNeuron)]
    assert slots == [m for m in spikes.modules() if isinstance(m, IELIF)]


@pytest.mark.parametrize('task', ['cls', 'det', 'seg'])
def test_a_copy_of_the_same_class_and_forward(task, build, inputs, convert):
    model = build(task)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    other = convert(model)
    assert type(other) is type(model)
    assert model.training  # as it was
    assert not any(m.training for m in other.modules())
    assert not any(isinstance(m, LSQConv2d) for m in other.modules())
    assert not any(p.requires_grad for p in other.parameters())
    assert all(p.requires_grad for p in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    amplitudes = {m.amplitude for m in model.modules() if isinstance(m, IELIF)}
    assert amplitudes == {.25, .5}
    with torch.no_grad():
        assert other(**inputs(task)) is not None


def test_whole_predictions_of_a_detector(build, inputs, convert):
    model, data = build('det'), inputs('det')
    with torch.no_grad():
        mine = [s.pred_instances for s in model(**data)]
        theirs = [s.pred_instances for s in convert(model)(**data)]
    assert all(len(found) for found in mine)
    for a, b in zip(mine, theirs):
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.masks, b.masks)
        # Float32 rounding of boxes of up to 64 pixels.
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-5, atol=1e-4)


def test_predictions_in_float64_are_equal(build, inputs, exact,
                                          monkeypatch):
    """Boxes and pasted masks, as `tools/test.py --double` has them."""
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head
    model = build('det')
    monkeypatch.setattr(fcn_mask_head, '_do_paste_mask',
                        fcn_mask_head._do_paste_mask)  # restored afterwards
    use_double(model)
    data = dict(inputs('det', torch.float64), mode='predict')
    with torch.no_grad():
        mine = [s.pred_instances for s in model(**data)]
        theirs = [s.pred_instances for s in exact(model)(**data)]
    for a, b in zip(mine, theirs):
        assert len(a) and torch.equal(a.masks, b.masks)
        assert torch.equal(a.labels, b.labels)
        # Float64 rounding of boxes of up to 64 pixels.
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize('unit, channels', [
    (ConvUnit(6, 8, 3, dict(type='mmqsdt.IELIF'), bias=True, stride=2), 6),
    (SepConv(8, dict(type='mmqsdt.IELIF')), 8), (SpikeAttention(8, 2), 8)
], ids=lambda x: type(x).__name__)
def test_parts_of_a_model_convert_alone(unit, channels, exact):
    unit = unit.double().eval()
    x = torch.randn(2, channels, 16, 16, dtype=torch.float64)
    assert_equal_forms(unit, exact(unit), x)


def test_conversion_is_for_inference(build, convert):
    with pytest.raises(RuntimeError, match='train the float form'):
        convert(build('cls')).train()


def test_a_converted_model_is_refused(build, convert):
    with pytest.raises(ValueError, match='already'):
        to_integer(convert(build('cls')))


def test_a_model_without_neurons_is_refused(build, convert):
    model = build('cls', neuron=dict(type='ReLU'))
    with pytest.raises(ValueError, match='not a spiking model'):
        convert(model)


@pytest.mark.parametrize('encoding', ['count', 'rate'])
def test_unknown_encodings_are_refused(encoding, build):
    with pytest.raises(ValueError, match=r"'thermometer', 'bitwise'.*"
                       f'{encoding}'):
        to_spikes(build('cls'), encoding)


def test_what_cannot_be_folded_is_named(build, convert):
    model = build('cls')
    model.backbone.stages[1].downsample.conv.padding_mode = 'reflect'
    with pytest.raises(ValueError, match=r'stages\.1\.downsample\.conv: .*'
                       'padding_mode'):
        convert(model)


def test_units_may_share_a_neuron(exact):
    units = [ConvUnit(8, 8, k, dict(type='mmqsdt.IELIF')) for k in (1, 3)]
    units[1].neuron = units[0].neuron
    model = nn.Sequential(*units).double().eval()
    x = torch.randn(2, 8, 16, 16, dtype=torch.float64)
    assert_equal_forms(model, exact(model), x)


def test_a_unit_used_twice_stays_one(exact):
    unit = ConvUnit(8, 8, 1, dict(type='mmqsdt.IELIF'))
    model = nn.Sequential(unit, unit).double().eval()
    other = exact(model)
    assert other[0] is other[1]
    x = torch.randn(2, 8, 16, 16, dtype=torch.float64)
    assert_equal_forms(model, other, x)


def test_forms_by_name(build, inputs):
    model = build('cls')
    assert to_form(model, 'float') is model
    assert type(to_form(model, 'integer').head.neuron) is IELIF
    neuron = to_form(model, 'spikes', 'bitwise').head.neuron
    assert isinstance(neuron, SlotNeuron) and neuron.encoding == 'bitwise'
    with pytest.raises(ValueError, match='form must be one of'):
        to_form(model, 'analog')


# The tool.


CONFIG = ROOT / 'configs/cls/qsdt_digits.py'
SHORT = [
    '--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=8'
]


@pytest.fixture
def workplace(copy_digits, tmp_path, monkeypatch):
    """A folder with a few digits in it."""
    pytest.importorskip('mmpretrain.models')
    monkeypatch.chdir(tmp_path)
    return copy_digits(tmp_path)


def test_the_tool_gives_identical_scores_in_every_form(workplace, monkeypatch,
                                                       capsys):
    run_tool(monkeypatch, workplace, 'train.py', CONFIG, '--work-dir',
             'work', *SHORT)
    scores = {}
    for options in (*(['--inference', form] for form in FORMS),
                    ['--inference', 'spikes', '--encoding', 'bitwise']):
        capsys.readouterr()
        run_tool(monkeypatch, workplace, 'test.py', CONFIG, 'work',
                 '--work-dir', 'tested', *options, *SHORT)
        printed = capsys.readouterr().out
        assert f'inference:  {options[1]}' in printed
        written, = Path('tested').glob('*/*.json')
        scores[tuple(options)] = {
            k: repr(v) for k, v in json.loads(written.read_text()).items()
            if k.startswith('accuracy')
        }
        written.unlink()
    first, *others = scores.values()
    assert len(first) == 2 and all(other == first for other in others)


def test_the_tool_refuses_an_encoding_of_no_spikes(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match='--inference spikes'):
        run_tool(monkeypatch, tmp_path, 'test.py', CONFIG, 'none.pth',
                 '--encoding', 'bitwise')
