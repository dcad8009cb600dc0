"""The one recorder: listen to modules of a model while it runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from ..deploy.spikes import spiking_neurons

# (path, module, what it read, what it returned)
Listener = Callable[[str, nn.Module, Tensor, Tensor], None]


@contextmanager
def listening(modules: Mapping[str, nn.Module], hear: Listener,
              restart: tuple[nn.Module, list] | None = None) -> Iterator[None]:
    """Call a function each time one of the modules has run.

    Args:
        modules (Mapping[str, nn.Module]): By path.
        hear (Listener): Called with the path, the module, its first argument
            and its output.
        restart (tuple, optional): A module and a list, which is emptied
            whenever that module begins: of several runs the last one counts.
    """

    def hook(path: str) -> Callable:
        return lambda module, args, output: hear(path, module, args[0], output)

    handles = [module.register_forward_hook(hook(path))
               for path, module in modules.items()]
    if restart is not None:
        module, found = restart
        handles.append(module.register_forward_pre_hook(
            lambda module, args: found.clear()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def neurons_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the neurons of a model in any form, by path.

    Raises:
        ValueError: If it has none.
    """
    neurons = spiking_neurons(model)
    if not neurons:
        raise ValueError('not a spiking model: it has no neuron such as '
                         'IELIF, only activations, which have no spikes')
    return neurons
