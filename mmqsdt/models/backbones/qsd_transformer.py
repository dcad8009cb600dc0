"""QSD-Transformer: one backbone for classification, detection, segmentation.

``weight_bits=None, neuron=dict(type='ReLU')`` is its ANN counterpart.

Source: Quantized Spike-driven Transformer, ICLR 2025 (arXiv 2501.13492).
"""

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...checkpoints.fit import load_pretrained
from ...layers import ConvUnit, SepConv, SpikeAttention, settle_step_sizes
from ...registry import MODELS
from ..recompute import recomputed

# embed_dims are the channels C0..C3. depths is the number of attention
# blocks: three quarters of them in stage 3, a quarter in stage 4.
ARCHS = {
    'tiny': dict(embed_dims=(16, 48, 96, 128), depths=4),
    '8m': dict(embed_dims=(48, 96, 192, 256), depths=8),
    '15m': dict(embed_dims=(64, 128, 256, 360), depths=8),
    '31m': dict(embed_dims=(96, 192, 384, 480), depths=8),
    '55m': dict(embed_dims=(128, 256, 512, 640), depths=8),
    '75m': dict(embed_dims=(128, 256, 512, 640), depths=12),
    '124m': dict(embed_dims=(192, 384, 768, 960), depths=8),
}
for _arch in ARCHS.values():
    _arch.update(num_heads=8, mlp_ratio=4)


class ConvBlock(nn.Module):
    """x + SepConv(x), then x + two 3x3 conv units with a wide middle.

    Shape: (T*B, C, H, W) in and out.
    """

    def __init__(self, channels: int, mlp_ratio: int, drop_path: float,
                 neuron: dict, weight_bits: int | None, time_steps: int,
                 inner_neurons: bool) -> None:
        super().__init__()
        hidden = mlp_ratio * channels
        common = dict(
            neuron=neuron, weight_bits=weight_bits, time_steps=time_steps)
        self.sep_conv = SepConv(
            channels, inner_neuron=inner_neurons, **common)
        self.conv1 = ConvUnit(channels, hidden, kernel_size=3, **common)
        self.conv2 = ConvUnit(hidden, channels, kernel_size=3, **common)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.sep_conv(x))
        return x + self.drop_path(self.conv2(self.conv1(x)))


class AttentionBlock(nn.Module):
    """x + scale1 * attention(x), then x + scale2 * MLP(x).

    Shape: (T*B, C, H, W) in and out.
    """

    def __init__(self, channels: int, num_heads: int, mlp_ratio: int,
                 drop_path: float, neuron: dict, weight_bits: int | None,
                 time_steps: int, inner_neurons: bool,
                 attention_scale: float) -> None:
        super().__init__()
        hidden = mlp_ratio * channels
        common = dict(
            neuron=neuron, weight_bits=weight_bits, time_steps=time_steps)
        self.attn = SpikeAttention(
            channels, num_heads=num_heads, scale=attention_scale,
            inner_neurons=inner_neurons, **common)
        self.fc1 = ConvUnit(
            channels, hidden, kernel_size=1, bias=True, **common)
        self.fc2 = ConvUnit(
            hidden, channels, kernel_size=1, bias=True, **common)
        # A block begins as nearly the identity.
        self.layer_scale1 = nn.Parameter(torch.full((channels, ), 1e-6))
        self.layer_scale2 = nn.Parameter(torch.full((channels, ), 1e-6))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        scale1 = self.layer_scale1.view(1, -1, 1, 1)
        scale2 = self.layer_scale2.view(1, -1, 1, 1)
        x = x + self.drop_path(self.attn(x) * scale1)
        return x + self.drop_path(self.fc2(self.fc1(x)) * scale2)


class Stage(nn.Module):
    """A downsampling unit, then blocks at its resolution.

    Shape: (T*B, C_in, H, W) in, (T*B, C, H', W') out.
    """

    def __init__(self, downsample: ConvUnit, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, with_cp: bool = False) -> Tensor:
        x = self.downsample(x)
        for block in self.blocks:
            if with_cp and torch.is_grad_enabled():
                x = recomputed(block, x)
            else:
                x = block(x)
        return x


