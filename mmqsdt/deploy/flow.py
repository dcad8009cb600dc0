"""Where spikes go: a model runs once, and every value in it is followed.

A neuron's output carries a tag, :class:`Spikes`, which operations keep or
end; see ``operations``.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial

from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import WeakTensorKeyDictionary

from ..layers import BatchNormPad, SpikingNeuron
from .operations import (
    BLANK,
    FACTS,
    FILLS,
    OPERATIONS,
    PRODUCTS,
    SIZES,
    ZERO,
    ZEROS,
    Product,
    Spikes,
    elementwise,
    end,
    has_zero,
    keep,
)


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

    def value(self, x: Tensor, reader: str = '') -> Value:
        """What a tensor is.

        If nothing seen has made it, or filled it before somebody reads it,
        everything at hand may be part of it.
        """
        value, version = self.values.get(x, (None, 0))
        if value is not None and version == _version(x):
            if value.step not in BLANK or reader in FILLS:
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
        sources = tuple(self.value(x, name) for x in read)
        tags = [source.spikes for source in sources]
        rule = OPERATIONS.get(name, end)
        spikes = ZEROS if name in ZERO or (
            rule is elementwise and has_zero(args)) else None
        if any(tags) and rule in PRODUCTS:
            out, spikes = self.multiply(function, name, args, kwargs, tags)
        else:
            out = function(*args, **kwargs)
            if any(tags) and spikes is None and (rule is not keep or tags[0]):
                spikes = rule(tags, args, kwargs)
        self.put_out(args[0] if name == 'setitem' else out, name, sources,
                     spikes)
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
