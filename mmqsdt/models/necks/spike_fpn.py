"""Spiking feature pyramid, for MMDetection and MMSegmentation alike."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F

from ...registry import MODELS
from ..spike_units import HEAD_NEURON, SpikeConv


@MODELS.register_module()
class SpikeFPN(BaseModule):
    r"""Feature pyramid network whose convs read spikes.

    .. math::

        L_i &= norm(conv_{1 \times 1}(neuron(x_i))) + up(L_{i+1}) \\
        P_i &= norm(conv_{3 \times 3}(neuron(L_i)))

    where up enlarges a map to the size of the finer level by nearest
    neighbors. Extra levels halve the last one, by picking every other pixel
    or by a stride-2 unit (neuron, conv, norm). Training and evaluation compute
    the same function. The backbone averages its maps over time, so the
    neurons here work at T = 1.

    Detection as published: no norm. Segmentation as published:
    ``norm_cfg=dict(type='BN')`` and a neuron of amplitude 0.25.
    ``neuron=dict(type='ReLU')`` is the ANN counterpart.

    Args:
        in_channels (Sequence[int]): Channels of each input map.
        out_channels (int): Channels of every output map.
        num_outs (int): Output maps.
        start_level (int): First input map used. Defaults to 0.
        end_level (int): Last input map used; -1 is the last of all. Extra
            levels need the last of all. Defaults to -1.
        add_extra_convs (bool | str): What extra levels read through convs:
            'on_input' (or True) the last input map, 'on_lateral' the last
            lateral map, 'on_output' the last output map. False picks pixels
            of the last output map. Defaults to False.
        neuron (dict): Config of the neurons. Defaults to IE-LIF with
            threshold and amplitude 1, rounding half to even, as published
            for detection.
        weight_bits (int, optional): Bits of the weights; None for float, as
            published. Defaults to None.
        norm_cfg (dict, optional): Config of the norm behind each conv;
            convs with a norm have no bias. Defaults to None.
        init_cfg (dict, optional): Defaults to Xavier uniform.

    Shape: a sequence of (B, in_channels[i], H_i, W_i) in, a tuple of
    num_outs maps (B, out_channels, H_j, W_j) out, real-valued.

    Raises:
        ValueError: For levels that do not fit.

    Source: FPN (arXiv 1612.03144) with the neurons of QSD-Transformer
    (arXiv 2501.13492).
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 out_channels: int,
                 num_outs: int,
                 start_level: int = 0,
                 end_level: int = -1,
                 add_extra_convs: bool | str = False,
                 neuron: dict = HEAD_NEURON,
                 weight_bits: int | None = None,
                 norm_cfg: dict | None = None,
                 init_cfg: dict | None = dict(
                     type='Xavier', layer='Conv2d',
                     distribution='uniform')) -> None:
        super().__init__(init_cfg)
        last = end_level % len(in_channels)
        levels = range(start_level, last + 1)
        extra_levels = num_outs - len(levels)
        if not levels or extra_levels < 0 or (
                extra_levels and last != len(in_channels) - 1):
            raise ValueError(
                f'num_outs={num_outs} does not fit levels {start_level}.. '
                f'{last} of {len(in_channels)} inputs: at least one level, '
                'no more than num_outs, extra ones behind the last input')
        if add_extra_convs is True:
            add_extra_convs = 'on_input'
        if add_extra_convs not in (False, 'on_input', 'on_lateral',
                                   'on_output'):
            raise ValueError("add_extra_convs must be 'on_input', "
                             "'on_lateral', 'on_output' or a bool, got "
                             f'{add_extra_convs!r}')
        self.in_channels = list(in_channels)
        self.out_channels = out_channels
        self.num_outs = num_outs
        self.levels = levels
        self.add_extra_convs = add_extra_convs

        common = dict(
            neuron=neuron, weight_bits=weight_bits, norm_cfg=norm_cfg)
        self.lateral_convs = nn.ModuleList(
            SpikeConv(in_channels[i], out_channels, 1, **common)
            for i in levels)
        self.fpn_convs = nn.ModuleList(
            SpikeConv(out_channels, out_channels, 3, **common)
            for _ in levels)
        self.extra_convs = nn.ModuleList()
        for i in range(extra_levels if add_extra_convs else 0):
            channels = in_channels[last] if (
                i == 0 and add_extra_convs == 'on_input') else out_channels
            self.extra_convs.append(
                SpikeConv(channels, out_channels, 3, stride=2, **common))

    def sum_maps(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Add a map and a coarser one, enlarged to its size."""
        return fine + F.interpolate(
            coarse, size=fine.shape[2:], mode='nearest')

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See the class."""
        if len(inputs) != len(self.in_channels):
            raise ValueError(f'SpikeFPN was built for '
                             f'{len(self.in_channels)} maps, got '
                             f'{len(inputs)}')
        laterals = [
            conv(inputs[i]) for i, conv in zip(self.levels,
                                               self.lateral_convs)
        ]
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = self.sum_maps(laterals[i - 1], laterals[i])
        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        source = dict(
            on_input=inputs[self.levels[-1]],
            on_lateral=laterals[-1]).get(self.add_extra_convs, outs[-1])
        for conv in self.extra_convs:
            source = conv(source)
            outs.append(source)
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], 1, stride=2))
        return tuple(outs)
