"""Classification head of the QSD-Transformer, for MMPretrain."""

from mmpretrain.models.heads import ClsHead
from torch import Tensor

from ...layers import LSQLinear, build_neuron
from ...registry import MODELS


@MODELS.register_module()
class SpikeLinearClsHead(ClsHead):
    r"""Mean over H and W, then a neuron, then an LSQ linear layer.

    .. math:: logits = W_q \cdot neuron(mean_{H,W}(x)) + b

    Args:
        num_classes (int): Classes.
        in_channels (int): C of the last map.
        weight_bits (int, optional): Bits of the weight; None for float.
            Defaults to 4.
        neuron (dict): Config of the neuron.
            Defaults to ``dict(type='mmqsdt.IELIF')``.
        init_cfg (dict, optional): Defaults to a truncated normal of std
            0.02, as published.
        **kwargs: loss, topk, cal_acc of mmpretrain's ClsHead.

    Shape: a tuple whose last entry is (B, C, H, W) or (B, C) in,
    (B, num_classes) out.

    Source: QSD-Transformer (arXiv 2501.13492).
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 weight_bits: int | None = 4,
                 neuron: dict = dict(type='mmqsdt.IELIF'),
                 init_cfg: dict | None = dict(
                     type='TruncNormal', layer='Linear', std=0.02, bias=0.),
                 **kwargs) -> None:
        super().__init__(init_cfg=init_cfg, **kwargs)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.neuron = build_neuron(neuron)
        if getattr(self.neuron, 'learned', False):
            # Means over a map are small at random weights and grow during
            # training. A threshold started from them would clip the later
            # ones.
            self.neuron.threshold = self.neuron.default_threshold
        self.fc = LSQLinear(in_channels, num_classes, bits=weight_bits)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Compute the spikes that the classifier reads, (B, C)."""
        x = feats[-1]
        if x.dim() == 4:
            x = x.mean((2, 3))
        return self.neuron(x)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        return self.fc(self.pre_logits(feats))
