"""The docs lead nowhere that is not there; test_docs_commands runs them."""

import inspect
import re
import runpy
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from test_docs_commands import PAGES, WORDS, commands, page_name, reason

import mmqsdt
from mmqsdt import registry

ROOT = Path(__file__).parents[1]
# Where __all__ names what users may call.
PUBLIC = ('mmqsdt', 'mmqsdt.checkpoints', 'mmqsdt.data', 'mmqsdt.deploy',
          'mmqsdt.deploy.onnx_graph', 'mmqsdt.distill', 'mmqsdt.engine.hooks',
          'mmqsdt.layers', 'mmqsdt.measure', 'mmqsdt.utils')
REGISTRIES = ('MODELS', 'DATASETS', 'HOOKS', 'OPTIM_WRAPPERS', 'TRANSFORMS')
# Options on the pages that are of other programs.
FOREIGN = {'--no-deps', '--nnodes', '--nproc-per-node', '--rdzv-backend',
           '--rdzv-endpoint'}


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(),
                      re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and MyST make them."""
    found = re.findall(r'^#+ (.*)$', page.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-')
            for title in found}


@pytest.mark.parametrize('page', PAGES, ids=page_name)
def test_links_lead_to_files_and_headings(page):
    links = re.findall(r'\]\(([^)\s]+)\)', page.read_text())
    for path, anchor in (link.partition('#')[::2] for link in links
                         if '://' not in link):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f'{path}#{anchor}'


@pytest.mark.parametrize('page', PAGES, ids=page_name)
def test_commands_that_are_not_run_are_understood(page, monkeypatch, capsys):
    """By the tool's own parser, which exits on an unknown option."""
    for command in commands(page):
        if not reason(command) or not command.startswith('python tools/'):
            continue
        words = [WORDS.get(w.strip('[]'), w.strip('[]'))
                 for w in shlex.split(command)[1:]]
        configs = [w for w in words if w.startswith('configs/')]
        assert all((ROOT / config).exists() for config in configs), command
        main = runpy.run_path(str(ROOT / words[0]))['main']
        parse_args = sys.modules[main.__module__].parse_args
        monkeypatch.setattr(sys, 'argv', words)
        try:
            parse_args()
        except SystemExit:
            pytest.fail(f'{command}: {capsys.readouterr().err}')


def test_options_exist():
    """Those in the prose, too; a word of a page is of some tool of ours."""
    sources = [*(ROOT / 'mmqsdt/cli').glob('*.py'),
               *(ROOT / 'experiments').rglob('*.py')]
    known = {option for path in sources
             for option in re.findall(r"'(--[a-z-]+)'", path.read_text())}
    for page in PAGES:
        named = re.findall(r'(?<![\w-])--[a-z][a-z-]+', page.read_text())
        assert set(named) <= known | FOREIGN, page.name


def test_names_exist():
    """What the pages call mmqsdt.X is registered, or can be imported."""
    registered = {name for each in REGISTRIES
                  for name in loaded(each).module_dict}
    text = '\n'.join(page.read_text() for page in PAGES)
    for name in set(re.findall(r'\bmmqsdt\.([A-Za-z_][\w.]*\w)', text)):
        assert name in registered or is_there(name), name


def loaded(name: str):
    """A registry with all of its classes."""
    each = getattr(registry, name)
    each.import_from_location()
    if name == 'MODELS':
        for cls in registry.FRAMEWORK_CLASSES:
            registry.import_framework_class(cls)
    return each


def is_there(name: str) -> bool:
    found = mmqsdt
    for part in name.split('.'):
        if not hasattr(found, part):
            try:
                import_module(f'{found.__name__}.{part}')
            except ImportError:
                return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize('page', PAGES, ids=page_name)
def test_programs_are_python(page):
    for program in blocks(page, 'python'):
        # ', ...' stands for what the reader has there
        compile(re.sub(r', \.\.\.(?=[,)])', '', program), page.name, 'exec')


def test_the_network_of_ones_own_on_the_page_of_spikes(tmp_path, monkeypatch,
                                                       capsys):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('sklearn')
    monkeypatch.chdir(tmp_path)
    page = ROOT / 'docs/spikes.md'
    program, = (x for x in blocks(page, 'python') if 'class Net' in x)
    exec(compile(program, 'docs/spikes.md', 'exec'), {})
    printed = capsys.readouterr().out
    assert blocks(page, 'text')[0] in printed
    assert '\n0 of 617760 spike counts differ' in printed
    assert float(printed.split('tensor(')[1].split(')')[0]) > .5  # 0.1: chance
    assert (tmp_path / 'net.onnx').is_file()


def test_the_golden_model_on_the_page_of_spikes(tmp_path, monkeypatch,
                                                capsys):
    """The last program of the page runs as printed, with equal forms."""
    pytest.importorskip('mmpretrain.models')
    program = blocks(ROOT / 'docs/spikes.md', 'python')[-1]
    (tmp_path / 'tests').symlink_to(ROOT / 'tests')
    monkeypatch.chdir(tmp_path)
    exec(compile(program, 'docs/spikes.md', 'exec'), {})
    out = capsys.readouterr().out
    assert re.search(r'^0 of \d+ spike counts differ', out, re.MULTILINE)
    assert '49 layers read spikes, 37 read real values' in out
    assert Path('golden.safetensors').exists()


def test_the_pictures_of_the_page_on_concepts(tmp_path):
    """Drawn by their program, of the size of those that are there."""
    from PIL import Image
    names = runpy.run_path(str(ROOT / 'docs/draw_concepts.py'))
    names['main'].__globals__['OUT'] = tmp_path
    names['main']()
    for name in ('neuron.png', 'window.png'):
        assert Image.open(tmp_path / name).size == Image.open(
            ROOT / 'docs/images' / name).size


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    """The pages, built as ``make docs`` does: a warning is an error."""
    for package in ('sphinx', 'myst_parser', 'furo', 'mmpretrain.models',
                    'mmdet.models', 'mmseg.models', 'onnxruntime'):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp('site')
    done = subprocess.run(
        [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-d',
         str(folder / 'trees'), str(ROOT / 'docs'), str(folder / 'html')],
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / 'html'


def test_the_site_has_every_page(site):
    # Every page can be reached: one that no other names is a warning.
    assert {p.stem for p in PAGES if p.parent.name == 'docs'} <= {
        p.stem for p in site.glob('*.html')}


def test_the_reference_has_every_public_class(site):
    """And function: all that is registered, and all in __all__."""
    described = set(re.findall(r'id="mmqsdt\.[\w.]*?(\w+)"',
                               (site / 'api.html').read_text()))
    public = {name for each in REGISTRIES
              for name in loaded(each).module_dict}
    for module in map(import_module, PUBLIC):
        public |= {name for name in module.__all__
                   if inspect.isclass(getattr(module, name))
                   or inspect.isfunction(getattr(module, name))}
    missing = sorted(public - described)
    assert not missing
