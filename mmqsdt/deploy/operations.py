"""Which operations leave spikes spikes: the one table of them.

Those do that only choose, order, repeat or scale spikes. Every other
operation puts out real values, and so does one that is given an argument of
which the table does not know what it does. A new operation becomes known
with one more line in the table at the end of this file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from numbers import Real

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor

from ..layers import SpikingNeuron

# Amplitudes that no format of floats loses.
SMALLEST, LARGEST = 1e-30, 1e30


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
        """Return what a neuron emits."""
        return cls((neuron, ), float(neuron.amplitude), int(neuron.levels))

    @property
    def bounded(self) -> bool:
        """Whether a layer that reads it reads spikes."""
        return self.levels is not None and bool(self.neurons)

    def scaled(self, factor: float) -> 'Spikes | str':
        """Multiply by a number, or say why that makes no spikes."""
        if not isfinite(factor) or factor < 0:
            return f'a factor of {factor:g}'
        if factor == 0 or not self.neurons:
            return ZEROS
        amplitude = self.amplitude * float(factor)
        if not SMALLEST < amplitude < LARGEST:
            return f'an amplitude of {amplitude:g}'
        return replace(self, amplitude=amplitude)


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


def tensors(item) -> Iterator[Tensor]:
    """Yield the tensors in nested sequences, dicts and data samples."""
    if isinstance(item, Tensor):
        yield item
        return
    if isinstance(item, BaseDataElement):
        item = list(item.all_values())
    elif isinstance(item, Mapping):
        item = list(item.values())
    if isinstance(item, (list, tuple, set)):
        for each in item:
            yield from tensors(each)


class Call:
    """An operation at work.

    Args:
        name (str): Of the operation.
        args, kwargs: What it is given.
        tags (list): Of all tensors in them, in order.
        dtype (torch.dtype, optional): Type of the model's weights.

    Attributes:
        rule (Rule): What it does with tags.
        given (dict): The arguments by the names that the table has.
        unknown (str): Arguments that it has not; '' if there are none.
        out: What the operation made; None as long as it did not run.
    """

    def __init__(self, name: str, args: tuple, kwargs: dict,
                 tags: list[Spikes | None],
                 dtype: torch.dtype | None = None) -> None:
        self.name, self.tags, self.dtype, self.out = name, tags, dtype, None
        self.read = list(tensors([args, kwargs]))
        self.rule, parameters = OPERATIONS.get(name, (end, ()))
        self.given: dict[str, object] = {}
        unknown = []
        rest = next((i for i, name in enumerate(parameters)
                     if name.startswith('*')), len(args))
        for i, value in enumerate(args):
            at = min(i, rest)
            if at < len(parameters):
                self.given.setdefault(parameters[at].strip('*'), value)
            elif value is not None:
                unknown.append(f'argument {i + 1} = {_text(value)}')
        for key, value in kwargs.items():
            if key in parameters or f'*{key}' in parameters:
                self.given[key] = value
            elif value is not None:
                unknown.append(f'{key}={_text(value)}')
        self.unknown = ', '.join(unknown) if parameters else ''

    def tag(self, *names: str) -> Spikes | None:
        """Of the tensor that one of these arguments is."""
        value = self.get(*names)
        return next((tag for x, tag in zip(self.read, self.tags)
                     if x is value), None)

    def get(self, *names: str, default=None):
        """Return the first of these arguments that was given."""
        return next((self.given[n] for n in names if n in self.given),
                    default)

    @property
    def has_zero(self) -> bool:
        """Whether the number 0 is an argument, of two."""
        return any(is_number(x) and x == 0
                   for x in (self.get('input'), self.get('other')))

    def result(self) -> tuple[Spikes | None, str]:
        """Return the tag of what it made; or None, and the reason if known."""
        if self.unknown and any(self.tags):
            return None, f' with {self.unknown}'
        made = self.rule(self)
        if isinstance(made, str):
            return None, f' with {made}'
        return made, ''


def is_number(x) -> bool:
    """Whether something is a number, not a tensor of one."""
    return isinstance(x, Real)


def _text(value) -> str:
    """Describe an argument in a few letters."""
    return 'a tensor' if any(True for _ in tensors(value)) else \
        repr(value)[:30]


# What operations do with the tags of the tensors they read: the tag of what
# they make; None for real values, or a text if an argument is to blame.

Rule = Callable[[Call], Spikes | str | None]


def keep(call: Call) -> Spikes | str | None:
    """Keep the spikes of a tensor that is moved, picked or repeated."""
    x = call.get('input')
    made = next(tensors(call.out), x)
    if made.dtype != x.dtype and made.is_floating_point():
        return f'{made.dtype} made of {x.dtype}'  # view(dtype)
    return call.tag('input')


def cast(call: Call) -> Spikes | str | None:
    """Another type, which may round an amplitude."""
    tag, dtype = call.tag('input'), call.out.dtype
    enough = [x for x in (call.get('input').dtype, call.dtype) if x]
    if tag is None or not dtype.is_floating_point or any(
            torch.promote_types(x, dtype) == dtype for x in enough):
        return tag
    if tag.levels is not None:
        values = torch.arange(tag.levels + 1).double() * tag.amplitude
        if torch.equal(values.to(dtype).double(), values):
            return tag
    return f'{dtype}, which rounds an amplitude of {tag.amplitude:g}'


def end(call: Call) -> None:
    """End the spikes: the output is real-valued."""


def join(call: Call) -> Spikes | None:
    """Put tensors side by side, or take the larger of two."""
    return joined(call.tags)


def write(call: Call) -> Spikes | str | None:
    """Write one tensor, or a number, into another."""
    value, tag = call.get('value'), call.tag('input')
    if is_number(value):
        return tag if value == 0 else f'{value:g}'
    if not isinstance(value, Tensor):
        return f'a {type(value).__name__}'
    new = call.tag('value')
    if new and new.neurons and value.dtype != call.get('input').dtype:
        return f'{value.dtype} in {call.get("input").dtype}'
    return joined([tag, new])


def add(call: Call) -> Spikes | str | None:
    """Add: sums are real values, but a loop may begin with zeros."""
    if len(call.tags) == 1:
        return call.tags[0] if call.has_zero else None
    if call.get('alpha', default=1) != 1:
        return f'alpha={call.get("alpha")}'
    rest = [tag for tag in call.tags if tag != ZEROS]
    return ZEROS if not rest else rest[0] if len(rest) == 1 else None


def pad(call: Call) -> Spikes | str | None:
    """Zeros are no spikes; so is what lies there already."""
    value = call.get('value')
    constant = call.get('mode', default='constant') == 'constant'
    if constant and value is not None and not (
            is_number(value) and value == 0):
        return f'value={_text(value)}'
    return call.tag('input')


def interpolate(call: Call) -> Spikes | str | None:
    """Interpolate: the nearest pixel is a pixel; other modes take means."""
    mode = call.get('mode', default='nearest')
    return call.tag('input') if mode in ('nearest', 'nearest-exact') \
        else f'mode={mode!r}'


def dropout(call: Call) -> Spikes | str | None:
    """In evaluation it does nothing."""
    training = call.get('training', 'train', default=True)
    return 'training=True' if training else call.tag('input')


def scale(call: Call) -> Spikes | str | None:
    """Multiply: a number changes the amplitude."""
    number = next((x for x in call.given.values() if is_number(x)), None)
    return None if number is None else call.tags[0].scaled(number)


def divide(call: Call) -> Spikes | str | None:
    """By a number, the amplitude is another."""
    number, tag = call.get('other'), call.tag('input')
    if tag is None or not is_number(number):
        return None
    if call.get('rounding_mode') is not None:
        return f'rounding_mode={call.get("rounding_mode")!r}'
    return tag.scaled(1 / number) if number else '0'


def product(call: Call) -> Spikes | None:
    """Sum products: counts without bound if all are spikes."""
    if len(call.tags) != 2 or not all(t and t.neurons for t in call.tags):
        return None
    a, b = call.tags
    return Spikes((*a.neurons, *b.neurons), a.amplitude * b.amplitude, None,
                  factors=a.factors + b.factors)


def elementwise(call: Call) -> Spikes | str | None:
    """Multiply by a number, or counts by counts."""
    if len(call.tags) == 1:
        return scale(call)
    if None in call.tags or not all(tag.bounded for tag in call.tags):
        return None
    return replace(product(call), levels=call.tags[0].levels *
                   call.tags[1].levels)


# Every operation that is known: what it does with spikes, its arguments in
# their order (* takes all the rest), and its names: of a function or method
# without underscores at its ends, or of a module's class. Of another
# argument the spikes are real values from there on.
TABLE: list[tuple[Rule, str, str]] = [
    (keep, 'input', 'H T alias data detach iter mH mT ravel t'),
    (keep, 'input dim dim0 dim1 axis axis0 axis1 dims source destination '
     'indices', 'moveaxis movedim squeeze swapaxes swapdims transpose unbind '
     'unsqueeze'),
    (keep, 'input *size size shape dims sizes implicit',
     'broadcast_to expand permute repeat reshape tile view'),
    (keep, 'input other', 'expand_as reshape_as view_as'),
    (keep, 'input start_dim end_dim', 'flatten'),
    (keep, 'input dim sizes', 'unflatten'),
    (keep, 'input *dims shifts k', 'flip fliplr flipud roll rot90'),
    (keep, 'input repeats dim output_size', 'repeat_interleave'),
    (keep, 'input memory_format', 'clone contiguous'),
    (keep, 'input inplace', 'relu'),
    (keep, 'input split_size_or_sections split_size split_sizes '
     'indices_or_sections sections indices chunks dim',
     'chunk hsplit split split_with_sizes tensor_split vsplit'),
    (keep, 'input index', 'getitem'),
    (keep, 'input dim index start length end sparse_grad indices mask',
     'gather index_select masked_select narrow select take_along_dim'),
    (keep, 'input kernel_size stride padding dilation dimension size step',
     'im2col unfold'),
    (keep, 'input kernel_size stride padding dilation ceil_mode '
     'return_indices', 'max_pool1d max_pool2d max_pool2d_with_indices '
     'max_pool3d'),
    (keep, 'input output_size return_indices', 'adaptive_max_pool1d '
     'adaptive_max_pool2d adaptive_max_pool3d'),
    (keep, 'input upscale_factor downscale_factor groups', 'channel_shuffle '
     'pixel_shuffle pixel_unshuffle'),
    (keep, 'input rois boxes', 'RoIPool'),
    (end, 'input rois boxes', 'RoIAlign'),
    (cast, 'input *to dtype device other non_blocking copy memory_format '
     'async', 'bfloat16 cpu cuda double float half to type type_as'),
    (dropout, 'input p training inplace train',
     'dropout dropout1d dropout2d dropout3d'),
    (pad, 'input pad mode value', 'pad'),
    (interpolate, 'input size scale_factor mode align_corners '
     'recompute_scale_factor antialias', 'interpolate'),
    (join, 'tensors dim axis',
     'cat concat concatenate dstack hstack stack vstack'),
    (join, 'input other dim keepdim axis', 'amax max maximum'),
    (write, 'input index value', 'setitem'),
    (add, 'input other alpha', 'add iadd radd'),
    (divide, 'input other rounding_mode',
     'div divide idiv itruediv true_divide truediv'),
    # Products.
    (elementwise, 'input other', 'imul mul multiply rmul'),
    (product, 'input other mat2 tensor2', 'bmm matmul mm rmatmul'),
    (product, 'equation *operands', 'einsum'),
    (product, 'input weight bias', 'linear'),
    (product, 'input weight bias stride padding dilation groups',
     'conv1d conv2d conv3d'),
    (product, 'input weight bias stride padding output_padding groups '
     'dilation', 'conv_transpose1d conv_transpose2d conv_transpose3d'),
]
OPERATIONS: dict[str, tuple[Rule, tuple[str, ...]]] = {
    name: (rule, tuple(parameters.split()))
    for rule, parameters, names in TABLE for name in names.split()
}
PRODUCTS = (product, elementwise)
# Asked of a tensor without reading its values; the first three tell of how
# many images it is.
SIZES = {'len', 'shape', 'size'}
FACTS = SIZES | set(
    'version device dim dtype element_size get_device grad_fn hash is_complex '
    'is_contiguous is_cpu is_cuda is_floating_point is_inference is_leaf '
    'is_meta is_mkldnn is_nested is_quantized is_sparse layout ndim '
    'ndimension numel requires_grad retain_grad stride '
    'storage_offset set_grad_enabled is_grad_enabled'.split())
# Ask the first tensor, or the second, for no more than its shape and type.
LIKE = set('empty_like full_like new_empty new_full new_ones new_tensor '
           'new_zeros ones_like rand_like randn_like zeros_like'.split())
MODELED = {'expand_as', 'reshape_as', 'type_as', 'view_as'}
# What hands out the memory of a tensor, to be written to unseen.
LENDS = set('array array_interface data_ptr dlpack numpy storage '
            'untyped_storage'.split())
# Tensors that something has to be written into, and what is told to do so.
ZERO = {'zeros', 'zeros_like', 'new_zeros'}
BLANK = {'empty', 'empty_like', 'new_empty', *ZERO}
FILLS = {'setitem', 'add', 'iadd', 'radd'}
