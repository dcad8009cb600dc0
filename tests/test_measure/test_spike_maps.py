"""Maps are what the neurons emitted; slots are those of the spike form."""

import pytest
import torch
from torch import nn

from mmqsdt import IELIF, QSDTransformer
from mmqsdt.deploy import to_spikes
from mmqsdt.deploy.spikes import SlotNeuron, split_slots
from mmqsdt.measure.spike_maps import (
    SpikeMap,
    choose_maps,
    recorded_spike_maps,
    to_dict,
)
from mmqsdt.measure.spikes_plot import plot_rates, plot_slots

ARCH = dict(embed_dims=(8, 8, 16, 16), depths=(2, 1), num_heads=2)
NEURONS = [(dict(type='mmqsdt.IELIF'), 4, 0.25),
           (dict(type='mmqsdt.IELIF', levels=6, amplitude=0.1), 6, 0.1),
           (dict(type='mmqsdt.LIF', threshold=0.3), 1, 1.)]


def trained(**kwargs) -> QSDTransformer:
    """A backbone whose norms have seen data: forms are made in eval mode."""
    model = QSDTransformer(ARCH, **kwargs)
    model(torch.rand(4, 3, 32, 32))
    return model.eval()


def run(model, picture):
    with torch.no_grad(), recorded_spike_maps(model) as maps:
        model(picture)
    return maps


@pytest.mark.parametrize('neuron, levels, amplitude', NEURONS)
@pytest.mark.parametrize('time_steps', [1, 3])
def test_maps_are_the_counts_of_the_neurons(neuron, levels, amplitude,
                                            time_steps):
    model = trained(neuron=neuron, time_steps=time_steps)
    path = 'stages.3.blocks.1.attn.k_neuron'
    seen = []
    handle = model.get_submodule(path).register_forward_hook(
        lambda m, a, out: seen.append(out))
    maps = run(model, torch.rand(1, 3, 32, 48))
    handle.remove()
    m = next(m for m in maps if m.layer == path)
    counts = (seen[0] / amplitude).round()
    assert torch.equal(m.counts.float(), counts)
    assert m.counts.shape == (time_steps, 16, 2, 3) and m.over_picture
    assert m.levels == levels and m.counts.max() <= levels
    # the map is the mean count over D, by position; the rate is their mean
    expected = counts.double().mean((0, 1)) / levels
    assert torch.allclose(m.rate_map(), expected, rtol=1e-12, atol=0)
    assert m.rate == pytest.approx(float(expected.mean()), rel=1e-12)
    assert m.share_silent == pytest.approx(
        float((counts == 0).double().mean()), rel=1e-12)
    shares = torch.stack([(counts == c).double().mean((0, 2, 3))
                          for c in range(levels + 1)])
    entropies = -torch.xlogy(shares, shares).sum(0)  # of each channel, nats
    assert entropies[m.richest_channel()] == pytest.approx(
        float(entropies.max()), rel=1e-12)
    assert not any(x._forward_hooks or x._forward_pre_hooks
                   for x in model.modules())


