import re

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import mmqsdt
from mmqsdt.deploy import to_integer, to_spikes
from mmqsdt.layers import IELIF, LSQConv2d
from mmqsdt.models import HEAD_NEURON

pytest.importorskip('mmseg')

SEGMENTATION = dict(HEAD_NEURON, amplitude=0.25)
RELU = dict(type='ReLU')
# The golden outputs came from another machine, whose convs may sum in
# another order; float32 sums of a few hundred terms of size 1.
SUM_ORDER = dict(rtol=1e-5, atol=1e-5)


def fpn_head(**kwargs):
    return MODELS.build(
        dict(
            dict(
                type='mmqsdt.SpikeFPNHead',
                in_channels=[16] * 4,
                in_index=[0, 1, 2, 3],
                feature_strides=[4, 8, 16, 32],
                channels=16,
                num_classes=6,
                norm_cfg=dict(type='BN')), **kwargs))


def maps(scale=2.):
    return [scale * torch.randn(2, 16, 32 >> i, 48 >> i) for i in range(4)]


def renamed_published(state):
    """Published entries under our names."""
    ours = {}
    for key, value in state.items():
        key = re.sub(r'^(scale_heads\.\d\.\d)\.1\.', r'\1.conv.', key)
        key = re.sub(r'^(scale_heads\.\d\.\d)\.2\.', r'\1.norm.', key)
        ours[key.replace('conv_seg.', 'conv_seg.conv.')] = value
    return ours


@pytest.mark.parametrize('phase', ['train', 'eval'])
def test_equals_the_published_head(golden, phase):
    head = fpn_head().train(phase == 'train')
    head.load_state_dict(
        renamed_published(golden('heads', 'seg_head/state/')))
    out = head([golden('heads', f'seg_head/in{i}')[''] for i in range(4)])
    expected = golden('heads', f'seg_head/{phase}_out0')['']
    torch.testing.assert_close(out, expected, **SUM_ORDER)


def test_strides_decide_alone_by_their_ratio(golden):
    # The published head declares strides 4..32 for maps at 2..16.
    state = renamed_published(golden('heads', 'seg_head/state/'))
    declared, real = fpn_head(), fpn_head(feature_strides=[2, 4, 8, 16])
    declared.load_state_dict(state)
    real.load_state_dict(state)
    inputs = maps()
    assert torch.equal(declared(inputs), real(inputs))


@pytest.mark.parametrize('neuron', [SEGMENTATION, RELU], ids=['ielif', 'relu'])
@pytest.mark.parametrize('bits', [None, 4])
def test_every_weight_and_input_gets_a_gradient(bits, neuron):
    head = fpn_head(neuron=neuron, weight_bits=bits)
    head.init_weights()
    inputs = [x.requires_grad_() for x in maps()]
    head(inputs).square().mean().backward()
    for key, p in [*head.named_parameters(), *enumerate(inputs)]:
        assert p.grad is not None and p.grad.abs().sum() > 0, key


def test_without_norm_training_and_evaluation_are_the_same_function():
    head = fpn_head(norm_cfg=None)
    inputs = maps()
    assert torch.equal(head.train()(inputs), head.eval()(inputs))


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_bits_quantise_every_weight(bits):
    convs = [
        m for m in fpn_head(weight_bits=bits).modules()
        if isinstance(m, nn.Conv2d)
    ]
    assert len(convs) == 1 + 1 + 2 + 3 + 1
    assert all(isinstance(m, LSQConv2d) and m.bits == bits for m in convs)


def test_every_conv_reads_spikes_of_the_configured_neuron():
    head = fpn_head(
        neuron=dict(
            type='mmqsdt.IELIF', levels=3, threshold=.5, amplitude=2.))
    convs = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    seen = []
    for conv in convs:
        conv.register_forward_hook(
            lambda module, args, out: seen.append(args[0].unique().tolist()))
    head(maps())
    assert len(seen) == len(convs)
    assert all(set(values) <= {0., 2., 4., 6.} for values in seen)
    assert sum(isinstance(m, IELIF) for m in head.modules()) == len(convs)
    assert not any(isinstance(m, nn.ReLU) for m in head.modules())


def test_relu_gives_the_chain_of_the_stock_head_cut_elsewhere():
    # Stock: conv, norm, ReLU. Ours: ReLU, conv, norm. With one conv a scale
    # and inputs that are not negative, only the ReLU behind differs.
    strides = dict(feature_strides=[4, 4], in_channels=[16] * 2)
    ours = fpn_head(in_index=[0, 1], neuron=RELU, **strides).eval()
    stock = fpn_head(
        type='mmseg.FPNHead', in_index=[0, 1], dropout_ratio=0.,
        **strides).eval()
    state = {
        k.replace('.bn.', '.norm.').replace('conv_seg.', 'conv_seg.conv.'): v
        for k, v in stock.state_dict().items()
    }
    ours.load_state_dict(state)
    for scale_head in stock.scale_heads:
        scale_head[0].with_activation = False
    ours.conv_seg.neuron = nn.Identity()
    inputs = [torch.rand(2, 16, 8, 8) for _ in range(2)]
    assert torch.equal(ours(inputs), stock(inputs))


@pytest.mark.parametrize('form', [to_integer, to_spikes])
def test_integer_and_spike_form_are_the_same_function(form):
    head = fpn_head(weight_bits=4).eval()
    inputs = maps()
    # The scale of the norm is applied in another order.
    torch.testing.assert_close(
        form(head)(inputs), head(inputs), rtol=1e-5, atol=1e-5)


def test_dropout_is_off_as_published_but_can_be_had():
    assert fpn_head().dropout is None
    assert fpn_head(dropout_ratio=.2).dropout.p == .2


def test_other_convs_are_refused():
    with pytest.raises(ValueError, match='expected a plain conv'):
        fpn_head(conv_cfg=dict(type='mmqsdt.LSQConv2d', bits=4))


def test_it_is_mmsegs_own_with_losses_untouched():
    stock = MODELS.get('mmseg.FPNHead')
    assert issubclass(mmqsdt.SpikeFPNHead, stock)
    for method in ('forward', 'cls_seg', 'loss', 'loss_by_feat', 'predict',
                   'predict_by_feat'):
        assert getattr(mmqsdt.SpikeFPNHead, method) is getattr(stock, method)
