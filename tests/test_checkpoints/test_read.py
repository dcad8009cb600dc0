import argparse
import logging
import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub, MMLogger
from torch import nn

from mmqsdt import LSQConv2d, LSQLinear, QSDTransformer
from mmqsdt.checkpoints.convert import convert_reference_checkpoint
from mmqsdt.checkpoints.fit import load_for_test, load_pretrained
from mmqsdt.checkpoints.read import load_state_dict

PUBLISHED_ARCH = dict(
    embed_dims=(16, 32, 64, 80), depths=(3, 1), num_heads=8)


def small_model(seed=0, bits=4):
    torch.manual_seed(seed)
    return nn.Sequential(
        LSQConv2d(3, 4, 3, bits=bits), nn.BatchNorm2d(4),
        LSQConv2d(4, 2, 1, bits=bits))


@pytest.fixture
def log():
    """What is logged meanwhile, one string an entry."""
    lines = []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.fixture
def save(tmp_path):
    """Save an object, return the path."""

    def _save(content, name='x.pth', **kwargs):
        torch.save(content, tmp_path / name, **kwargs)
        return str(tmp_path / name)

    return _save


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[k], expected[k]) for k in expected)


# Reading --------------------------------------------------------------------
@pytest.mark.parametrize('wrap', [
    lambda state: state,
    lambda state: dict(state_dict=state, meta=dict(epoch=3)),
    lambda state: dict(model=state, epoch=3),
    lambda state: dict(state_dict=state, model=dict(other=torch.ones(1))),
    lambda state: dict(state, num_updates=7),
])
def test_state_dict_is_found(save, wrap):
    state = dict(small_model().state_dict())
    assert_same(load_state_dict(save(wrap(state))), state)


def test_old_format_is_read(save):
    state = dict(small_model().state_dict())
    path = save(state, _use_new_zipfile_serialization=False)
    assert_same(load_state_dict(path), state)


def test_path_may_be_a_path_object(tmp_path):
    torch.save(dict(a=torch.ones(1)), tmp_path / 'x.pth')
    assert load_state_dict(tmp_path / 'x.pth') == dict(a=torch.ones(1))


def test_plain_data_beside_the_tensors_is_tolerated(save):
    state = dict(small_model().state_dict())
    content = dict(
        model=state,
        args=argparse.Namespace(lr=0.1, data_path='/data'),
        best=np.float64(0.5),
        curve=np.arange(3.),
        epoch=np.int64(3))
    assert_same(load_state_dict(save(content)), state)


def test_message_hub_of_a_training_run_is_tolerated(save):
    state = dict(small_model().state_dict())
    hub = MessageHub('hub of a test')
    hub.update_scalar('train/loss', torch.tensor(1.5))
    hub.update_scalar('train/lr', np.float64(0.1))
    hub.update_info('iter', 3)
    assert isinstance(hub.state_dict()['log_scalars']['train/lr'],
                      HistoryBuffer)
    path = save(dict(state_dict=state, message_hub=hub.state_dict()))
    assert_same(load_state_dict(path), state)


