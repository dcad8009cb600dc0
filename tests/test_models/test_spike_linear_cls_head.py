import pytest
import torch
from mmengine.registry import MODELS

import mmqsdt
from mmqsdt import IELIF

pytest.importorskip('mmpretrain')


def build(**kwargs):
    return MODELS.build(
        dict(
            type='mmqsdt.SpikeLinearClsHead',
            num_classes=5,
            in_channels=8,
            **kwargs))


def test_is_registered_and_an_attribute_of_the_package():
    assert type(build()) is mmqsdt.SpikeLinearClsHead
    assert set(build().state_dict()) == {
        'fc.weight', 'fc.bias', 'fc.step_size'
    }


def test_averages_then_spikes_then_classifies():
    head = build()
    maps = (torch.rand(2, 3, 4, 4), torch.randn(2, 8, 3, 5))
    spikes = IELIF()(maps[-1].mean((2, 3)))
    assert 0 < spikes.count_nonzero() < spikes.numel()
    assert torch.equal(head.pre_logits(maps), spikes)
    weight = head.fc.integer_weight() * head.fc.step_size.view(-1, 1)
    expected = spikes @ weight.T + head.fc.bias
    # 1e-6: the matrix product may sum in another order.
    torch.testing.assert_close(head(maps), expected, rtol=0, atol=1e-6)


def test_pooled_features_are_taken_as_they_are():
    head = build()
    x = torch.randn(2, 8)
    assert torch.equal(head((x, )), head((x.view(2, 8, 1, 1), )))


def test_ann_counterpart_is_a_float_linear_layer():
    head = build(weight_bits=None, neuron=dict(type='ReLU'))
    assert set(head.state_dict()) == {'fc.weight', 'fc.bias'}
    x = torch.randn(2, 8)
    expected = torch.nn.functional.linear(x.relu(), head.fc.weight,
                                          head.fc.bias)
    assert torch.equal(head((x, )), expected)


@pytest.mark.parametrize('bits', [2, 8])
def test_weight_bits_bound_the_codes(bits):
    head = build(weight_bits=bits)
    with torch.no_grad():
        head.fc.step_size.fill_(0.01)
        head.fc.weight[0, :2] = torch.tensor([-9., 9.])
    codes = head.fc.integer_weight()
    assert codes[0, 0] == -2**(bits - 1)
    assert codes[0, 1] == 2**(bits - 1) - 1


def test_initialisation_as_published_and_step_sizes_that_fit_it():
    head = MODELS.build(
        dict(
            type='mmqsdt.SpikeLinearClsHead',
            num_classes=100,
            in_channels=200))
    head.init_weights()
    weight, bias = head.fc.weight.detach(), head.fc.bias.detach()
    assert bias.count_nonzero() == 0
    # 5%: 20,000 draws estimate a spread to half a per cent.
    assert weight.std() == pytest.approx(0.02, rel=0.05)
    head((torch.rand(1, 200), ))  # first use settles the step sizes
    expected = (2 * weight.abs().mean() / 7**0.5).expand(100)
    assert torch.equal(head.fc.step_size.detach(), expected)


def test_loss_and_prediction_within_mmpretrain():
    from mmpretrain.structures import DataSample
    head = build(
        loss=dict(type='mmpretrain.CrossEntropyLoss'), cal_acc=False)
    maps = (torch.rand(3, 8, 2, 2, requires_grad=True), )
    samples = [DataSample().set_gt_label(i) for i in range(3)]
    loss = head.loss(maps, samples)['loss']
    expected = torch.nn.functional.cross_entropy(
        head(maps), torch.arange(3))
    assert torch.equal(loss, expected)
    loss.backward()
    for tensor in (maps[0], *head.parameters()):
        assert tensor.grad.abs().sum() > 0
    scores = torch.stack([s.pred_score for s in head.predict(maps, samples)])
    assert torch.equal(scores, head(maps).softmax(1))


def test_a_learned_threshold_does_not_start_from_means_of_random_maps():
    head = mmqsdt.SpikeLinearClsHead(
        3, 8, neuron=dict(type='mmqsdt.IELIF', threshold='learned'))
    before = head.neuron.threshold
    head.train()((0.01 * torch.randn(2, 8, 4, 4), ))
    assert head.neuron.threshold == before > 0.7
