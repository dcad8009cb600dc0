"""What the docs tell a reader to type or to open is there."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / 'docs').glob('*.md'))


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(),
                      re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """[tool, argument, ...] of each of our tools that a page calls."""
    found = []
    for block in blocks(page, 'bash'):
        for line in block.replace('\\\n', ' ').splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ['python'] and words[1].startswith('tools/'):
                found.append(words[1:])
    return found


def page_name(page: Path) -> str:
    return page.name


@pytest.mark.parametrize('page', [ROOT / 'README.md', *PAGES], ids=page_name)
def test_links_lead_to_files(page):
    links = re.findall(r'\]\(([^)#\s]+)', page.read_text())
    missing = [x for x in links if '://' not in x
               and not (page.parent / x).exists()]
    assert not missing


@pytest.mark.parametrize('page', PAGES, ids=page_name)
def test_commands_are_understood(page, monkeypatch, capsys):
    """By the tool's own parser, which exits on an unknown option."""
    for command in commands(page):
        tool = ROOT / command[0]
        assert tool.exists(), command
        configs = [x for x in command if x.startswith('configs/')]
        assert all((ROOT / x).exists() for x in configs), command
        parse_args = runpy.run_path(str(tool)).get('parse_args')
        if parse_args is None:
            continue
        monkeypatch.setattr(sys, 'argv', command)
        try:
            parse_args()
        except SystemExit:
            pytest.fail(f'{shlex.join(command)}: {capsys.readouterr().err}')


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


def test_the_site_builds_without_dead_links(tmp_path):
    for package in ('sphinx', 'myst_parser', 'furo'):
        pytest.importorskip(package)
    html = tmp_path / 'html'
    done = subprocess.run(
        [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-d',
         str(tmp_path / 'trees'), str(ROOT / 'docs'), str(html)],
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {p.stem for p in PAGES} <= {p.stem for p in html.glob('*.html')}
    # Every page can be reached: one that no other names is a warning, above.
    assert 'IELIF' in (html / 'api.html').read_text()
