"""Which operations leave spikes spikes: the one table of them.

Those do that only choose, order, repeat or scale spikes. Every other
operation puts out real values. A new one becomes known with one more entry
in ``OPERATIONS``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..layers import SpikingNeuron


@dataclass(frozen=True)
class Spikes:
    """What is known of a tensor whose values are amplitude * count.

    Attributes:
        neurons (tuple[SpikingNeuron]): Whose spikes these are; several if
            they were concatenated or multiplied.
        amplitude (float): Of one spike.
        levels (int, optional): D, the largest count; None for the sums of a
            product of spikes, which have no such bound.
        product (Product, optional): The product whose sums these are.
        factors (int): How many tensors of spikes were multiplied.
    """
    neurons: tuple[SpikingNeuron, ...]
    amplitude: float
    levels: int | None
    product: 'Product | None' = None
    factors: int = 1

    @classmethod
    def of(cls, neuron: SpikingNeuron) -> 'Spikes':
        """What a neuron puts out."""
        return cls((neuron, ), float(neuron.amplitude), int(neuron.levels))

    @property
    def bounded(self) -> bool:
        """Whether a layer that reads it reads spikes."""
        return self.levels is not None and bool(self.neurons)

    def scaled(self, factor: float) -> 'Spikes | None':
        """Times a number; None if that makes no spikes."""
        if factor == 0 or not self.neurons:
            return ZEROS
        return replace(self, amplitude=self.amplitude * factor) \
            if factor > 0 else None


# A tensor of zeros: no neuron's, and nothing beside spikes of any amplitude.
ZEROS = Spikes((), 1., 0)


def joined(tags: Sequence[Spikes | None]) -> Spikes | None:
    """Of tensors put side by side: spikes, if all are, of one amplitude."""
    if None in tags:
        return None
    spikes = [tag for tag in tags if tag.neurons]
    if not all(tag.bounded and tag.amplitude == spikes[0].amplitude
               for tag in spikes):
        return None
    return replace(
        (spikes or tags)[0],
        neurons=tuple(dict.fromkeys(n for tag in tags for n in tag.neurons)),
        levels=max(tag.levels for tag in tags))


@dataclass(eq=False)
class Product:
    """A product of spikes with something that is no layer's weight.

    Attributes:
        scope (str): Path of the module in whose forward it stands.
        operations (list[str]): Names of the operations; two of them for
            q (k^T v).
        spikes (list[Spikes]): What is read, in order.
        elementwise (bool): Whether no sum is taken.
    """
    scope: str
    operations: list[str]
    spikes: list[Spikes]
    elementwise: bool = False

    @property
    def trilinear(self) -> bool:
        """Whether it is a product of three tensors of spikes."""
        return len(self.operations) == 2


# What operations do with the tags of the tensors they read.

Rule = Callable[[list, tuple, dict], Spikes | None]


def keep(tags: list, args: tuple, kwargs: dict) -> Spikes | None:
    """It only moves, picks or repeats what is in the first tensor."""
    return tags[0]


def end(tags: list, args: tuple, kwargs: dict) -> None:
    """It puts out real values."""


def join(tags: list, args: tuple, kwargs: dict) -> Spikes | None:
    """It puts tensors side by side, or takes the larger of two."""
    return joined(tags)


def largest(tags: list, args: tuple, kwargs: dict) -> Spikes | None:
    """The maximum over axes, or of two tensors."""
    return joined(tags)


def has_zero(args: tuple) -> bool:
    """Whether the number 0 is among arguments."""
    return any(isinstance(a, (int, float)) and a == 0 for a in args)


def write(tags: list, args: tuple, kwargs: dict) -> Spikes | None:
    """It writes one tensor, or a number, into another."""
    if isinstance(args[2], (int, float)):
        return tags[0] if args[2] == 0 else None
    return joined([tags[0], tags[-1]])


def add(tags: list, args: tuple, kwargs: dict) -> Spikes | None:
    """Sums are real values, but for zeros: a loop can begin with them."""
    if len(tags) == 1:
        return tags[0] if has_zero(args) else None
    rest = [tag for tag in tags if tag != ZEROS]
    return ZEROS if not rest else rest[0] \
        if len(rest) == 1 and not kwargs else None


def pad(tags: list, args: tuple, kwargs: dict) -> Spikes | None:
    """Zeros are no spikes; so is what lies there already."""
    mode = kwargs.get('mode', args[2] if len(args) > 2 else 'constant')
    value = kwargs.get('value', args[3] if len(args) > 3 else None)
    return None if mode == 'constant' and value else tags[0]


def interpolate(tags: list, args: tuple, kwargs: dict) -> Spikes | None:
    """The nearest pixel is a pixel; other modes take means."""
    mode = kwargs.get('mode', args[3] if len(args) > 3 else 'nearest')
    return tags[0] if mode.startswith('nearest') else None


def dropout(tags: list, args: tuple, kwargs: dict) -> Spikes | None:
    """In evaluation it does nothing."""
    training = kwargs.get('training', args[2] if len(args) > 2 else True)
    return None if training else tags[0]


def scale(tags: list, args: tuple, kwargs: dict) -> Spikes | None:
    """Times a number, the amplitude is another."""
    number = next((a for a in args if isinstance(a, (int, float))), None)
    return None if number is None else tags[0].scaled(number)


def divide(tags: list, args: tuple, kwargs: dict) -> Spikes | None:
    """By a number, the amplitude is another."""
    number = args[1] if len(args) > 1 else None
    return tags[0].scaled(1 / number) \
        if isinstance(number, (int, float)) and number else None


def product(tags: list, args: tuple, kwargs: dict) -> Spikes | None:
    """Sums of products: counts without bound if all are spikes."""
    if len(tags) != 2 or not all(tag and tag.neurons for tag in tags):
        return None
    a, b = tags
    return Spikes((*a.neurons, *b.neurons), a.amplitude * b.amplitude, None,
                  factors=a.factors + b.factors)


def elementwise(tags: list, args: tuple, kwargs: dict) -> Spikes | None:
    """A number, or counts times counts."""
    if len(tags) == 1:
        return scale(tags, args, kwargs)
    if None in tags or not all(tag.bounded for tag in tags):
        return None
    return replace(
        product(tags, args, kwargs), levels=tags[0].levels * tags[1].levels)


# By the name of a function or method without underscores at its ends, or of
# a module's class. What is not listed puts out real values.
OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(
        'T adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d alias '
        'broadcast_to channel_shuffle chunk clone contiguous cpu cuda data '
        'detach double expand expand_as flatten flip float gather getitem '
        'half hsplit im2col index_select mH mT masked_select max_pool1d '
        'max_pool2d max_pool2d_with_indices max_pool3d moveaxis movedim '
        'narrow permute pixel_shuffle pixel_unshuffle ravel relu repeat '
        'repeat_interleave requires_grad reshape reshape_as roll rot90 '
        'select split split_with_sizes squeeze swapaxes swapdims t '
        'take_along_dim tensor_split tile to transpose type type_as unbind '
        'unflatten unfold unsqueeze view view_as vsplit'.split(), keep),
    'RoIPool': keep,
    'RoIAlign': end,
    'add': add,
    'amax': largest,
    'cat': join,
    'concat': join,
    'concatenate': join,
    'div': divide,
    'dropout': dropout,
    'dropout2d': dropout,
    'dropout3d': dropout,
    'hstack': join,
    'iadd': add,
    'interpolate': interpolate,
    'max': largest,
    'maximum': join,
    'pad': pad,
    'radd': add,
    'setitem': write,
    'stack': join,
    'true_divide': divide,
    'truediv': divide,
    'vstack': join,
    # Products.
    'bmm': product,
    'conv1d': product,
    'conv2d': product,
    'conv3d': product,
    'conv_transpose2d': product,
    'einsum': product,
    'linear': product,
    'matmul': product,
    'mm': product,
    'mul': elementwise,
    'multiply': elementwise,
    'rmatmul': product,
    'rmul': elementwise,
}
PRODUCTS = (product, elementwise)
# Asked of a tensor without reading its values; the first three tell of how
# many images it is.
SIZES = {'len', 'shape', 'size'}
FACTS = SIZES | set(
    'version device dim dtype element_size get_device grad_fn hash is_complex '
    'is_contiguous is_cpu is_cuda is_floating_point is_inference is_leaf '
    'is_meta is_mkldnn is_nested is_quantized is_sparse layout ndim '
    'ndimension numel requires_grad retain_grad stride data_ptr '
    'storage_offset set_grad_enabled is_grad_enabled'.split())
# Tensors that something has to be written into, and what is told to do so.
ZERO = {'zeros', 'zeros_like', 'new_zeros'}
BLANK = {'empty', 'empty_like', 'new_empty', *ZERO}
FILLS = {'setitem', 'add', 'iadd', 'radd'}
