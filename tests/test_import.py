import os
import subprocess
import sys

import pytest

import mmqsdt


def loaded_by(code: str) -> set[str]:
    """Packages that a program has loaded at its end, without a warning."""
    code = ('import sys, warnings\n'
            'warnings.filterwarnings("error", message=".*mmqsdt.*")\n'
            f'{code}\n'
            'print("LOADED", *sys.modules)')
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
        timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    (loaded, ) = (line.split()[1:] for line in done.stdout.splitlines()
                  if line.startswith('LOADED'))
    return {name.split('.')[0] for name in loaded}


def test_import_is_quick():
    loaded = loaded_by('import mmqsdt; dir(mmqsdt)')
    assert 'mmqsdt' in loaded
    assert not loaded & {'torch', 'mmengine', 'mmcv', 'spikingjelly'}


def test_a_backbone_needs_no_framework():
    loaded = loaded_by('import mmqsdt; mmqsdt.QSDTransformer')
    assert {'torch', 'mmengine', 'mmcv'} <= loaded
    assert not loaded & {'mmpretrain', 'mmdet', 'mmseg'}


def test_what_is_public_and_nothing_else_is_shown():
    assert dir(mmqsdt) == sorted(mmqsdt.__all__)
    assert {'QSDTransformer', 'IELIF', 'LSQConv2d', 'load'} <= set(
        mmqsdt.__all__)
    assert set(mmqsdt.FRAMEWORK_CLASSES) <= set(mmqsdt.__all__)


def test_every_public_name_is_there():
    for name in mmqsdt.__all__:
        if name not in mmqsdt.FRAMEWORK_CLASSES:
            assert getattr(mmqsdt, name) is not None
    for room in ('deploy', 'measure', 'registry'):  # without an import
        assert getattr(mmqsdt, room).__name__ == f'mmqsdt.{room}'
    with pytest.raises(AttributeError, match="no attribute 'QSDTransformr'"):
        mmqsdt.QSDTransformr  # noqa: B018


@pytest.mark.parametrize('arguments, words', [
    (['-h'], 'swap               Put a QSD-Transformer into a stock config'),
    (['trian'], "no tool 'trian'; did you mean train?"),
    (['train', 'qsdt_fpn_ade'], 'no config at qsdt_fpn_ade; did you mean seg'),
    (['test', 'qsdt_digits', 'x.pth'], 'no checkpoint at x.pth'),
    (['predict', 'qsdt_digits', 'x.jpg'], 'no picture at x.jpg'),
    (['predict', 'qsdt_digits', 'x.pth', '.'], 'no checkpoint at x.pth'),
    (['swap', 'mmdet::x/y.py'], 'mmdet'),
])
def test_what_can_be_said_without_torch(arguments, words):
    """Half a second, not five: nothing heavy is imported."""
    code = ('import sys\n'
            'from mmqsdt.__main__ import run\n'
            'try:\n'
            f'    run({arguments!r})\n'
            'except SystemExit as stop:\n'
            '    print(stop.code)\n'
            'print("HEAVY", {"torch", "mmengine", "cv2"} & set(sys.modules))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True,
                          text=True, timeout=120)
    assert words in done.stdout, done.stderr[-2000:]
    assert 'HEAVY set()' in done.stdout
