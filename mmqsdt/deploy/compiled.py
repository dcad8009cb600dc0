"""The fast form with its backbone as one compiled graph, kept in a file.

What is between the kernels (Python, and passes over maps that a compiler
joins) is then C++. The file is a package of AOTInductor: made where a C++
compiler is, and run without one.
"""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from .fast import find_obstacle, to_fast

COMPILERS = ('c++', 'g++', 'clang++')
KEY = 'mmqsdt_key'  # in the metadata of a package


def to_compiled(model: nn.Module,
                package: str | Path,
                shape: tuple[int, int, int, int],
                inputs=None) -> nn.Module:
    """:func:`to_fast` with its backbone compiled for images of one shape.

    The same kernels in the same order: equal to the fast form to the last
    bit. Images of another shape go through the fast form as it is. So does
    everything where there is neither a package nor a compiler, and one line
    of the log says so.

    Args:
        model (nn.Module): As in :func:`to_fast`; one without a ``backbone``
            is compiled as a whole.
        package (str | Path): A .pt2 file. It is loaded if it was made from
            these weights for this shape, by this PyTorch on such a
            processor; else it is made, which takes minutes. Load no package
            of others: it is a program.
        shape (tuple): (B, C, H, W) of the images that the backbone reads.
        inputs (optional): As in :func:`to_fast`.

    Returns:
        nn.Module: As in :func:`to_fast`.

    Raises:
        ValueError: As in :func:`to_fast`, and for other shapes and names.
    """
    package, shape = Path(package), tuple(shape)
    if len(shape) != 4 or min(shape) < 1:
        raise ValueError(f'expected a shape (B, C, H, W), got {shape}')
    if package.suffix != '.pt2':
        raise ValueError(f'expected the name of a .pt2 file, got {package}')
    fast = to_fast(model, inputs)
    part = getattr(fast, 'backbone', fast)
    key = key_of(shape, getattr(model, 'backbone', model), part)
    run = None
    if find_obstacle(model) is None:  # of which to_fast has told
        try:
            run = load(package, key) or make(part, shape, package, key)
        except Exception as error:  # whatever a compiler may raise
            reason = next(iter(f'{error}'.splitlines()), '')
            print_log('not compiled, the plain fast form instead: '
                      f'{type(error).__name__}: {reason}', 'current')
    if run is None:
        return fast
    compiled = CompiledPart(part, run, shape)
    if part is fast:
        return compiled.eval()
    fast.backbone = compiled.eval()
    return fast


def key_of(shape: tuple[int, ...], *models: nn.Module) -> str:
    """Digest what a package must have been made from, by what, for what.

    Args:
        shape (tuple): Of the images.
        models (nn.Module): Part of a model as trained, and its fast form.
    """
    digest = hashlib.sha256(repr((
        shape, torch.__version__, torch.backends.cpu.get_cpu_capability(),
        torch.cpu._is_amx_tile_supported())).encode())
    for model in models:
        digest.update(str(model).encode())
        for name, value in model.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load(package: Path, key: str) -> Callable | None:
    """Open a package; None if there is none of this key."""
    if not package.exists():
        return None
    run = torch._inductor.aoti_load_package(str(package))
    if run.get_metadata().get(KEY) == key:
        return run
    print_log(f'{package} was made from other weights, for other images, or '
              'on another machine: it is made anew', 'current')
    return None


@torch.no_grad()
def make(part: nn.Module, shape: tuple[int, ...], package: Path,
         key: str) -> Callable:
    """Compile a part of the fast form into a package, and load it.

    Raises:
        RuntimeError: If there is no compiler.
    """
    if not any(map(shutil.which, COMPILERS)):
        raise RuntimeError(f'there is no {package} of this model, and no C++ '
                           f'compiler ({", ".join(COMPILERS)}) to make it')
    images = torch.zeros(shape).contiguous(memory_format=torch.channels_last)
    part(images)  # packs weights, which no graph can do
    program = torch.export.export(part, (images, ), strict=False)
    package.parent.mkdir(parents=True, exist_ok=True)
    torch._inductor.aoti_compile_and_package(
        program, package_path=str(package),
        inductor_configs={'aot_inductor.metadata': {KEY: key}})
    return torch._inductor.aoti_load_package(str(package))


class CompiledPart(nn.Module):
    """A part of the fast form that is compiled for one shape.

    A copy of it is the part as it is.

    Args:
        part (nn.Module): For images of other shapes.
        run (Callable): For this one.
        shape (tuple): (B, C, H, W).

    Shape: as of the part.
    """

    def __init__(self, part: nn.Module, run: Callable,
                 shape: tuple[int, ...]) -> None:
        super().__init__()
        self.part, self.run, self.shape = part, run, shape

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """See the class."""
        if self.run is None or tuple(x.shape) != self.shape:
            return self.part(x)
        return self.run(x.contiguous(memory_format=torch.channels_last))

    def __getstate__(self) -> dict:
        return dict(self.__dict__, run=None)  # a library, which has no copy
