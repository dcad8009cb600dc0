"""Where spikes go: a model runs once, and every value in it is followed.

A neuron's output carries a tag, :class:`Spikes`. ``OPERATIONS`` says which
operations keep it: those that only choose, order, repeat or scale spikes.
Every other operation puts out real values. A new operation becomes known
with one more entry there.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import WeakTensorKeyDictionary

from ..layers import BatchNormPad, SpikingNeuron


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
        return self.levels is not None

    def scaled(self, factor: float) -> 'Spikes | None':
        """Times a number; None if that makes no spikes."""
        return replace(self, amplitude=self.amplitude * factor) \
            if factor > 0 else None


def joined(tags: Sequence[Spikes | None]) -> Spikes | None:
    """Of tensors put side by side: spikes, if all are, of one amplitude."""
    if None in tags or not all(
            tag.bounded and tag.amplitude == tags[0].amplitude
            for tag in tags):
        return None
    return replace(
        tags[0],
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


@dataclass(eq=False)
class Value:
    """A tensor of the run: what made it of what.

    Attributes:
        step (str): Operation or class of the module that made it.
        scope (str): Path of the module in whose forward it was made; of a
            layer, norm or neuron itself.
        sources (tuple[Value]): What was read.
        spikes (Spikes, optional): The tag; None for real values.
        module (nn.Module, optional): The layer, norm or neuron.
        dim (int): Axes of the tensor.
        readers (list[Value]): What was made of it.
        hidden (bool): Whether something may have read it unseen.
        sized (bool): Whether its shape was asked for.
    """
    step: str
    scope: str = ''
    sources: tuple['Value', ...] = ()
    spikes: Spikes | None = None
    module: nn.Module | None = None
    dim: int = 0
    readers: list['Value'] = field(default_factory=list)
    hidden: bool = False
    sized: bool = False

    def __post_init__(self) -> None:
        for source in self.sources:
            source.readers.append(self)


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
    if None in tags or len(tags) != 2:
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
    'amax': largest,
    'cat': join,
    'concat': join,
    'concatenate': join,
    'div': divide,
    'dropout': dropout,
    'dropout2d': dropout,
    'dropout3d': dropout,
    'hstack': join,
    'interpolate': interpolate,
    'max': largest,
    'maximum': join,
    'pad': pad,
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
# Tensors that something has to be written into.
BLANK = {'empty', 'empty_like', 'new_empty', 'zeros', 'zeros_like',
         'new_zeros'}


@cache
def name_of(function: Callable) -> str:
    """E.g. 'reshape', 'mT', 'add' for torch.Tensor.add_."""
    parts = (resolve_name(function) or getattr(
        function, '__name__', str(function))).split('.')
    if parts[-1] in ('__get__', '__set__'):
        parts.pop()
    return parts[-1].strip('_')


def tensors(item) -> Iterator[Tensor]:
    """The tensors in any nesting of sequences, dicts and data samples."""
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


@dataclass
class Frame:
    """A module whose forward is running.

    Attributes:
        scope (str): Its path.
        values (list[Value]): What its forward had in hand.
        products (list[Product]): Of its own, in order.
    """
    scope: str = ''
    values: list[Value] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)


class Tracer(TorchFunctionMode):
    """Follows the values of a model while it runs.

    Args:
        model (nn.Module): In eval mode.
        originals (dict[nn.Module, nn.Module], optional): If it is a copy:
            the module of the other model that each of its modules stands
            for in what is found.

    Attributes:
        calls (dict[nn.Module, list[Value]]): What each layer, norm and
            neuron put out at each of its calls, in order of the first.
        products (list[Product]): Products of spikes, in order.
        order (list[nn.Module | Product]): Layers and products as they ran.
        lenders (set[nn.Module]): Modules whose parameters something but
            their own layer or norm has read.

    Example::

        >>> tracer = Tracer(model)
        >>> with torch.no_grad():
        ...     tracer.call(model, images)
    """

    # Modules that are one step, whatever their forward does inside; beside
    # those that OPERATIONS names.
    leaves: tuple[type, ...] = (SpikingNeuron, BatchNormPad, _BatchNorm,
                                _ConvNd, nn.Linear)

    def __init__(self, model: nn.Module,
                 originals: dict[nn.Module, nn.Module] | None = None) -> None:
        super().__init__()
        self.model = model
        self.originals = originals or {}
        self.calls: dict[nn.Module, list[Value]] = {}
        self.products: list[Product] = []
        self.order: list[nn.Module | Product] = []
        self.lenders: set[nn.Module] = set()
        self.values = WeakTensorKeyDictionary()
        self.frames = [Frame()]
        self.inside = 0  # a leaf, or of this class itself: not followed
        self._own: list[tuple[nn.Module, Callable | None]] = []
        self._known: dict[tuple[str, int], Product] = {}

    def __enter__(self) -> 'Tracer':
        for path, module in self.model.named_modules():
            for tensor in tensors(list(vars(module).values())):
                self.note(tensor, Value('constant', path))
            self._own.append((module, vars(module).get('forward')))
            module.__dict__['forward'] = partial(self.run, path, module,
                                                 module.forward)
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            self.note(tensor, Value('parameter'))
        return super().__enter__()

    def __exit__(self, *error) -> None:
        for module, forward in self._own:
            if any(self.values[x][0].readers
                   for x in module.parameters(recurse=False)):
                self.lenders.add(self.originals.get(module, module))
            vars(module).pop('forward', None)
            if forward is not None:
                module.__dict__['forward'] = forward
        self._own.clear()
        super().__exit__(*error)

    def call(self, function: Callable, *args, **kwargs):
        """Follow the values while a function of the model runs."""
        with self:
            for x in tensors([args, kwargs]):
                self.note(x, Value('input'))
            outputs = function(*args, **kwargs)
            self.inside += 1
            for x in tensors(outputs):  # whoever gets them reads them
                if x in self.values:
                    self.value(x).hidden = True
            self.inside -= 1
        return outputs

    def named_products(self) -> dict[str, Product]:
        """The products by names: of their module and of what they are."""
        found: dict[str, Product] = {}
        seen: Counter[str] = Counter()
        for product in self.products:
            kind = 'product' if product.trilinear else product.operations[0]
            name = f'{product.scope}.{kind}'.removeprefix('.')
            seen[name] += 1
            found[name if seen[name] == 1 else f'{name}_{seen[name]}'] = \
                product
        return found

    # Tensors and values.

    def note(self, x: Tensor, value: Value) -> None:
        """From now on this tensor is that value."""
        value.dim = x.dim()
        self.values[x] = value, _version(x)
        self.frames[-1].values.append(value)

    def value(self, x: Tensor) -> Value:
        """What a tensor is.

        If nothing seen has made it, everything at hand may be part of it.
        """
        value, version = self.values.get(x, (None, 0))
        if value is not None and version == _version(x):
            if value.step not in BLANK:
                return value
        elif value is not None:
            value = Value('change in place', self.frames[-1].scope, (value, ))
            self.note(x, value)
            return value
        for each in self.frames[-1].values:
            each.hidden = True
        value = Value('something unseen', self.frames[-1].scope)
        self.note(x, value)
        return value

    # What is seen.

    def __torch_function__(self, function: Callable, types, args=(),
                           kwargs=None):
        kwargs = kwargs or {}
        if self.inside:
            return function(*args, **kwargs)
        read = list(tensors([args, kwargs]))
        name = name_of(function)
        if name in FACTS:
            if name in SIZES and read and read[0] in self.values:
                self.value(read[0]).sized = True
            return function(*args, **kwargs)
        if name == 'setitem':
            sources = tuple(map(self.value, read))
            function(*args, **kwargs)
            self.note(args[0], Value(name, self.frames[-1].scope, sources))
            return None
        sources = tuple(self.value(x) for x in read)
        tags = [source.spikes for source in sources]
        if any(tags) and OPERATIONS.get(name) in PRODUCTS:
            out, spikes = self.multiply(function, name, args, kwargs, tags)
        else:
            out = function(*args, **kwargs)
            rule = OPERATIONS.get(name, end)
            spikes = rule(tags, args, kwargs) \
                if any(tags) and (rule is not keep or tags[0]) else None
        self.put_out(out, name, sources, spikes)
        return out

    def multiply(self, function: Callable, name: str, args: tuple,
                 kwargs: dict, tags: list[Spikes | None]
                 ) -> tuple[object, Spikes | None]:
        """Run an operation that may multiply spikes with another tensor."""
        rule = OPERATIONS[name]
        spikes = rule(tags, args, kwargs)
        if len(tags) == 1 or rule is elementwise and None in tags or not any(
                tag is not None and tag.bounded for tag in tags):
            return function(*args, **kwargs), spikes
        found = self.found_product(name, tags, rule is elementwise)
        if spikes is not None:
            spikes = replace(spikes, product=found)
        self.inside += 1
        out = self.product(found, function, args, kwargs, tags)
        self.inside -= 1
        return out, spikes

    def product(self, product: Product, function: Callable, args: tuple,
                kwargs: dict, tags: list[Spikes | None]):
        """Run a product."""
        return function(*args, **kwargs)

    def found_product(self, name: str, tags: list[Spikes | None],
                      elementwise: bool) -> Product:
        """The product that this is, or the second part of."""
        frame = self.frames[-1]
        bounded = [tag for tag in tags if tag is not None and tag.bounded]
        first = next((tag for tag in tags
                      if tag is not None and not tag.bounded), None)
        if bounded and first is not None and first.factors == 2 \
                and not first.product.elementwise:
            if not first.product.trilinear:
                first.product.operations.append(name)
                first.product.spikes.extend(bounded)
            return first.product
        # At every run of the same line of code, the same product.
        key = frame.scope, len(frame.products)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Product(
                frame.scope, [name], bounded, elementwise)
            self.products.append(found)
            self.order.append(found)
        frame.products.append(found)
        return found

    def put_out(self, out, step: str, sources: tuple[Value, ...],
                spikes: Spikes | None, module: nn.Module | None = None,
                scope: str | None = None) -> None:
        """Note what a step made."""
        scope = self.frames[-1].scope if scope is None else scope
        made = list(tensors(out))
        if not made:  # a number, a text: its reader is Python
            Value(step, scope, sources)
        for x in made:
            tag = spikes if x.is_floating_point() else None
            self.note(x, Value(step, scope, sources, tag, module))

    def run(self, path: str, module: nn.Module, forward: Callable, *args,
            **kwargs):
        """A module's forward."""
        if self.inside:
            return forward(*args, **kwargs)
        if isinstance(module, self.leaves) or \
                type(module).__name__ in OPERATIONS:
            return self.run_leaf(path, module, forward, *args, **kwargs)
        self.inside += 1
        read = tuple(self.values[x][0] for x in tensors([args, kwargs])
                     if x in self.values)
        self.inside -= 1
        frame = Frame(path, list(read))
        self.frames.append(frame)
        out = forward(*args, **kwargs)
        self.frames.pop()
        self.inside += 1
        for x in tensors(out):
            if x in self.values:
                self.frames[-1].values.append(self.values[x][0])
            else:  # made where nothing is seen, of whatever was there
                for each in frame.values:
                    each.hidden = True
                self.note(x, Value(type(module).__name__, path, read))
        self.inside -= 1
        return out

    def run_leaf(self, path: str, module: nn.Module, forward: Callable, *args,
                 **kwargs):
        """A layer, a norm, a neuron, or a module of the table."""
        self.inside += 1
        name = type(module).__name__
        read = list(tensors([args, kwargs]))
        sources = tuple(self.value(x) for x in read)
        out = forward(*args, **kwargs)
        module = self.originals.get(module, module)
        spikes = None
        if isinstance(module, SpikingNeuron):
            spikes = Spikes.of(module)
        elif name in OPERATIONS and sources[0].spikes is not None:
            spikes = OPERATIONS[name]([sources[0].spikes], args, kwargs)
        if isinstance(module, (_ConvNd, nn.Linear)) and \
                module not in self.calls:
            self.order.append(module)
        self.put_out(out, name, sources, spikes, module, path)
        made = self.values[next(tensors(out))][0]
        self.calls.setdefault(module, []).append(made)
        self.inside -= 1
        return out


def _version(x: Tensor) -> int:
    """How many times it was written to."""
    return 0 if x.is_inference() else x._version