@pytest.mark.parametrize('neuron, levels, amplitude', NEURONS)
@pytest.mark.parametrize('encoding', ['thermometer', 'bitwise'])
def test_slots_are_those_of_the_spike_form(neuron, levels, amplitude,
                                           encoding):
    model = trained(neuron=neuron, time_steps=2)
    picture = torch.rand(1, 3, 32, 32)
    maps = run(model, picture)
    spikes = to_spikes(model, encoding)
    seen = {}
    for name, module in spikes.named_modules():
        if isinstance(module, SlotNeuron):
            module.register_forward_hook(
                lambda m, a, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        spikes(picture)
    assert len(maps) == len(seen) > 20
    for m in maps:
        slots = m.slots(encoding)
        weights = torch.tensor(m.slot_weights(encoding)).view(-1, 1, 1, 1, 1)
        assert len(slots) == dict(thermometer=levels,
                                  bitwise=levels.bit_length())[encoding]
        assert set(slots.unique().tolist()) <= {0, 1}
        assert torch.equal((slots * weights).sum(0), m.counts)
        # Weights of 4 bits times counts: both forms compute on equal values
        # but for float rounding, which no threshold is close to here.
        assert torch.equal(
            slots.float(), split_slots(seen[m.layer], len(slots)))


class Heads(nn.Module):
    """A neuron that runs on two maps, one on regions, one on a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Identity()
        self.rpn_head = nn.ModuleDict(dict(neuron=IELIF()))
        self.roi_head = nn.ModuleDict(dict(neuron=IELIF()))
        self.head = nn.ModuleDict(dict(neuron=IELIF()))

    def forward(self, x):
        x = self.backbone(x)
        self.rpn_head['neuron'](x)
        self.rpn_head['neuron'](x[..., ::2, ::2])
        self.roi_head['neuron'](x[..., :3, :3])
        self.roi_head['neuron'](x[:0])
        self.head['neuron'](x.mean((2, 3)))


def test_heads():
    model = Heads()
    run(model, torch.rand(1, 2, 8, 8))
    with recorded_spike_maps(model) as maps:
        model(torch.rand(1, 2, 4, 4))
        model(torch.rand(1, 2, 8, 8))  # the last run counts
    assert [(m.layer, tuple(m.counts.shape), m.over_picture)
            for m in maps] == [
        ('rpn_head.neuron', (1, 2, 8, 8), True),
        ('rpn_head.neuron (2)', (1, 2, 4, 4), True),
        ('roi_head.neuron', (1, 2, 3, 3), False),
        ('roi_head.neuron (2)', (0, 2, 8, 8), False),
        ('head.neuron', (1, 2), False)]
    assert maps[3].rate == 0 and maps[3].share_silent == 1
    content = to_dict(maps)['layers']
    assert content[0]['firing_rate'] == maps[0].rate
    assert content[4]['shape'] == [1, 2]


def test_maps_are_chosen():
    maps = run(trained(), torch.rand(1, 3, 32, 32))
    assert [m.layer for m in choose_maps(maps)] == [
        'stages.0.blocks.0.sep_conv.expand.neuron',
        *(f'stages.{i}.downsample.neuron' for i in range(1, 5))]
    chosen = choose_maps(maps, ['*4*.k_neuron', 'stages.3.*.[qk]_neuron'])
    assert [m.layer for m in chosen] == [
        'stages.4.blocks.0.attn.k_neuron', *(
            f'stages.3.blocks.{i}.attn.{x}_neuron' for i in (0, 1)
            for x in 'qk')]
    with pytest.raises(ValueError, match="called 'nothing'; there is"):
        choose_maps(maps, ['nothing'])
    maps[0].over_picture = False
    with pytest.raises(ValueError, match='no neuron over the picture'):
        choose_maps(maps, [maps[0].layer])


def test_activations_are_refused():
    model = QSDTransformer(
        ARCH, weight_bits=None, neuron=dict(type='ReLU'))
    with pytest.raises(ValueError, match='not a spiking model'):
        run(model, torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize('neuron, time_steps, encoding', [
    (NEURONS[0][0], 1, 'thermometer'), (NEURONS[1][0], 2, 'bitwise'),
    (NEURONS[2][0], 3, 'thermometer')])
def test_pictures(neuron, time_steps, encoding, tmp_path):
    """Every slot, count and rate has its panel."""
    maps = run(trained(neuron=neuron, time_steps=time_steps),
               torch.rand(1, 3, 32, 48))[-9:]
    picture = torch.randint(0, 256, (32, 48, 3)).numpy()
    chosen = choose_maps(maps, ['*.q_neuron', '*.downsample.neuron'])
    slots = len(chosen[0].slot_weights(encoding)) * time_steps
    for files in (
            plot_slots(picture, chosen, encoding, 'x', tmp_path / 'slots'),
            plot_rates(picture, maps, 'x', tmp_path / 'rates')):
        assert [f.suffix for f in files] == ['.png', '.svg']
        assert all(f.stat().st_size > 10_000 for f in files)
    text = (tmp_path / 'slots.svg').read_text()
    assert text.count('<image') >= len(chosen) * (2 + slots)
    assert (tmp_path / 'rates.svg').read_text().count('<image') > len(maps)


def test_a_silent_network_can_be_drawn(tmp_path):
    silent = SpikeMap('neck.neuron', 4,
                      torch.zeros(1, 2, 4, 4, dtype=torch.uint8), True)
    picture = torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()
    plot_slots(picture, [silent], 'thermometer', 'x', tmp_path / 'slots')
    plot_rates(picture, [silent], 'x', tmp_path / 'rates')