def test_plain_data_classes_stay_unknown_to_other_loads(save):
    path = save(dict(args=argparse.Namespace(lr=0.1), a=torch.ones(1)))
    load_state_dict(path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_safetensors_are_read(tmp_path):
    safetensors = pytest.importorskip('safetensors.torch')
    state = dict(small_model().state_dict())
    safetensors.save_file(state, tmp_path / 'x.safetensors')
    assert_same(load_state_dict(str(tmp_path / 'x.safetensors')), state)


class Trap:
    """Creates a file when it is unpickled by a careless reader."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('format', ['zip', 'old', 'pickle'])
def test_code_in_a_checkpoint_is_refused_and_not_executed(
        save, tmp_path, format):
    marker = tmp_path / 'executed'
    content = dict(state_dict=dict(a=torch.ones(1)), hook=Trap(marker))
    if format == 'pickle':
        path = tmp_path / 'x.pth'
        path.write_bytes(pickle.dumps(content))
        careless = pickle.loads(path.read_bytes())
    else:
        path = save(
            content, _use_new_zipfile_serialization=format == 'zip')
        careless = torch.load(path, weights_only=False)
    careless['hook'].close()
    assert marker.exists()  # the trap works
    marker.unlink()

    with pytest.raises(ValueError, match='x.pth'):
        load_state_dict(path)
    assert not marker.exists()


class Attribute:
    """Pickled as getattr(owner, name)."""

    def __init__(self, owner, name):
        self.args = owner, name

    def __reduce__(self):
        return getattr, self.args


@pytest.mark.parametrize('owner, name', [
    (HistoryBuffer, '__init__'),
    (HistoryBuffer, 'register_statistics'),
    (argparse.Namespace, '__class__'),
])
def test_attributes_of_tolerated_classes_are_refused(save, owner, name):
    path = save(dict(a=torch.ones(1), hook=Attribute(owner, name)))
    with pytest.raises(ValueError, match='x.pth'):
        load_state_dict(path)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path):
    path = tmp_path / 'x.pth'
    torch.save(dict(a=torch.zeros(10**6)), path)
    load_state_dict(path)
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    assert torch.load(path, weights_only=True)['a'].shape == (10**6, )
    with pytest.raises(ValueError, match='x.pth.*bytes unpack to 4,'):
        load_state_dict(path)


@pytest.mark.parametrize('value, words', [
    (torch.zeros(1).expand(10**6, 10**6), 'a claims 4,000,000,000,000 bytes'),
    (torch.zeros(10**6, 10**6, device='meta'), 'a is no array of numbers'),
    (torch.sparse_coo_tensor([[0]], [1.], (10**12, ), check_invariants=True),
     'a is no array'),
])
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('wrap', [
    lambda value: dict(a=value),
    lambda value: dict(state_dict=dict(a=value)),
    lambda value: dict(b=torch.ones(1), optimizer=dict(state=[dict(a=value)])),
])
def test_tensors_that_a_file_does_not_hold_are_refused(save, value, words,
                                                       wrap):
    with pytest.raises(ValueError, match=f'x.pth.*{words}'):
        load_state_dict(save(wrap(value)))


def test_nests_without_an_end_are_read(save):
    nest = [torch.ones(1)]
    nest.append(nest)
    for _ in range(100):
        nest = [nest, nest]  # 2^100 tensors, if each were looked at
    assert load_state_dict(save(dict(a=torch.ones(1), nest=nest))) == dict(
        a=torch.ones(1))


def test_names_that_are_no_text_are_left_out(save):
    path = save({'a': torch.ones(1), 1: torch.ones(1), None: torch.ones(1)})
    assert load_state_dict(path) == dict(a=torch.ones(1))


@pytest.mark.parametrize('format', ['zip', 'old', 'safetensors'])
@pytest.mark.parametrize('share', [0, 0.01, 0.5, 0.99])
def test_truncated_file_is_called_damaged(tmp_path, format, share):
    path = tmp_path / 'x.pth'
    state = dict(a=torch.rand(1000))
    if format == 'safetensors':
        path = tmp_path / 'x.safetensors'
        pytest.importorskip('safetensors.torch').save_file(state, path)
    else:
        torch.save(
            state, path, _use_new_zipfile_serialization=format == 'zip')
    whole = path.read_bytes()
    path.write_bytes(whole[:int(share * len(whole))])
    with pytest.raises(ValueError, match=f'{path.name}.*(damaged|checkpoint)'):
        load_state_dict(path)


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('content', [
    b'a line of text\n', b'<html><body>404</body></html>', b'\x00' * 512,
    b'\x80\x04', b'{"epoch": 3}'
])
def test_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / 'x.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='x.pth'):
        load_state_dict(path)


@pytest.mark.parametrize('name', ['none.pth', 'none.safetensors', ''])
def test_missing_file_is_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match='no checkpoint at'):
        load_state_dict(tmp_path / name)


@pytest.mark.parametrize('content', [
    {}, [torch.ones(1)], torch.ones(1), dict(epoch=3), dict(state_dict={})
])
def test_file_without_a_state_dict_is_refused(save, content):
    with pytest.raises(ValueError, match='holds no state dict'):
        load_state_dict(save(content))


# Into a module --------------------------------------------------------------
def test_everything_matched_is_said(save, log):
    source, model = small_model(1), small_model(2)
    path = save(source.state_dict())
    load_pretrained(model, path)
    assert_same(model.state_dict(), source.state_dict())
    n = len(source.state_dict())
    assert log == [f'Sequential: {n} of {n} keys loaded from {path}']


def test_backbone_part_is_taken_unless_told_otherwise(save):
    backbone, other = small_model(1), small_model(2)
    state = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    state |= {f'student.net.{k}': v for k, v in other.state_dict().items()}
    path = save(dict(state_dict=state))
    for prefix, source in ((None, backbone), ('backbone', backbone),
                           ('student.net', other), ('student.net.', other)):
        model = small_model(3)
        load_pretrained(model, path, prefix)
        assert_same(model.state_dict(), source.state_dict())


def test_prefix_that_is_not_there_is_an_error(save):
    path = save(small_model().state_dict())
    with pytest.raises(ValueError, match="prefix 'teacher.'"):
        load_pretrained(small_model(), path, 'teacher')


def test_no_match_names_expected_and_found_keys(save):
    path = save(dict(state_dict={'layer1.weight': torch.rand(2)}))
    model = small_model()
    with pytest.raises(
            ValueError,
            match="not of Sequential: no key matches; expected keys such as "
            "'0.weight', got 'layer1.weight'"):
        load_pretrained(model, path)


def test_missing_and_unused_keys_are_said(save, log):
    state = small_model(1).state_dict()
    del state['1.running_mean'], state['2.weight'], state['2.step_size']
    state['fc.weight'] = torch.rand(2)
    load_pretrained(small_model(2), save(state))
    (line, ) = log
    assert f'{len(state) - 1} of {len(state) + 2} keys loaded' in line
    assert 'MISSING 3, e.g. 1.running_mean' in line
    assert '1 not used, e.g. fc.weight' in line


def test_different_shapes_name_the_first_and_change_nothing(save):
    state = small_model(1).state_dict()
    state['0.weight'] = torch.rand(8, 3, 3, 3)
    state['0.bias'] = torch.rand(8)
    model = small_model(2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(
            ValueError,
            match=r'another arch than this Sequential \(2 shapes differ\). '
            r'First: 0.weight is \(8, 3, 3, 3\) in the file, \(4, 3, '):
        load_pretrained(model, save(state))
    assert_same(model.state_dict(), before)


@pytest.mark.parametrize('value', ['nan', 'inf'])
def test_weights_of_a_diverged_training_are_refused(save, value):
    state = small_model(1).state_dict()
    state['0.weight'][0, 0, 0, 0] = float(value)
    with pytest.raises(ValueError, match='1 of 108 values of 0.weight are'):
        load_pretrained(small_model(2), save(state))


def test_float_weights_derive_step_sizes_and_it_is_said(save, log):
    source, model = small_model(1, bits=None), small_model(2)
    path = save(source.state_dict())
    load_pretrained(model, path)
    for layer in (model[0], model[2]):
        mean = layer.weight.detach().abs().mean()
        assert torch.equal(layer.step_size.detach(),
                           (2 * mean / 7**0.5).expand(len(layer.weight)))
    n = len(source.state_dict())
    assert log == [
        f'Sequential: {n} of {n + 2} keys loaded from {path}; 2 step sizes '
        'derived from float weights'
    ]


def test_quantised_weights_into_a_float_model_leave_the_steps(save, log):
    source, model = small_model(1), small_model(2, bits=None)
    load_pretrained(model, save(source.state_dict()))
    assert torch.equal(model[0].weight, source[0].weight)
    assert '2 not used, e.g. 0.step_size' in log[0]


def test_loaded_step_size_is_not_derived_again(save):
    source = small_model(1)
    with torch.no_grad():
        source[0].step_size.fill_(0.3)
    model = small_model(2)
    load_pretrained(model, save(source.state_dict()))
    model[0](torch.rand(1, 3, 4, 4))
    assert torch.equal(model[0].step_size, torch.full((4, ), 0.3))


def test_untrained_step_size_is_refused(save):
    state = small_model().state_dict()
    state['0.step_size'][1] = float('nan')
    # torch turns what a layer finds into a RuntimeError.
    with pytest.raises((ValueError, RuntimeError),
                       match='0.step_size must be finite and positive'):
        load_pretrained(small_model(), save(state))


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_published_checkpoint_is_converted(golden, save, log, prefix):
    state = golden('tiny_cls', 'state/')
    path = save(
        dict(
            model={prefix + k: v
                   for k, v in state.items()},
            args=argparse.Namespace(nb_classes=10)))
    model = QSDTransformer(PUBLISHED_ARCH)
    load_pretrained(model, path)
    assert_same(model.state_dict(),
                convert_reference_checkpoint(state, backbone_only=True))
    n = len(model.state_dict())
    assert log == [f'QSDTransformer: {n} of {n} keys loaded from {path}']


# A whole model for a test ---------------------------------------------------
def test_whole_model_is_loaded_and_extra_keys_are_said(save, log):
    source, model = small_model(1), small_model(2)
    state = source.state_dict()
    state['teacher.weight'] = torch.rand(2)
    path = save(dict(state_dict=state))
    load_for_test(model, path)
    assert_same(model.state_dict(), source.state_dict())
    n = len(source.state_dict())
    assert log == [
        f'{n} of {n} keys loaded from {path}; 1 not used, e.g. teacher.weight'
    ]


def test_wrapped_model_is_unwrapped(save):

    class Wrapper(nn.Module):

        def __init__(self, module):
            super().__init__()
            self.module = module

    source, model = small_model(1), small_model(2)
    load_for_test(Wrapper(Wrapper(model)), save(source.state_dict()))
    assert_same(model.state_dict(), source.state_dict())


def test_missing_keys_are_an_error_and_change_nothing(save):
    state = small_model(1).state_dict()
    del state['2.weight'], state['2.bias']
    model = small_model(2)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    n = len(before)
    with pytest.raises(
            ValueError, match=f'lacks 2 of the {n} keys.*e.g. 2.weight'):
        load_for_test(model, save(state))
    assert_same(model.state_dict(), before)


def test_missing_step_sizes_are_an_error_too(save):
    path = save(small_model(1, bits=None).state_dict())
    with pytest.raises(ValueError, match='lacks 2 .*0.step_size'):
        load_for_test(small_model(2), path)


def test_other_shapes_are_an_error(save):
    path = save(LSQLinear(3, 4).state_dict())
    with pytest.raises(
            ValueError,
            match=r'another config .*First: weight is \(4, 3\) in the file'):
        load_for_test(LSQLinear(3, 5), path)
