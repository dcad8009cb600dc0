"""The states of a process's random number generators, as plain data."""

import random

import numpy as np
import torch


def random_states() -> dict:
    """Return the states of Python's, NumPy's and torch's generators.

    Tensors, numbers and strings only, so that a checkpoint that holds them
    can be read without unpickling code.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states = dict(
        python=[version, torch.tensor(words), gauss],
        numpy=[
            name,
            torch.from_numpy(keys.astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached)
        ],
        torch=torch.get_rng_state())
    if torch.cuda.is_available():
        states['cuda'] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict) -> None:
    """Set all generators to what :func:`random_states` returned."""
    version, words, gauss = states['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, position, has_gauss, cached = states['numpy']
    np.random.set_state(
        (name, keys.cpu().numpy().astype(np.uint32), position, has_gauss,
         cached))
    # The checkpoint may have been loaded to a GPU; torch wants states on CPU.
    torch.set_rng_state(states['torch'].cpu())
    cuda = states.get('cuda', [])
    if cuda and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in cuda])
