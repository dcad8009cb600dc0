from experiments.compare_forms import FormScore, forms_table


def score(name: str, top1: float, flips: dict, seconds: float) -> FormScore:
    return FormScore(
        name, {'accuracy/top1': top1}, flips=flips, counts=2000,
        seconds=[seconds] * 3, bytes=1234567)


def test_table():
    found = [
        score('float', 97.2222, {}, .5),
        score('integer', 97.5, dict(float32=1, float64=0), .25),
        score('fast', 97., dict(float32=12), .125)
    ]
    found[1].arisen, found[1].distance = 1, 2e-7
    found[2].arisen, found[2].distance = 3, 6.4e-7
    assert forms_table(found, 2).splitlines() == [
        '| form | top-1, % | flips, float32 | flips, float64 '
        '| time of an image over float | bytes of weights |',
        '| --- | --- | --- | --- | --- | --- |',
        '| float | 97.22 | - | - | 1.00 | 1,234,567 |',
        '| integer | 97.50 | 1 of 2,000, from 1 within 2e-07 | 0 of 2,000 '
        '| 0.50 | 1,234,567 |',
        '| fast | 97.00 | 12 of 2,000, from 3 within 6e-07 | - '
        '| 0.25 | 1,234,567 |', '',
        'Spikes compared on 2 test images; "from" counts the flips that no '
        'other led to, "within" is their largest distance to a threshold.'
    ]


def test_double_scores_have_columns_of_their_own():
    found = [score('float', 97., {}, .5), score('fast', 97., {}, .5)]
    found[0].double_scores = {'accuracy/top1': 96.}
    lines = forms_table(found, 1).splitlines()
    assert '| top-1, % | top-1, %, float64 |' in lines[0]
    assert '| float | 97.00 | 96.00 |' in lines[2]
    assert '| fast | 97.00 | - |' in lines[3]
