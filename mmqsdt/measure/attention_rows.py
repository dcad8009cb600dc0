"""Compute which tokens a query reads, though attention never does."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

from ..distill.recorder import find_taps
from ..layers import SpikeAttention
from .record import listening


def attention_rows(q: Tensor, k: Tensor, scale: float,
                   queries: list[int]) -> Tensor:
    r"""Compute rows of the N x N weights that linear attention implies.

    .. math::

        scale \cdot q (k^T v) = A v, \qquad A = scale \cdot q k^T

    The network computes the left side; A exists only here, for a few rows.

    Args:
        q, k (Tensor): (T*B, heads, d, N), as attention reads them.
        scale (float): The attention's.
        queries (list[int]): Tokens n whose rows A[n] are returned.

    Returns:
        Tensor: (T*B, heads, len(queries), N).
    """
    return scale * q[..., queries].transpose(-2, -1) @ k


@dataclass(eq=False)  # layers are compared by identity
class AttentionLayer:
    """Spikes, or activations, that one attention layer read.

    Attributes:
        layer (str): Its path.
        scale (float): Its constant.
        grid (tuple[int, int]): (H, W) of the N tokens.
        q, k (Tensor): (T, heads, d, N), of one picture.
    """
    layer: str
    scale: float
    grid: tuple[int, int]
    q: Tensor
    k: Tensor

    def token(self, x: float, y: float) -> int:
        """Return the token at a place, 0..1 of the picture's sides."""
        h, w = self.grid
        return min(int(y * h), h - 1) * w + min(int(x * w), w - 1)

    def rows(self, places: list[tuple[float, float]]) -> Tensor:
        """Return how much the tokens at these places read from each token.

        Args:
            places (list): (x, y), 0..1 of the picture's width and height.

        Returns:
            Tensor: (heads, places, H, W), the mean over time steps.
        """
        tokens = [self.token(*place) for place in places]
        rows = attention_rows(self.q, self.k, self.scale, tokens)
        return rows.mean(0).unflatten(-1, self.grid)

    def mean_row(self) -> Tensor:
        """Average over all queries, (heads, H, W): cheap, q comes first."""
        mean = self.q.mean(-1, keepdim=True)
        return attention_rows(mean, self.k, self.scale, [0]).mean(0).squeeze(
            1).unflatten(-1, self.grid)


@contextmanager
def recorded_attention(model: nn.Module) -> Iterator[list[AttentionLayer]]:
    """Collect q and k of every attention layer, while a model runs.

    Args:
        model (nn.Module): In float form, with a QSDTransformer that reads
            one picture; or its ANN counterpart.

    Yields:
        list[AttentionLayer]: Filled on the way, in the order of the network.

    Raises:
        ValueError: If there is no QSDTransformer with attention.
    """
    backbone = getattr(model, 'backbone', model)
    modules = {}
    for tap in find_taps(backbone):
        path = tap.paths['q'].rpartition('.')[0]  # of the attention
        for part in (f'{path}.q_neuron', f'{path}.k_neuron', path):
            modules[part] = backbone.get_submodule(part)
    layers: list[AttentionLayer] = []
    kept: dict[str, Tensor] = {}  # q and k, until their attention is done

    def hear(path: str, module: nn.Module, x: Tensor, output: Tensor) -> None:
        if isinstance(module, SpikeAttention):
            layers.append(_layer(module, path, kept))
        else:
            name = path.rpartition('.')[2].removesuffix('_neuron')
            kept[name] = output.detach().float()  # (T, C, H, W)

    with listening(modules, hear, restart=(backbone, layers)):
        yield layers


def _layer(attention: SpikeAttention, path: str,
           kept: dict[str, Tensor]) -> AttentionLayer:
    grid = tuple(kept['q'].shape[2:])
    q, k = (attention.split_heads(kept.pop(x)).cpu() for x in ('q', 'k'))
    return AttentionLayer(path, attention.scale, grid, q, k)


def choose_layers(layers: list[AttentionLayer],
                  patterns: list[str] | None = None) -> list[AttentionLayer]:
    """Choose layers by path; by default up to five, first and last included.

    Args:
        layers (list[AttentionLayer]): Of one picture.
        patterns (list[str], optional): Paths, in which ``*`` matches
            anything.

    Raises:
        ValueError: If a pattern matches nothing.
    """
    if patterns is None:
        number = min(5, len(layers))
        last = len(layers) - 1
        return [layers[i * last // max(number - 1, 1)] for i in range(number)]
    chosen = []
    for pattern in patterns:
        found = [x for x in layers if fnmatchcase(x.layer, pattern)]
        if not found:
            raise ValueError(f'no attention layer is called {pattern!r}; '
                             f'there are {", ".join(x.layer for x in layers)}')
        chosen += [x for x in found if x not in chosen]
    return chosen


def over_average(row: Tensor) -> Tensor:
    """Divide weights by their mean: 2 is a token read twice the average.

    Args:
        row (Tensor): (..., H, W), not negative.

    Returns:
        Tensor: The same shape, of mean 1; 0 where the query is silent.
    """
    mean = row.mean((-2, -1), keepdim=True)
    return row / mean.clamp(min=torch.finfo(row.dtype).tiny)


def striking_places(picture: np.ndarray, grid: tuple[int, int],
                    number: int) -> list[tuple[float, float]]:
    """Find the centers of tokens of most contrast, spread over a picture.

    Args:
        picture (np.ndarray): (H, W, 3), uint8.
        grid (tuple[int, int]): (h, w) of the tokens.
        number (int): How many, if there is room for them.

    Returns:
        list: (x, y), 0..1 of the picture's width and height.
    """
    (height, width), (h, w) = picture.shape[:2], grid
    gray = picture.mean(2)
    contrast = np.array([[
        gray[r * height // h:(r + 1) * height // h,
             c * width // w:(c + 1) * width // w].std() for c in range(w)
    ] for r in range(h)])
    places = []
    while len(places) < number and contrast.max() >= 0:
        r, c = divmod(int(contrast.argmax()), w)
        places.append(((c + 0.5) / w, (r + 0.5) / h))
        # Leave out tokens that are less than a fifth of the picture away.
        contrast[max(r - h // 5, 0):r + h // 5 + 1,
                 max(c - w // 5, 0):c + w // 5 + 1] = -1
    return places
