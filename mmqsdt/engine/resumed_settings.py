"""Find changed settings that have no effect on a resumed training."""

from inspect import signature

# Entries of a parameter group that change how a step is computed, not its
# result.
_IMPLEMENTATION = ('params', 'fused', 'foreach', 'capturable',
                   'differentiable')
# Entries that tell optimizers of different kinds apart.
_KINDS = ('betas', 'momentum', 'alpha', 'rho', 'lr_decay', 'etas')


def overruled_settings(runner, checkpoint: dict) -> list[str]:
    """List the settings of a config that a checkpoint overrules.

    Args:
        runner (Runner): Its optimizer and schedulers are built from the
            config and have not loaded their states yet.
        checkpoint (dict): The one that is resumed.

    Returns:
        list[str]: A line for each such setting.

    Raises:
        ValueError: If it is the checkpoint of another kind of optimizer.
    """
    lines: list[str] = []
    theirs = checkpoint.get('optimizer')
    if not isinstance(theirs, dict):
        return lines
    ours = runner.optim_wrapper.state_dict()
    for name, state in _by_name(ours, 'param_groups').items():
        other = _by_name(theirs, 'param_groups').get(name)
        if other is not None:
            lines += [f'{name}{line}' for line in _compare_groups(
                state['param_groups'], other['param_groups'])]
    ours, theirs = runner.param_schedulers, checkpoint.get('param_schedulers')
    if not ours or not theirs:
        return lines
    theirs = theirs if isinstance(theirs, dict) else {'': theirs}
    for name, schedulers in (ours if isinstance(ours, dict) else
                             {'': ours}).items():
        lines += _compare_schedulers(schedulers, theirs.get(name, []))
    flat = [state for states in theirs.values() for state in states]
    info = checkpoint.get('message_hub', {}).get('runtime_info', {})
    if _end_with_the_training(flat, info) and \
            runner.max_iters > info['max_iters']:
        lines.append('a longer training: the schedules end where the former '
                     'training did, and the learning rate stays as it was '
                     'there')
    return lines


def _by_name(states: dict, key: str) -> dict[str, dict]:
    """Return states of optimizers by name; a single one is called ''."""
    if key in states:
        return {'': states}
    return {f'{name}.': state for name, state in states.items()
            if isinstance(state, dict) and key in state}


def _compare_groups(ours: list[dict], theirs: list[dict]) -> list[str]:
    """List the settings in which parameter groups differ, each once."""
    if len(ours) != len(theirs):
        return []  # torch refuses them
    for group, other in zip(ours, theirs):
        lacking = [key for key in _KINDS if (key in group) != (key in other)]
        if lacking:
            raise ValueError(
                'the checkpoint was saved by another kind of optimizer: '
                f'only one of the two has {", ".join(lacking)}. Its state '
                f'does not fit; to go on from the weights alone, '
                f'{_from_weights("PATH")}')
    lines: dict[str, str] = {}
    for group, other in zip(ours, theirs):
        for key in group.keys() & other.keys():
            # A scheduled value changes; its initial value does not.
            if key in _IMPLEMENTATION or f'initial_{key}' in group or \
                    _same(group[key], other[key]):
                continue
            name = key.removeprefix('initial_')
            lines.setdefault(name, _line(name, group[key], other[key]))
    return [lines[name] for name in sorted(lines)]


def _compare_schedulers(ours: list, theirs: list[dict]) -> list[str]:
    """List the arguments in which schedulers differ."""
    lines = []
    if len(ours) != len(theirs):
        lines.append(_line('number of schedulers', len(ours), len(theirs)))
    for scheduler, other in zip(ours, theirs):
        state = scheduler.state_dict()
        arguments = {name for cls in type(scheduler).__mro__
                     for name in signature(cls.__init__).parameters}
        lines += [
            _line(f'{type(scheduler).__name__}.{key}', state[key], other[key])
            for key in state if key in arguments and key in other
            and key not in ('last_step', 'verbose')
            and not _same(state[key], other[key])]
    return lines


def _end_with_the_training(schedulers: list[dict], info: dict) -> bool:
    """Tell whether the last schedule ends with the former training."""
    if not schedulers or not isinstance(info.get('max_iters'), int):
        return False
    ends = [(s.get('end'), info.get('max_epochs') if s.get('by_epoch')
             else info['max_iters']) for s in schedulers]
    return all(isinstance(end, int) and isinstance(last, int) and end <= last
               for end, last in ends) and any(end == last
                                              for end, last in ends)


def _same(a: object, b: object) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return list(a) == list(b)
    return bool(a == b)


def _line(name: str, ours: object, theirs: object) -> str:
    return f'{name}: {ours} in the config, {theirs} in the checkpoint'


def _from_weights(path: str) -> str:
    return f'leave out --resume and add --cfg-options load_from={path}'


def overruled_text(lines: list[str], path: str) -> str:
    """Write one warning about all of them, and what to do."""
    listed = ''.join(f'\n  {line}' for line in lines)
    return ('A resumed training keeps the optimizer and the schedules of its '
            'checkpoint. These settings of the config have no effect:'
            f'{listed}\n  To train with them, starting from these weights, '
            f'{_from_weights(path)}')
