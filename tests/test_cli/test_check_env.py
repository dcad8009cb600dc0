"""The report on the environment tells faults from what is merely absent."""

import json
import sys
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from mmqsdt import __main__, compat
from mmqsdt.cli import check_env as environment
from mmqsdt.cli.check_env import ABSENT, BROKEN, WORKS


def by_name(findings) -> dict:
    return {finding.name: finding for finding in findings}


def test_all_is_looked_at_and_whatever_lacks_has_a_remedy():
    findings = environment.check_environment()
    assert list(dict.fromkeys(f.group for f in findings)) == [
        'libraries', 'extras', 'operators', 'network', 'accelerator',
        'integer kernels', 'configs and data'
    ]
    assert len(by_name(findings)) == len(findings)
    for each in findings:
        assert each.status in (WORKS, ABSENT, BROKEN)
        assert each.remedy or each.status == WORKS, each
    assert not [f for f in findings if f.status == BROKEN]
    found = by_name(findings)
    assert found['torch'].detail == torch.__version__.split('+')[0]
    assert 'stand-in' in found['mmcv.ops'].detail or not compat.install()


def hide(monkeypatch, *names: str) -> None:
    real = environment.version

    def version(name: str) -> str:
        if name in names:
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(environment, 'version', version)


@pytest.mark.parametrize('required, status', [((), ABSENT),
                                              (('det', ), BROKEN)])
def test_a_missing_framework_is_a_fault_only_if_required(
        required, status, monkeypatch):
    hide(monkeypatch, 'mmdet', 'onedl-mmdetection')
    found = by_name(environment.check_libraries(required))['mmdet (detection)']
    assert found.status == status
    assert found.remedy == 'pip install "mmqsdt[det]"'


def test_extras_that_are_missing_or_broken(monkeypatch):
    hide(monkeypatch, 'onnx')
    monkeypatch.setitem(sys.modules, 'datasets', None)
    found = by_name(environment.check_extras())
    assert found['onnx (export)'].status == ABSENT
    assert found['onnx (export)'].remedy == 'pip install "mmqsdt[onnx]"'
    assert found['datasets (parquet files)'].status == BROKEN
    assert found['scikit-learn (the digits)'].status == WORKS


def test_a_missing_core_library_is_a_fault(monkeypatch):
    hide(monkeypatch, 'spikingjelly')
    found = by_name(environment.check_libraries())
    assert found['spikingjelly'].status == BROKEN


def test_a_library_that_cannot_be_imported_is_a_fault(monkeypatch):
    pytest.importorskip('mmseg')
    real = environment.import_module

    def import_module(name: str):
        if name == 'mmseg.models':
            raise OSError('libfoo.so: undefined symbol\nmore')
        return real(name)

    monkeypatch.setattr(environment, 'import_module', import_module)
    found = by_name(environment.check_libraries())['mmseg (segmentation)']
    assert found.status == BROKEN
    assert 'libfoo.so' in found.detail and 'more' not in found.detail
    assert 'mmqsdt[seg]' in found.remedy


def test_an_untested_version_works_with_a_remark(monkeypatch):
    monkeypatch.setitem(environment.TESTED_VERSIONS, 'torch', ('1.0', '1.1'))
    found = by_name(environment.check_libraries())['torch']
    assert found.status == WORKS and '>=1.0,<1.1' in found.remedy


def test_an_operator_that_is_wrong_is_a_fault(monkeypatch):
    if not compat.install():
        pytest.skip('mmcv has its own operators')
    monkeypatch.setattr('torchvision.ops.nms',
                        lambda boxes, *args: torch.arange(len(boxes)))
    found, = environment.check_operators()
    assert found.status == BROKEN and 'not [0]' in found.detail


def test_an_integer_product_that_is_not_exact_is_a_fault(monkeypatch):
    monkeypatch.setattr(
        torch, '_int_mm', lambda a, b: (a.float() @ b.float()).int() + 1)
    found = by_name(environment.check_integer_kernels())['int8 product, cpu']
    assert found.status == BROKEN


def test_outputs_that_are_not_finite_are_a_fault(monkeypatch):
    monkeypatch.setattr('mmqsdt.deploy.to_form', lambda model, form:
                        lambda x: (x * torch.nan, ))
    found = by_name(environment.check_network())
    assert found['training step'].status == WORKS
    assert found['inference, integer'].status == BROKEN


def test_the_check_leaves_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    list(environment.check_network())
    assert torch.equal(torch.rand(2), expected)


def run_main(monkeypatch, *args: str) -> int:
    monkeypatch.setattr(sys, 'argv', ['check_env.py', *args])
    with pytest.raises(SystemExit) as stop:
        environment.main()
    return stop.value.code


FINDING = environment.Finding('libraries', 'torch', BROKEN, 'no',
                              'pip install "mmqsdt[det]"')


@pytest.mark.parametrize('status, code', [(WORKS, 0), (ABSENT, 0),
                                          (BROKEN, 1)])
def test_exit_status_and_json(status, code, monkeypatch, capsys):
    def check(required):
        print('a library talks')
        return [environment.Finding('libraries', 'torch', status, 'x')]

    monkeypatch.setattr(environment, 'check_environment', check)
    assert run_main(monkeypatch, '--json') == code
    content = json.loads(capsys.readouterr().out)
    assert content['works'] == (code == 0)
    assert content['findings'][0] == dict(
        group='libraries', name='torch', status=status, detail='x', remedy='')


def test_the_table_names_fault_and_remedy(monkeypatch, capsys):
    monkeypatch.setattr(environment, 'check_environment', lambda r: [FINDING])
    assert run_main(monkeypatch) == 1
    printed = capsys.readouterr().out
    assert 'pip install "mmqsdt[det]"' in printed
    assert 'does not work: torch' in printed


def test_the_package_runs_its_tools(monkeypatch, capsys):
    assert {'train', 'test', 'predict', 'publish', 'check_env'} <= set(
        __main__.find_tools())
    with pytest.raises(SystemExit, match='trian.; did you mean train'):
        __main__.run(['trian'])
    monkeypatch.setattr(sys, 'argv', ['mmqsdt', 'train', '--list', 'ade20k'])
    __main__.run(sys.argv[1:])
    assert 'seg/qsdt_fpn_ade20k' in capsys.readouterr().out
