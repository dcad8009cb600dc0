import importlib.util
import json
import os
import subprocess
import sys

import pytest
from mmengine.registry import HOOKS, MODELS, OPTIM_WRAPPERS, DefaultScope

import mmqsdt
from mmqsdt.registry import FRAMEWORK_CLASSES

LIBRARY_CLASSES = ('QSDTransformer', 'IELIF', 'LIF', 'LSQConv2d', 'LSQLinear')


# Reads programs and runs each in a fork of itself, so that PyTorch is imported
# once for all of them. Nothing of OpenMMLab is imported here.
FORKS = """
import json, os, sys
import torch, torchvision
for name, code in json.load(sys.stdin).items():
    print('PROGRAM', name, flush=True)
    child = os.fork()
    if not child:
        exec(code, {})
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f'{name} failed')
"""
FRESH = {scope: f"""
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock
# Importing mmdet.models takes an mmcv with compiled operators; where it has
# none, an empty module stands for them: none of them is called.
if importlib.util.find_spec('mmcv._ext') is None:
    sys.modules['mmcv._ext'] = MagicMock(
        __spec__=ModuleSpec('mmcv._ext', None))
from mmengine.registry import init_default_scope
from {scope}.registry import MODELS, OPTIM_WRAPPERS
init_default_scope({scope!r})
assert 'mmqsdt' not in sys.modules
model = MODELS.build(dict(
    type='mmqsdt.QSDTransformer', arch='tiny', out_indices=(0, )))
print('BUILT', type(model).__module__, type(model).__name__)
print('GOT', OPTIM_WRAPPERS.get('mmqsdt.BFloat16OptimWrapper').__name__)
""" for scope in ('mmpretrain', 'mmdet', 'mmseg')}
MISSING = """
import sys
for framework in ('mmpretrain', 'mmdet', 'mmseg'):
    sys.modules[framework] = None  # as if it were not installed
import mmqsdt
from mmengine.registry import MODELS
from mmqsdt.registry import FRAMEWORK_CLASSES
for name in FRAMEWORK_CLASSES:
    for ask in (lambda: getattr(mmqsdt, name),
                lambda: MODELS.build(dict(type=f'mmqsdt.{name}'))):
        try:
            ask()
        except ImportError as error:
            print('ERROR', error)
MODELS.build(dict(type='mmqsdt.QSDTransformer', arch='tiny'))
print('THE REST WORKS')
"""


@pytest.fixture(scope='module')
def printed():
    """What fresh interpreters print: by the name of their program."""
    programs = {scope: code for scope, code in FRESH.items()
                if importlib.util.find_spec(scope)}
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', FORKS],
        input=json.dumps(dict(programs, missing=MISSING)),
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    parts = done.stdout.split('PROGRAM ')[1:]
    return {part.split()[0]: part for part in parts}


@pytest.mark.parametrize('scope', FRESH)
def test_prefix_resolves_without_import_in_every_framework(scope, printed):
    pytest.importorskip(scope)
    assert ('BUILT mmqsdt.models.backbones.qsd_transformer QSDTransformer'
            in printed[scope])
    assert 'GOT BFloat16OptimWrapper' in printed[scope]


def test_missing_framework_is_named_with_the_remedy(printed):
    lines = printed['missing'].splitlines()
    errors = [line for line in lines if line.startswith('ERROR')]
    assert len(errors) == 2 * len(FRAMEWORK_CLASSES) > 0
    for name, (_, framework) in FRAMEWORK_CLASSES.items():
        start = (f'ERROR mmqsdt.{name} builds on {framework}, which cannot '
                 'be imported')
        found = [line for line in errors if line.startswith(start)]
        assert len(found) == 2
        assert all('Install it: pip install "mmqsdt[' in x for x in found)
    assert 'THE REST WORKS' in lines


@pytest.mark.parametrize('name', LIBRARY_CLASSES)
@pytest.mark.parametrize('scope', ['mmengine', 'mmqsdt'])
def test_names_resolve_to_the_classes_of_the_package(name, scope):
    with DefaultScope.overwrite_default_scope(scope):
        assert MODELS.get(f'mmqsdt.{name}') is getattr(mmqsdt, name)


@pytest.mark.parametrize('name', FRAMEWORK_CLASSES)
def test_framework_classes_resolve_by_prefix_and_by_attribute(name):
    pytest.importorskip(FRAMEWORK_CLASSES[name][1])
    cls = getattr(mmqsdt, name)
    assert cls.__name__ == name
    assert MODELS.get(f'mmqsdt.{name}') is cls


def test_hooks_and_optimizer_wrappers_resolve():
    from mmqsdt.engine.amp import BFloat16OptimWrapper
    from mmqsdt.engine.hooks.draw_predictions import DrawPredictionsHook
    assert HOOKS.get('mmqsdt.DrawPredictionsHook') is DrawPredictionsHook
    assert OPTIM_WRAPPERS.get(
        'mmqsdt.BFloat16OptimWrapper') is BFloat16OptimWrapper


def test_unknown_names_are_unknown():
    assert MODELS.get('mmqsdt.Nothing') is None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        mmqsdt.Nothing  # noqa: B018