def resolve_arch(arch: str | dict) -> dict:
    """Complete and check an arch setting.

    Args:
        arch (str | dict): A name of ``ARCHS``, or a dict with embed_dims and
            depths (an int, or one int each for stages 3 and 4), optionally
            num_heads (8) and mlp_ratio (4).

    Returns:
        dict: embed_dims (4 ints), depths (2 ints), num_heads, mlp_ratio.

    Raises:
        ValueError: For unknown names, missing or unusable entries.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise ValueError(f'unknown arch {arch!r}; choose from '
                             f'{sorted(ARCHS)} or give a dict of embed_dims, '
                             'depths, num_heads, mlp_ratio')
        arch = ARCHS[arch]
    unknown = set(arch) - {'embed_dims', 'depths', 'num_heads', 'mlp_ratio'}
    if unknown or not {'embed_dims', 'depths'} <= set(arch):
        raise ValueError('an arch dict needs embed_dims and depths, and may '
                         f'have num_heads and mlp_ratio; got {sorted(arch)}')
    arch = dict(dict(num_heads=8, mlp_ratio=4), **arch)
    if len(arch['embed_dims']) != 4 or min(arch['embed_dims']) < 1:
        raise ValueError('embed_dims must be 4 positive channel counts, got '
                         f'{arch["embed_dims"]}')
    if arch['embed_dims'][0] % 2:
        raise ValueError('embed_dims[0] must be even: the stem has half of '
                         f'it; got {arch["embed_dims"][0]}')
    if isinstance(arch['depths'], int):
        arch['depths'] = (int(.75 * arch['depths']), int(.25 * arch['depths']))
    if len(arch['depths']) != 2 or min(arch['depths']) < 1:
        raise ValueError('depths must leave at least one block to stage 3 '
                         f'and to stage 4, got {arch["depths"]}')
    return arch


@MODELS.register_module()
class QSDTransformer(BaseModule):
    r"""Quantized Spike-driven Transformer backbone.

    Five stages; the output of each can be returned (a "tap"). A neuron turns
    the real-valued residual stream into spikes wherever a quantized layer
    reads it::

        image -> stage 0: 7x7/2, ConvBlock           C0/2 channels, stride 2
              -> stage 1: 3x3/2, ConvBlock           C0,            stride 4
              -> stage 2: 3x3/2, 2 x ConvBlock       C1,            stride 8
              -> stage 3: 3x3/2, AttentionBlocks     C2,            stride 16
              -> stage 4: 3x3/1, AttentionBlocks     C3,            stride 16

    Args:
        arch (str | dict): '8m', '15m', '31m', '55m', '75m', '124m' as
            published, 'tiny' for demos and tests, or a dict; see
            :func:`resolve_arch`. Defaults to '15m'.
        in_channels (int): Channels of the input. Defaults to 3.
        out_indices (Sequence[int]): Taps to return, 0..4.
            Defaults to (4, ).
        weight_bits (int | str, optional): Bits of every weight: 2, 3, 4, 8,
            'ternary' or 1; None for float. Defaults to 4.
        neuron (dict): Config of the neurons.
            Defaults to ``dict(type='mmqsdt.IELIF')``.
        time_steps (int): T. Defaults to 1, as published.
        inner_neurons (bool): Whether RepConv and SepConv have neurons
            inside too, so that only the stem reads real values. Published
            weights can be loaded, and then need fine-tuning.
            Defaults to False, as published.
        attention_scale (float): Factor of q (k^T v). With many tokens the
            published value drives the neurons behind attention to their
            largest count; see docs/ablation.md.
            Defaults to 0.25, as published.
        stage4_stride (int): 1 as published (tap 4 has stride 16), or 2: tap
            4 has stride 32, which anchors and RoI extractors of dense tasks
            expect, with the same weights. Defaults to 1.
        drop_path_rate (float): Stochastic depth of the last block, growing
            linearly from 0 at the first. Defaults to 0.
        with_cp (bool): Recompute blocks in the backward pass to save memory.
            Defaults to False.
        frozen_stages (int): Stages 0..frozen_stages are frozen; -1 freezes
            none. Defaults to -1.
        norm_eval (bool): Keep batch norms in eval mode while training.
            Defaults to False.
        init_cfg (dict, optional): ``dict(type='Pretrained',
            checkpoint=...)`` takes a checkpoint of this backbone or of a
            whole model that contains it, ours or the authors'.

    Shape:
        - In: (B, in_channels, H, W), any size; repeated T times when T > 1.
          Or (B, T, in_channels, H, W), frames over time.
        - Out: a tuple of (B, C_i, H_i, W_i), membrane potentials (before any
          neuron) averaged over T, one for each of out_indices.

    Raises:
        ValueError: For arguments or input that do not fit.

    Source: QSD-Transformer, ICLR 2025 (arXiv 2501.13492).

    Example::

        >>> model = QSDTransformer('15m', out_indices=(1, 2, 3, 4))
        >>> [tuple(x.shape) for x in model(torch.rand(1, 3, 64, 64))]
        [(1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4), (1, 360, 4, 4)]
    """

    def __init__(self,
                 arch: str | dict = '15m',
                 in_channels: int = 3,
                 out_indices: tuple[int, ...] = (4, ),
                 weight_bits: int | str | None = 4,
                 neuron: dict = dict(type='mmqsdt.IELIF'),
                 time_steps: int = 1,
                 inner_neurons: bool = False,
                 attention_scale: float = 0.25,
                 stage4_stride: int = 1,
                 drop_path_rate: float = 0.,
                 with_cp: bool = False,
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        arch = resolve_arch(arch)
        if isinstance(out_indices, int):
            out_indices = (out_indices, )
        if not out_indices or not set(out_indices) <= set(range(5)):
            raise ValueError(f'out_indices must name taps 0..4, got '
                             f'{out_indices}')
        if stage4_stride not in (1, 2):
            raise ValueError(f'stage4_stride must be 1 or 2, got '
                             f'{stage4_stride}')
        if attention_scale <= 0:
            raise ValueError('attention_scale must be positive, got '
                             f'{attention_scale}')
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate must be in [0, 1), got '
                             f'{drop_path_rate}')
        if frozen_stages not in range(-1, 5):
            raise ValueError(f'frozen_stages must be -1..4, got '
                             f'{frozen_stages}')
        self.in_channels = in_channels
        self.out_indices = tuple(out_indices)
        self.time_steps = time_steps
        self.with_cp = with_cp
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        c0, c1, c2, c3 = arch['embed_dims']
        dims = (c0 // 2, c0, c1, c2, c3)
        depths = (1, 1, 2, *arch['depths'])
        strides = (2, 2, 2, 2, stage4_stride)
        self.channels = dims
        self.strides = (2, 4, 8, 16, 16 * stage4_stride)
        last = sum(depths) - 1
        drop_paths = [drop_path_rate * i / last for i in range(last + 1)]
        common = dict(
            neuron=neuron, weight_bits=weight_bits, time_steps=time_steps)

        stages = []
        for i, (dim, depth, stride) in enumerate(zip(dims, depths, strides)):
            downsample = ConvUnit(
                dims[i - 1] if i else in_channels,
                dim,
                kernel_size=3 if i else 7,
                stride=stride,
                bias=True,
                # The stem reads the image as it is.
                **dict(common, neuron=neuron if i else None))
            first = sum(depths[:i])
            blocks = []
            for drop_path in drop_paths[first:first + depth]:
                sizes = dict(
                    channels=dim,
                    mlp_ratio=arch['mlp_ratio'],
                    drop_path=drop_path,
                    inner_neurons=inner_neurons)
                if i < 3:
                    block = ConvBlock(**sizes, **common)
                else:
                    block = AttentionBlock(
                        num_heads=arch['num_heads'],
                        attention_scale=attention_scale,
                        **sizes,
                        **common)
                blocks.append(block)
            stages.append(Stage(downsample, blocks))
        self.stages = nn.ModuleList(stages)
        self._freeze()

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Return the channels of its maps, by ``out_indices``."""
        return tuple(self.channels[i] for i in self.out_indices)

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Return the strides of its maps in pixels, by ``out_indices``."""
        return tuple(self.strides[i] for i in self.out_indices)

    def fold_time(self, x: Tensor) -> Tensor:
        """Bring an image, or frames over time, to (T*B, in_channels, H, W)."""
        t = self.time_steps
        if x.dim() == 5:  # (B, T, C, H, W)
            if x.shape[1] != t:
                raise ValueError(f'input of {x.shape[1]} frames, but the '
                                 f'backbone has time_steps={t}')
            x = x.transpose(0, 1).flatten(0, 1)
        elif x.dim() == 4:
            x = x if t == 1 else x.repeat(t, 1, 1, 1)
        else:
            raise ValueError('input must be (B, C, H, W) or (B, T, C, H, W), '
                             f'got shape {tuple(x.shape)}')
        if x.shape[1] != self.in_channels:
            raise ValueError(f'input has {x.shape[1]} channels, but the '
                             f'backbone has in_channels={self.in_channels}')
        return x

    def mean_time(self, x: Tensor) -> Tensor:
        """Average over time: (T*B, C, H, W) -> (B, C, H, W)."""
        if self.time_steps == 1:
            return x
        return x.unflatten(0, (self.time_steps, -1)).mean(0)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.fold_time(x)  # (T*B, in_channels, H, W)
        outs = {}
        for i, stage in enumerate(self.stages[:max(self.out_indices) + 1]):
            x = stage(x, self.with_cp)  # (T*B, C_i, H_i, W_i)
            outs[i] = x
        return tuple(self.mean_time(outs[i]) for i in self.out_indices)

    def init_weights(self) -> None:
        """Initialize; with a pretrained init_cfg, load and log what matched.

        Raises:
            ValueError: If a checkpoint matches no key, or shapes differ.
        """
        cfg = self.init_cfg
        if isinstance(cfg, dict) and cfg.get('type') == 'Pretrained':
            if not self.is_init:
                load_pretrained(self, cfg['checkpoint'], cfg.get('prefix'))
                self.is_init = True
        else:
            super().init_weights()
        settle_step_sizes(self)

    def _freeze(self) -> None:
        for stage in self.stages[:self.frozen_stages + 1]:
            stage.requires_grad_(False)
            stage.eval()

    def train(self, mode: bool = True) -> 'QSDTransformer':
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def create_backbone(arch: str | dict = '15m',
                    out_indices: tuple[int, ...] = (1, 2, 3, 4),
                    **settings) -> QSDTransformer:
    """Create a backbone to train, in plain PyTorch.

    Unlike the class, whose default neuron is the published one, it has
    neurons with a learned threshold, and its weights are initialized or, with
    an ``init_cfg``, loaded.

    Args:
        arch (str | dict): See :class:`QSDTransformer`. Defaults to '15m'.
        out_indices (Sequence[int]): Taps to return, 0..4; see
            ``.out_channels`` and ``.out_strides`` of the result.
            Defaults to (1, 2, 3, 4).
        **settings: Others of :class:`QSDTransformer`.

    Example::

        >>> backbone = mmqsdt.create_backbone('15m', out_indices=(2, 4))
        >>> backbone.out_channels, backbone.out_strides
        ((128, 360), (8, 16))
    """
    settings.setdefault(
        'neuron', dict(type='mmqsdt.IELIF', threshold='learned'))
    backbone = QSDTransformer(arch, out_indices=out_indices, **settings)
    if backbone.init_cfg:
        backbone.init_weights()
    settle_step_sizes(backbone)
    return backbone
