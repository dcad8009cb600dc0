import pytest

from experiments.benchmark import (
    Benchmark,
    check_loading,
    loading,
    measure_loading,
)


@pytest.mark.parametrize('task', ['cls', 'det', 'seg'])
def test_loading_of_every_framework(task, load, monkeypatch):
    monkeypatch.setattr(loading, 'IMAGES', 4)
    monkeypatch.setattr(loading, 'BACKENDS', ('cv2', 'pillow'))
    report = Benchmark(task, 1, 1)
    measure_loading(report, load(task), workers=(0, 1))
    assert [(e['backend'], e['workers']) for e in report.loading] == [
        ('cv2', 0), ('cv2', 1), ('pillow', 0), ('pillow', 1)]
    assert min(e['images_per_second'] for e in report.loading) > 1


def test_data_that_are_no_images_are_refused(load):
    cfg = load('cls')
    cfg.train_dataloader.dataset.pipeline = [dict(type='PackInputs')]
    with pytest.raises(ValueError, match='begins with LoadImageFromFile'):
        check_loading(cfg)
