import json

import numpy as np
import pytest

from experiments.benchmark import Benchmark, Timing, fitted_exponent
from experiments.benchmark.summary import main, to_table


def report(config='name', batch=2, size=64, **medians):
    timings = [Timing(n, batch, size, [ms / 1e3] * 3)
               for n, ms in medians.items()]
    return Benchmark(config, 1, 3, timings=timings)


def test_speedup_is_over_the_best_counterpart():
    r = report(fast=10., ann=50., ann_folded=30.)
    assert r.baseline(2, 64).name == 'ann_folded'
    assert r.speedup(r.timings[0]) == pytest.approx(3.)
    assert r.timings[0].throughput == pytest.approx(200.)
    assert np.isnan(report(fast=10.).speedup(r.timings[0]))


def test_exponent_of_a_power_law():
    amounts = np.array([10., 20., 80.])
    assert fitted_exponent(amounts, 3 * amounts**1.5) == pytest.approx(1.5)


def test_the_json_has_all_rounds(tmp_path):
    r = report(fast=10., ann=30.)
    r.write_json(tmp_path / 'r.json')
    data = json.loads((tmp_path / 'r.json').read_text())
    assert data['timings'][0]['seconds'] == [0.01] * 3
    assert data['timings'][0]['speedup'] == pytest.approx(3.)


def test_the_table_that_a_user_decides_by(tmp_path, capsys):
    r = report(fast=10., float=90., ann=50., ann_onnx=25.)
    r.machine = 'Intel(R) Xeon(R) Processor (avx2 avx512_vnni amx_int8), ' \
        'PyTorch 2.14.1'
    other = report('other', 1, 512, fast=40., ann=60.)
    other.machine = 'AMD EPYC (avx2 avx512_vnni), PyTorch 2.14.1'
    for each in (r, other):
        each.write_json(tmp_path / f'{each.config}.json')
    main([str(tmp_path / 'name.json'), str(tmp_path / 'other.json'),
          '--page', str(tmp_path / 'page.md')])
    rows = [[cell.strip() for cell in line.split('|')[1:-1]]
            for line in capsys.readouterr().out.splitlines()]
    assert rows[2] == ['name', '64', '2', 'Intel Xeon, AMX', '1', '10.0',
                       '200.0', '2.50', 'folded, ONNX Runtime fp32']
    assert rows[3] == ['other', '512', '1', 'AMD EPYC, VNNI', '1', '40.0',
                       '25.0', '1.50', 'counterpart, eager']
    assert '| name |' in (tmp_path / 'page.md').read_text()


def test_without_a_fast_form_there_is_no_row(tmp_path):
    report(ann=30.).write_json(tmp_path / 'r.json')
    assert len(to_table([tmp_path / 'r.json']).splitlines()) == 2
