"""Results go where --out says, in every tool."""

import sys
from importlib import import_module

import pytest

CALLS = {
    'pack': (['c.py', 'x.pth'], 'x.safetensors', 'dst'),
    'export_onnx': (['c.py', 'x.pth'], 'x.onnx', 'out'),
    'calibrate': (['c.py', 'x.pth'], 'y.pth', 'out'),
    'energy': (['c.py', 'x.pth'], 'folder', 'work_dir'),
    'predict': (['c.py', 'x.jpg'], 'folder', 'out'),
    'publish': (['c.py', 'x.pth'], 'folder', 'out'),
    'swap': (['c.py'], 'my.py', 'out'),
}
LAST = ('pack', 'export_onnx', 'calibrate')


def parse(tool: str, *arguments: str):
    module = import_module(f'mmqsdt.cli.{tool}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', [tool, *arguments])
        return module.parse_args()


@pytest.mark.parametrize('tool', CALLS)
def test_out_is_an_option_of_all(tool):
    arguments, out, name = CALLS[tool]
    assert getattr(parse(tool, *arguments, '--out', out), name) == out
    assert getattr(parse(tool, '--out', out, *arguments), name) == out


@pytest.mark.parametrize('tool', LAST)
def test_the_last_argument_still_is(tool, capsys):
    arguments, out, name = CALLS[tool]
    assert getattr(parse(tool, *arguments, out), name) == out
    with pytest.raises(SystemExit):
        parse(tool, *arguments)
    assert 'name the file to write' in capsys.readouterr().err


def test_the_old_name_of_a_folder():
    assert parse('energy', 'c.py', 'x.pth', '--work-dir', 'd').work_dir == 'd'
