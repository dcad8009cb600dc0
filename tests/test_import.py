import os
import subprocess
import sys

import mmqsdt


def test_import_brings_no_framework_and_no_warning():
    code = ('import sys, warnings\n'
            'warnings.filterwarnings("error", message=".*mmqsdt.*")\n'
            'import mmqsdt\n'
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
    packages = {name.split('.')[0] for name in loaded}
    assert {'mmqsdt', 'torch', 'mmengine', 'mmcv'} <= packages
    assert not packages & {'mmpretrain', 'mmdet', 'mmseg'}


def test_every_public_name_is_there():
    for name in mmqsdt.__all__:
        if name not in mmqsdt.FRAMEWORK_CLASSES:
            assert getattr(mmqsdt, name) is not None
    assert {'QSDTransformer', 'IELIF', 'LSQConv2d'} <= set(mmqsdt.__all__)
    assert set(mmqsdt.FRAMEWORK_CLASSES) <= set(mmqsdt.__all__)
