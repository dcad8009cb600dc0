"""Record q, k and v of any network, by module path."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ..layers import SpikeAttention
from ..models import QSDTransformer

TENSORS = ('q', 'k', 'v')


@dataclass(frozen=True)
class Tap:
    """The modules whose outputs are q, k and v of one attention layer.

    Attributes:
        paths (dict[str, str]): 'q', 'k', 'v', or 'qkv' for all three side
            by side in the channels -> path of the module whose output it is.
        num_heads (int): Heads; the channels of a head are neighbors.
        num_extra_tokens (int): Tokens before those of the grid, such as a
            class token; they are left out.
        time_steps (int): T, the time steps folded into the batch.
    """
    paths: dict[str, str]
    num_heads: int
    num_extra_tokens: int = 0
    time_steps: int = 1


@dataclass
class Recording:
    """What the taps gave in one forward pass.

    Attributes:
        tensors (list[dict[str, Tensor]]): For every layer 'q', 'k', 'v',
            each (B, heads, N, d), averaged over time steps.
        grids (list[tuple[int, int] | None]): (H, W) of the N tokens; None
            if a module returns a sequence.
    """
    tensors: list[dict[str, Tensor]] = field(default_factory=list)
    grids: list[tuple[int, int] | None] = field(default_factory=list)


def find_taps(model: nn.Module,
              taps: dict | None = None,
              owner: str = 'model') -> list[Tap]:
    """Return a model's taps: those named, or those of its QSDTransformer.

    Of a QSDTransformer the outputs of the neurons are recorded, which
    attention reads: spikes, or the activations of an ANN counterpart.

    Args:
        model (nn.Module): Any network.
        taps (dict, optional): None for a model with one QSDTransformer, all
            of whose attention layers are taken. Else 'q', 'k', 'v', or 'qkv'
            of a fused projection, each a path or a list of paths, in which
            ``*`` matches anything; optionally ``num_heads`` and
            ``time_steps`` (by default those of the module around the tap, or
            one step) and ``num_extra_tokens`` (0).
        owner (str): 'teacher' or 'student', for messages.

    Returns:
        list[Tap]: One for each layer, in the order of the model, or in that
        of the list of paths.

    Raises:
        ValueError: If nothing is found, or not one q, k and v for each
            layer.

    Example::

        >>> find_taps(vit, dict(qkv='backbone.layers.*.attn.qkv',
        ...                     num_extra_tokens=1))
    """
    if taps is None:
        return _attention_taps(model, owner)
    known = {*TENSORS, 'qkv', 'num_heads', 'num_extra_tokens', 'time_steps'}
    names = [name for name in (*TENSORS, 'qkv') if name in taps]
    if not names or not set(taps) <= known or len(names) > 1 \
            and 'qkv' in names:
        raise ValueError(f'{owner}_taps must name q, k, v, or qkv, and may '
                         'have num_heads, num_extra_tokens and time_steps; '
                         f'got {sorted(taps)}')
    paths = {name: _matches(model, taps[name], name, owner) for name in names}
    counts = {name: len(found) for name, found in paths.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f'{owner}_taps match different numbers of modules: '
                         f'{counts}')
    return [
        Tap(dict(zip(names, layer)),
            taps.get('num_heads') or _num_heads(model, layer[0], owner),
            taps.get('num_extra_tokens', 0),
            taps.get('time_steps') or _around(model, layer[0], 'time_steps')
            or 1) for layer in zip(*paths.values())
    ]


def _attention_taps(model: nn.Module, owner: str) -> list[Tap]:
    backbones = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QSDTransformer)
    }
    if len(backbones) != 1:
        raise ValueError(
            f'the {owner} ({type(model).__name__}) has {len(backbones)} '
            f'QSDTransformer backbones instead of one: name its q, k and v '
            f'in {owner}_taps')
    (name, backbone), = backbones.items()
    used = max(backbone.out_indices) + 1  # later stages do not run
    taps = []
    for path, module in backbone.stages[:used].named_modules(
            prefix=f'{name}.stages'.lstrip('.')):
        if isinstance(module, SpikeAttention):
            taps.append(
                Tap({x: f'{path}.{x}_neuron' for x in TENSORS},
                    module.num_heads,
                    time_steps=backbone.time_steps))
    if not taps:
        raise ValueError(f'the {owner} runs no attention layer: its '
                         f'out_indices {backbone.out_indices} end before '
                         'stage 3')
    return taps


def _matches(model: nn.Module, patterns: str | Iterable[str], name: str,
             owner: str) -> list[str]:
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    paths = [path for path, _ in model.named_modules() if path]
    matches = []
    for pattern in patterns:
        found = [path for path in paths if fnmatchcase(path, pattern)]
        if not found:
            raise ValueError(
                f'{name}={pattern!r} of {owner}_taps matches no module of '
                f'the {owner} ({type(model).__name__}); it has paths such as '
                f'{paths[-1]!r}')
        matches += found
    if not matches:
        raise ValueError(f'{name} of {owner}_taps is an empty list')
    return matches


def _around(model: nn.Module, path: str, name: str) -> int | None:
    """Read an integer from the module at a path, or the nearest around it."""
    parts = path.split('.')
    for end in range(len(parts), -1, -1):
        module = model.get_submodule('.'.join(parts[:end]))
        value = getattr(module, name, None)
        if isinstance(value, int):
            return value
    return None


def _num_heads(model: nn.Module, path: str, owner: str) -> int:
    heads = _around(model, path, 'num_heads')
    if heads is None:
        raise ValueError(f'{owner}_taps must give num_heads: no module '
                         'around the taps has it')
    return heads


class Recorder:
    """Keep the outputs of a model's taps between start and stop.

    Other forward passes (validation, or a block that is recomputed in the
    backward pass) are not recorded.

    Args:
        model (nn.Module): Hooks stay on its modules until :meth:`close`.
        taps (list[Tap]): Of :func:`find_taps`.
        owner (str): 'teacher' or 'student', for messages.

    Attributes:
        outputs (dict[str, Tensor]): By path, since :meth:`start`.
    """

    def __init__(self,
                 model: nn.Module,
                 taps: list[Tap],
                 owner: str = 'model') -> None:
        self.taps = taps
        self.owner = owner
        self.recording = False
        self.outputs: dict[str, Tensor] = {}
        self._handles = []
        for path in sorted({p for tap in taps for p in tap.paths.values()}):

            def keep(module, args, output, path=path):
                if self.recording:
                    self.outputs[path] = output

            self._handles.append(
                model.get_submodule(path).register_forward_hook(keep))

    def start(self) -> None:
        """Keep outputs from now on."""
        self.outputs.clear()
        self.recording = True

    def stop(self, batch: int) -> Recording:
        """Return the outputs since :meth:`start`, as tokens.

        Args:
            batch (int): B, images in the batch. Outputs have T*B rows,
                time-major.

        Raises:
            ValueError: If a tap gave nothing, or no tensor of tokens, or
                rows that are not time steps (windows of an image).
        """
        self.recording = False
        outputs, self.outputs = self.outputs, {}
        return self.split(outputs, batch)

    def split(self, outputs: dict[str, Tensor], batch: int) -> Recording:
        """Return the outputs of the taps as tokens; see :meth:`stop`."""
        recording = Recording()
        for tap in self.taps:
            tensors, grid = {}, None
            for name, path in tap.paths.items():
                if path not in outputs:
                    raise ValueError(
                        f'the tap {path} of the {self.owner} did not run: '
                        'choose modules that take part in training')
                x, grid = self._tokens(outputs[path], tap, path, batch,
                                       len(name))
                tensors.update(zip(name, x))
            recording.tensors.append(tensors)
            recording.grids.append(grid)
        return recording

    def _tokens(self, x: Tensor, tap: Tap, path: str, batch: int,
                parts: int) -> tuple[tuple[Tensor, ...], tuple | None]:
        """(T*B, parts * C, H, W) or (T*B, N, parts * C) to (B, heads, N, d).
        """
        steps = tap.time_steps
        if not isinstance(x, Tensor) or x.dim() not in (3, 4) \
                or len(x) != steps * batch:
            shape = tuple(getattr(x, 'shape', ())) or type(x).__name__
            raise ValueError(
                f'the tap {path} of the {self.owner}: expected (B, C, H, W) '
                f'or (B, N, C) with B = {steps * batch} for {batch} images '
                f'and time_steps={steps}, got {shape}. Windows of an image '
                'cannot be compared; for other time steps set time_steps in '
                f'{self.owner}_taps')
        grid = None
        if x.dim() == 4:
            grid = tuple(x.shape[2:])
            x = x.flatten(2).transpose(1, 2)  # (T*B, N, C)
        if steps > 1:
            x = x.unflatten(0, (steps, batch)).mean(0)
        x = x[:, tap.num_extra_tokens:]
        if x.shape[2] % (parts * tap.num_heads):
            raise ValueError(f'{x.shape[2]} channels of the tap {path} of '
                             f'the {self.owner} do not split into {parts} x '
                             f'{tap.num_heads} heads')
        x = x.unflatten(2, (parts, tap.num_heads, -1))
        return x.permute(2, 0, 3, 1, 4).unbind(0), grid

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.outputs.clear()


@torch.no_grad()
def record(model: nn.Module, recorder: Recorder, *args) -> Recording:
    """Run a model once, in the mode it is in, and return what it computed.

    Args:
        model (nn.Module): Or a part of it.
        recorder (Recorder): On that model.
        *args: The model's input, images first.
    """
    recorder.start()
    model(*args)
    return recorder.stop(len(args[0]))
