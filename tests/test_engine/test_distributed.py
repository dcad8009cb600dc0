"""Several processes; ``make torture`` has more, and torchrun."""

from pathlib import Path

import pytest
import torch.distributed
from mmengine.config import Config

from mmqsdt.data.check import refuse_faults
from mmqsdt.engine.distributed import ends_together, join_processes

GLOO = torch.distributed.is_available() and \
    torch.distributed.is_gloo_available()


@pytest.fixture
def workplace(own_workplace) -> Path:
    if not GLOO:
        pytest.skip('this build of torch has no gloo')
    return own_workplace


def test_two_processes_are_one_with_twice_the_batch(workplace):
    from experiments.torture.processes import check_doubled_batch
    assert check_doubled_batch(workplace) == (4, [])


def test_all_processes_validate_what_is_in_the_checkpoint(workplace):
    from experiments.torture.processes import check_statistics
    assert check_statistics(workplace) == (1, [])


def test_when_one_process_dies_the_other_ends(workplace):
    from experiments.torture.processes import check_death
    assert check_death(workplace, victims=(1, )) == (1, [])


def test_sigterm_to_one_process_stops_both(workplace):
    from experiments.torture.processes import check_stop
    assert check_stop(workplace) == (1, [])


def test_torchrun_shows_the_first_error(workplace):
    from experiments.torture.processes import check_torchrun
    assert check_torchrun(workplace, ('raised', )) == (1, [])


def test_mmengines_runner_of_sharded_models(workplace):
    from experiments.torture.processes import check_flexible
    assert check_flexible(workplace, ('fsdp', )) == (1, [])


@pytest.fixture
def alone(monkeypatch) -> None:
    """No launcher around, whatever runs this test."""
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)


def test_one_process_joins_nobody(alone):
    cfg = Config(dict(launcher='none'))
    join_processes(cfg)
    assert 'model_wrapper_cfg' not in cfg
    assert not torch.distributed.is_initialized()


def test_torchrun_without_the_launcher_named(alone, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ValueError, match='add --launcher pytorch'):
        join_processes(Config(dict(launcher='none')))


def test_the_launcher_named_without_torchrun(alone):
    with pytest.raises(ValueError, match='torchrun --nproc-per-node'):
        join_processes(Config(dict(launcher='pytorch')))


def test_synchronised_batch_norms_need_a_gpu(alone, monkeypatch):
    monkeypatch.setattr('mmqsdt.engine.distributed.get_device', lambda: 'cpu')
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR'):
        monkeypatch.setenv(name, '1')
    with pytest.raises(ValueError, match='sync_bn works on GPUs only'):
        join_processes(Config(dict(launcher='pytorch', sync_bn='torch')))


@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_other_launchers_need_an_accelerator(launcher, alone, monkeypatch):
    monkeypatch.setattr('mmqsdt.engine.distributed.get_device', lambda: 'cpu')
    with pytest.raises(ValueError, match='needs an accelerator'):
        join_processes(Config(dict(launcher=launcher)))


REFUSING = (0, 1, None)


def refuse(rank: int, folder: Path) -> None:
    for which in REFUSING:
        try:
            with ends_together():
                if rank == which:
                    raise KeyError('a broken file')
        except (KeyError, ValueError) as error:
            (folder / f'{which}-{rank}.txt').write_text(
                f'{type(error).__name__} {error}')


def test_what_one_process_refuses_ends_both(two_processes, tmp_path):
    two_processes(refuse)
    for which in REFUSING:
        said = {path.stem[-1]: path.read_text()
                for path in tmp_path.glob(f'{which}-*.txt')}
        assert said == ({} if which is None else {
            str(which): "KeyError 'a broken file'",
            str(1 - which): f"ValueError process {which} cannot go on: "
            "'a broken file'"})


def test_one_process_ends_alone(alone):
    with pytest.raises(KeyError, match='a broken file'), ends_together():
        raise KeyError('a broken file')
    with ends_together():
        pass


@pytest.mark.parametrize('launcher', ['none', 'pytorch'])
@pytest.mark.parametrize('name', ['RANK', 'SLURM_PROCID',
                                  'OMPI_COMM_WORLD_RANK'])
def test_a_process_that_joined_nobody_is_the_first(name, launcher, alone,
                                                   monkeypatch):
    """Whatever variables a scheduler has left around it."""
    monkeypatch.setenv(name, '3')
    cfg = Config(dict(default_scope='mmengine', train_dataloader=dict(
        dataset=dict(type='BaseDataset', ann_file='none.json')),
        launcher=launcher))
    with pytest.raises(ValueError, match='unreadable annotation'):
        refuse_faults(cfg, ('train', ))
