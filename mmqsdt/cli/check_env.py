"""What of mmqsdt works on this machine, and what would make the rest work.

Nothing is taken for granted because it can be imported: operators, passes,
forms and integer kernels are run on a few numbers.
"""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from packaging.version import Version
from rich.console import Console
from rich.table import Table
from torch import Tensor

from .. import compat
from ..data.sources import DATA_SOURCES
from ..utils.configs import get_config_path
from ..utils.frameworks import FRAMEWORKS
from ..utils.text import read_text
from ..utils.versions import TESTED_VERSIONS
from ..version import __version__
from .ending import ToolParser, command

WORKS, ABSENT, BROKEN = 'works', 'absent', 'broken'
COLORS = {WORKS: 'green', ABSENT: 'yellow', BROKEN: 'bold red'}

# What a name of TESTED_VERSIONS is needed for, '' for the core; the original
# packages are listed after the forks that have their import names.
LIBRARIES = {
    'torch': '',
    'torchvision': '',
    'spikingjelly': '',
    'safetensors': '',
    'mmengine': '',
    'mmcv': '',
    'mmpretrain': 'cls',
    'mmdet': 'det',
    'mmseg': 'seg',
}
DISTRIBUTIONS = dict(
    mmengine=('onedl-mmengine', 'mmengine'),
    mmcv=('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    mmpretrain=('onedl-mmpretrain', 'mmpretrain'),
    mmdet=('onedl-mmdetection', 'mmdet'),
    mmseg=('onedl-mmsegmentation', 'mmsegmentation'))

# What else brings an extra: module -> (distribution, extra, purpose).
EXTRAS = {
    'pycocotools': ('pycocotools', 'det', 'COCO scores'),
    'sklearn': ('scikit-learn', 'demo', 'the digits'),
    'onnx': ('onnx', 'onnx', 'export'),
    'onnxruntime': ('onnxruntime', 'onnx', 'export'),
    'datasets': ('datasets', 'data', 'parquet files'),
}

# Instructions that multiply 8-bit integers, by their names in /proc/cpuinfo.
INTEGER_FLAGS = ('avx_vnni', 'avx512_vnni', 'avx_vnni_int8', 'amx_int8',
                 'asimddp', 'i8mm')


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        group (str): Heading it stands under.
        name (str): What was looked at.
        status (str): 'works'; 'absent', which limits what can be done; or
            'broken', which is a fault.
        detail (str): Version, device or reason.
        remedy (str): What to do about it; empty where it works.
    """
    group: str
    name: str
    status: str
    detail: str
    remedy: str = ''


def check_environment(required: tuple[str, ...] = ()) -> list[Finding]:
    """Look at everything, in the order in which it is needed.

    Args:
        required (tuple[str]): Of 'cls', 'det', 'seg': frameworks whose
            absence is a fault. Defaults to ().
    """
    return [
        *check_libraries(required), *check_extras(), *check_operators(),
        *check_network(),
        *check_accelerator(), *check_integer_kernels(), *check_data()
    ]


def check_libraries(required: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Versions, and whether each library can be imported."""
    group = 'libraries'
    yield Finding(group, 'mmqsdt', WORKS, __version__)
    yield Finding(group, 'python', WORKS, platform.python_version())
    for module, extra in LIBRARIES.items():
        name, found = find_distribution(module)
        purpose = next((f' ({task})' for e, task in FRAMEWORKS.values()
                        if e == extra), '')
        install = f'pip install "mmqsdt[{extra}]"' if extra else \
            'pip install mmqsdt, or make install in a checkout'
        if found is None:
            missing = BROKEN if extra in ('', *required) else ABSENT
            yield Finding(group, module + purpose, missing, 'not installed',
                          install)
            continue
        try:
            # mmdet imports its operators only with its models.
            import_module(f'{module}.models' if extra else module)
        except Exception as error:  # a broken installation fails in any way
            yield Finding(group, module + purpose, BROKEN,
                          f'{found}: {reason(error)}', f'again: {install}')
            continue
        remedy = ''
        if name in TESTED_VERSIONS:
            first, end = TESTED_VERSIONS[name]
            if not Version(first) <= Version(found) < Version(end):
                remedy = f'tested with >={first},<{end}: requirements.txt'
        yield Finding(group, module + purpose, WORKS, found, remedy)


def check_extras() -> Iterator[Finding]:
    """Check packages that some tools need and most trainings do not."""
    for module, (name, extra, purpose) in EXTRAS.items():
        title = f'{name} ({purpose})'
        install = f'pip install "mmqsdt[{extra}]"'
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding('extras', title, ABSENT, 'not installed', install)
            continue

        def run(module: str = module) -> None:
            import_module(module)

        yield attempt('extras', title, found, run, f'again: {install}')


def find_distribution(module: str) -> tuple[str, str | None]:
    """Which distribution brings a module, and its version, None if none."""
    names = DISTRIBUTIONS.get(module, (module, ))
    for name in names:
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return names[0], None


def reason(error: Exception) -> str:
    """Return an error's first line, or its type where it has no text."""
    return (str(error).strip().split('\n')[0] or type(error).__name__)[:200]


def attempt(group: str, name: str, detail: str, run: Callable[[], object],
            remedy: str) -> Finding:
    """Run something; a fault of any kind becomes a line of the report."""
    try:
        said = run()
    except Exception as error:
        return Finding(group, name, BROKEN, reason(error), remedy)
    return Finding(group, name, WORKS, said if isinstance(said, str) else
                   detail)


def check_operators() -> Iterator[Finding]:
    """mmcv's compiled operators or the stand-in, run once."""
    if compat.install():
        detail = 'stand-in by mmqsdt, over torchvision and PyTorch'
    else:
        detail = 'compiled, of mmcv'

    def run() -> None:
        from mmcv.ops import nms
        boxes = torch.tensor([[0., 0., 8., 8.], [0., 0., 8., 7.]])
        kept = nms(boxes, torch.tensor([0.9, 0.8]), 0.5)[1]
        if kept.tolist() != [0]:
            raise RuntimeError(f'nms keeps boxes {kept.tolist()}, not [0]')

    yield attempt('operators', 'mmcv.ops', detail, run,
                  'pip install torchvision of the release that fits torch')


def check_network() -> Iterator[Finding]:
    """Run the smallest network forward, backward and in its three forms."""
    from ..deploy import FORMS, to_form
    from ..models import QSDTransformer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = QSDTransformer(arch='tiny')
        images = torch.randn(2, 3, 32, 32)
    group, remedy = 'network', 'install the versions of requirements.txt'

    def train() -> None:
        model.train()(images)[-1].square().mean().backward()
        if not all(torch.isfinite(p.grad).all() for p in model.parameters()
                   if p.grad is not None):
            raise RuntimeError('gradients are not finite')

    yield attempt(group, 'training step', 'forward and backward', train,
                  remedy)
    model.eval()
    for form in FORMS:

        def infer(form: str = form) -> None:
            with torch.no_grad():
                output = to_form(model, form)(images)[-1]
            if not torch.isfinite(output).all():
                raise RuntimeError('outputs are not finite')

        yield attempt(group, f'inference, {form}', 'runs', infer, remedy)


def check_accelerator() -> Iterator[Finding]:
    """GPUs and the like, and whether this PyTorch can compute on them."""
    group = 'accelerator'
    device = torch.accelerator.current_accelerator() \
        if torch.accelerator.is_available() else None
    if device is None:
        remedy = 'not needed: all runs on the CPU, more slowly'
        if Path('/proc/driver/nvidia').exists() and not torch.version.cuda:
            remedy = 'this machine has an NVIDIA GPU, but this PyTorch is ' \
                'for CPUs only: install one built for CUDA'
        yield Finding(group, 'GPU', ABSENT, 'none that PyTorch sees', remedy)
        return
    for index in range(torch.accelerator.device_count()):
        place = torch.device(device.type, index)

        def run(place: torch.device = place) -> str:
            x = torch.ones(1, 3, 8, 8, device=place)
            torch.nn.functional.conv2d(x, x).sum().item()
            return describe_device(place)

        yield attempt(group, str(place), '', run,
                      'install a PyTorch built for this device and driver')


def describe_device(device: torch.device) -> str:
    """Name, memory and precisions of a device."""
    if device.type != 'cuda':
        return device.type
    properties = torch.cuda.get_device_properties(device)
    precisions = 'float16, bfloat16' if torch.cuda.is_bf16_supported() \
        else 'float16'
    return (f'{properties.name}, {properties.total_memory / 2**30:.0f} GiB, '
            f'--amp in {precisions}')


def check_integer_kernels() -> Iterator[Finding]:
    """Report what the processor and PyTorch offer for 8-bit arithmetic."""
    group = 'integer kernels'
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding(group, 'CPU', WORKS,
                  f'{torch.get_num_threads()} threads, {capability}')
    flags = [f for f in INTEGER_FLAGS if f in processor_flags()]
    yield Finding(
        group, 'int8 instructions', WORKS if flags else ABSENT,
        ', '.join(flags) or 'none found',
        '' if flags else 'not needed: integers are then multiplied without')
    engines = [e for e in torch.backends.quantized.supported_engines
               if e != 'none']
    yield Finding(group, 'quantized engines', WORKS if engines else ABSENT,
                  ', '.join(engines) or 'none in this PyTorch',
                  '' if engines else 'install a PyTorch built with them')
    known = [op for op in ('qconv2d_pointwise', 'qlinear_pointwise')
             if hasattr(torch.ops.onednn, op)]
    usable = bool(known) and torch.backends.mkldnn.is_available()
    yield Finding(group, 'oneDNN', WORKS if usable else ABSENT,
                  ', '.join(known) if usable else 'not in this PyTorch',
                  '' if usable else 'not needed for inference in any form')
    places = [torch.device('cpu')]
    if torch.cuda.is_available():
        places.append(torch.device('cuda'))
    for place in places:

        def run(place: torch.device = place) -> None:
            a, b = (torch.arange(32 * 32).reshape(32, 32) % 15 - 7
                    for _ in range(2))
            product: Tensor = torch._int_mm(
                a.to(place, torch.int8), b.to(place, torch.int8))
            if not torch.equal(product.cpu().long(), a @ b):
                raise RuntimeError('the product is not exact')

        yield attempt(group, f'int8 product, {place}', 'exact', run,
                      'not needed for inference in any form')


def processor_flags() -> set[str]:
    """Names of the processor's instruction sets; empty where not told."""
    try:
        lines = read_text('/proc/cpuinfo').splitlines()
    except OSError:  # not Linux
        return set()
    return next((set(line.split(':', 1)[1].split()) for line in lines
                 if line.lower().startswith(('flags', 'features'))), set())


def check_data() -> Iterator[Finding]:
    """Configs, and which data sets are where they are looked for."""
    configs = Path(get_config_path())
    number = len(list(configs.glob('[cds]*/*.py')))
    yield Finding('configs and data', 'configs', WORKS,
                  f'{number}; python -m mmqsdt train --list')
    for part, (name, source) in DATA_SOURCES.items():
        there = Path('data', part).is_dir()
        yield Finding('configs and data', name, WORKS if there else ABSENT,
                      f'data/{part}', '' if there else source)


def print_report(findings: list[Finding], console: Console) -> None:
    """Print the findings as a table, and a summary."""
    table = Table(box=None, pad_edge=False, header_style='bold')
    for column in ('', 'status', 'detail', 'remedy'):
        table.add_column(column, overflow='fold')
    group = None
    for each in findings:
        if each.group != group:
            group = each.group
            table.add_row(f'[bold]{group}[/bold]')
        color = COLORS[each.status]
        table.add_row(f'  {each.name}', f'[{color}]{each.status}[/{color}]',
                      escape(each.detail), escape(each.remedy))
    console.print(table)
    broken = [f.name for f in findings if f.status == BROKEN]
    console.print(
        f'\n[bold red]does not work: {", ".join(broken)}[/bold red]'
        if broken else '\n[green]everything that is here works[/green]')


def escape(text: str) -> str:
    """Brackets as they are: mmqsdt[det] is no style."""
    from rich.markup import escape
    return escape(text)


@command
def main() -> None:
    """Command line of ``tools/check_env.py`` and ``python -m mmqsdt``."""
    parser = ToolParser(
        description='What of mmqsdt works on this machine. Exit status: 0 if '
        'nothing is broken, else 1.')
    parser.add_argument(
        '--json', action='store_true', help='print JSON, for scripts')
    parser.add_argument(
        '--require', nargs='+', default=[], choices=('cls', 'det', 'seg'),
        help='tasks whose framework must be there, too')
    args = parser.parse_args()
    # What the libraries print while they are imported is no part of it.
    stdout, sys.stdout = sys.stdout, sys.stderr
    try:
        findings = check_environment(tuple(args.require))
    finally:
        sys.stdout = stdout
    works = all(f.status != BROKEN for f in findings)
    if args.json:
        content = dict(works=works, findings=[asdict(f) for f in findings])
        print(json.dumps(content, indent=2))
    else:
        width = None if sys.stdout.isatty() else int(
            os.environ.get('COLUMNS', 120))
        print_report(findings, Console(width=width))
    raise SystemExit(0 if works else 1)
