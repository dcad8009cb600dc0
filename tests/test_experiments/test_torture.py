"""``make torture`` keeps to its time, and says what it left out."""

import pytest

from experiments.torture.__main__ import COLUMNS, make_table, run_case
from experiments.torture.budget import Budget
from experiments.torture.cases import CASES, Case


def ten(folder, budget):
    for fault in budget.each(range(10)):
        budget.figures.append(str(fault))
    return budget.done, []


def lost(folder, budget):
    list(budget.each([1, 2]))
    return budget.done, ['x', 'y']


def broken(folder, budget):
    for fault in budget.each([1, 2]):
        1 // (fault - 2)


@pytest.mark.parametrize('run, seconds, in_time, expected, wrong', [
    (ten, 60, True, ['10', 'nothing', '; '.join('0123456789')], []),
    # The first one always: no case is left out by a slow machine alone.
    (ten, 0, True, ['1 of 10: the time was up', 'nothing', '0'], []),
    (ten, 0, False, ['0 of 10: the time was up', '1', ''],
     ['not run, the time was up']),
    (lost, 60, True, ['2', '2', ''], ['x', 'y']),
    (broken, 60, True, ['1', '1', ''], ['ZeroDivisionError: ']),
])
def test_a_row_says_what_was_done_and_what_was_not(
        run, seconds, in_time, expected, wrong, workplace):
    case = Case('fault', 'promise', 10, 1, run)
    row, said = run_case(case, seconds, in_time)
    assert [row[i] for i in (1, 3, 4)] == expected
    assert len(row) == len(COLUMNS) and (row[0], row[2]) == (
        'fault', 'promise')
    assert [text.startswith(start) for text, start in zip(said, wrong)] == \
        [True] * len(wrong)


def test_all_kinds_of_faults_are_in_the_table():
    names = [case.fault for case in CASES]
    assert len(set(names)) == len(names)
    assert not any('|' in case.fault + case.promise for case in CASES)
    fuzzed = [case.times for case in CASES if 'mutated' in case.fault]
    assert sum(fuzzed) >= 100_000
    table = make_table([['a', '1', 'b', 'nothing', '', '2']], 90.)
    assert '| a | 1 | b | nothing |  | 2 |\n\n1 kinds of faults in 1.5 ' \
        'minutes on ' in table


def test_a_budget_without_an_end_gives_all():
    budget = Budget()
    assert list(budget.each('abc')) == ['a', 'b', 'c']
    assert budget.done == 3 and not budget.cut
