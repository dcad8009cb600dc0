"""NeuroBench as the referee: it counts what we count, layer by layer.

``pip install neurobench``; without it this is skipped.
"""

import pytest
import torch
from test_energy import as_if_trained, backbone
from torch import nn

from mmqsdt.deploy import to_spikes
from mmqsdt.deploy.fold import FoldedConv, FoldedLinear
from mmqsdt.layers import ConvUnit
from mmqsdt.measure.energy import measure_energy
from mmqsdt.models.spike_units import SpikeLinear

macs = pytest.importorskip(
    'neurobench.metrics.utils.layers',
    reason='the referee neurobench is not installed').single_layer_MACs
IE_LIF = dict(type='mmqsdt.IELIF')


class Classifier(nn.Module):
    """A backbone and a spiking linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.fc = backbone(), SpikeLinear(16, 5, IE_LIF, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


def plain(layer: FoldedConv | FoldedLinear, weight: torch.Tensor
          ) -> nn.Module:
    """The layer as one of PyTorch, which is all that NeuroBench takes."""
    if isinstance(layer, FoldedLinear):
        new = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    else:
        new = nn.Conv2d(
            weight.shape[1] * layer.groups, weight.shape[0],
            weight.shape[2:], layer.stride, layer.padding, layer.dilation,
            layer.groups, bias=False)
    new.weight.data = weight.double()
    return new


@pytest.mark.parametrize('encoding', ['thermometer', 'bitwise'])
def test_the_referee_counts_what_we_count(encoding):
    torch.manual_seed(0)
    model = as_if_trained(Classifier())
    x = torch.randn(1, 3, 32, 32)
    report = measure_energy(model, [x], skip_zeros=True)
    rows = {layer.name: layer for layer in report.layers}
    spikes, checked = to_spikes(model, encoding), set()
    for name, module in spikes.named_modules():
        if isinstance(module, (FoldedConv, FoldedLinear)):

            def check(layer, args, output, row=rows[name]):
                ones = plain(layer, torch.ones_like(layer.weight))
                codes = plain(layer, layer.weight)
                slots = layer.slots(args[0]).double()  # (slots, N, ...)
                if row.reads == 'spike':
                    slots = slots.flatten(0, 1)
                    count, binary = macs(slots, ones)
                    assert binary and count == row.counted[encoding]['ac']
                    assert macs(slots, codes)[0] == row.nonzero[encoding]
                else:
                    assert macs(slots[0], ones, total=True)[0] == row.macs
                    assert macs(slots[0], codes)[0] == row.nonzero['ann']
                checked.add(row.name)

            module.register_forward_hook(check)
    spikes(x)
    convs = {row.name for row in report.layers if row.kind != 'q (k^T v)'}
    assert checked == convs and len(checked) > 40


@pytest.mark.parametrize('kernel', [3, 7])
def test_the_referee_counts_no_padding(kernel):
    x = torch.rand(1, 2, 5, 7)
    layer, = measure_energy(
        nn.Sequential(ConvUnit(2, 3, kernel, IE_LIF)).eval(), [x]).layers
    same = nn.Conv2d(2, 3, kernel, padding=kernel // 2, bias=False)
    assert macs(x, same, total=True)[0] == layer.macs < layer.padded_macs
