"""Scripts written before the modules had rooms find what they import."""

import sys
from importlib import import_module

import pytest

# As they stood in the reference and in the programs of the pages.
NAMES = {
    'amp': ['BFloat16OptimWrapper'],
    'analysis': ['spike_entropy'],
    'analysis.energy': ['measure_energy'],
    'checkpoint': ['load_for_test', 'load_state_dict', 'read_checkpoint'],
    'convert': ['convert_reference_checkpoint'],
    'datasets': ['prepare_digits', 'EventFrames'],
    'datasets.check': ['check_config', 'check_path'],
    'deploy': ['build_model', 'is_packed', 'load_batches', 'load_packed',
               'load_weights', 'pack', 'read_packed'],
    'environment': ['check_environment'],
    'hooks': ['ChannelsLastHook', 'DrawPredictionsHook', 'picture_of'],
    'launch': ['build_model', 'check_data', 'check_framework',
               'find_checkpoint', 'load_batches', 'load_config'],
    'monitor': ['SpikeMonitorHook'],
    'predict': ['Predictor', 'read_picture'],
    'processes': ['AverageStatisticsHook', 'join_processes'],
    'publish': ['publish'],
    'reliability': ['NonFiniteError', 'ReliableCheckpointHook'],
    'reliability.atomic': ['write_atomically'],
    'utils': ['find_config', 'get_config_path'],
    'zoo': ['list_zoo'],
}


@pytest.mark.parametrize('module', NAMES)
def test_names_are_found_where_they_were(module):
    found = import_module(f'mmqsdt.{module}')
    for name in NAMES[module]:
        assert getattr(found, name).__name__ in (name, 'load_for_test')


def test_the_new_place_is_named(recwarn):
    sys.modules.pop('mmqsdt.analysis.energy', None)
    with pytest.warns(DeprecationWarning, match='mmqsdt.measure.energy'):
        import_module('mmqsdt.analysis.energy')


@pytest.mark.parametrize('name', [
    'mmqsdt.nothing', 'mmqsdt.analysis.nothing', 'mmqsdt.amp.nothing'])
def test_what_was_never_there_is_not_found(name):
    with pytest.raises(ModuleNotFoundError):
        import_module(name)


def test_a_name_that_is_nowhere():
    with pytest.raises(ImportError, match='cannot import name'):
        from mmqsdt.launch import nothing  # noqa: F401
