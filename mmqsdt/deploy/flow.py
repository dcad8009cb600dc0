"""Where spikes go: a model runs once, and every value in it is followed.

A neuron's output carries a tag, :class:`Spikes`, which operations keep or
end; see ``operations``.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import WeakTensorKeyDictionary

from ..layers import BatchNormPad, SpikingNeuron
from .obstacles import OWN_FORWARD, TRUSTED, find_obstacle
from .operations import (
    BLANK,
    FACTS,
    FILLS,
    LENDS,
    LIKE,
    MODELED,
    OPERATIONS,
    PRODUCTS,
    SIZES,
    ZERO,
    ZEROS,
    Call,
    Product,
    Spikes,
    elementwise,
    tensors,
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
        note (str): The argument that ended the spikes, if it was one.
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
    note: str = ''

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


def is_in_place(function: Callable) -> bool:
    """Whether an operation writes to its first argument, by its name."""
    name = getattr(function, '__name__', '')
    if name.startswith('__'):
        return name in ('__setitem__', '__set__') or name in {
            f'__i{x}__' for x in 'add sub mul truediv div floordiv mod pow '
            'and or xor lshift rshift matmul'.split()}
    return name.endswith('_')


@dataclass
class Frame:
    """A module whose forward is running.

    Attributes:
        scope (str): Its path.
        values (list[Value]): What its forward had in hand.
        products (list[Product]): Of its own, in order.
        trusted (bool): Whether its code is known to compute the same,
            whatever values it reads in Python.
        branched (bool): Whether Python read a value in code that is not.
    """
    scope: str = ''
    values: list[Value] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    trusted: bool = True
    branched: bool = False


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
        obstacles (dict[nn.Module, str]): Modules whose place nothing else
            can take, and why.
        branches (dict[str, str]): Modules of a user's own whose Python read
            values, and with what: other inputs may go other ways.

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
        self.obstacles: dict[nn.Module, str] = {}
        self.branches: dict[str, str] = {}
        self.values = WeakTensorKeyDictionary()
        self.writes: Counter[int] = Counter()  # by storage
        self.dtype = next((x.dtype for x in model.parameters()
                           if x.is_floating_point()), None)
        self.frames = [Frame()]
        self.inside = 0  # a leaf, or of this class itself: not followed
        self._own: list[tuple[nn.Module, Callable | None]] = []
        self._known: dict[tuple[str, int], Product] = {}

    def __enter__(self) -> 'Tracer':
        for path, module in self.model.named_modules():
            for tensor in tensors(list(vars(module).values())):
                self.note(tensor, Value('constant', path))
            if obstacle := find_obstacle(module):
                self.obstacles[self.originals.get(module, module)] = obstacle
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
                self.obstacles.setdefault(
                    self.originals.get(module, module),
                    'its weights are read elsewhere too')
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
            # What is still there somebody holds, in the outputs or in an
            # attribute, and reads it unseen.
            for value, _ in self.values.values():
                value.hidden = True
        return outputs

    def named_products(self) -> dict[str, Product]:
        """Return the products by the names of their module and role."""
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
        value.dim, value.hidden = x.dim(), self.frames[-1].branched
        self.values[x] = value, self.version(x)
        self.frames[-1].values.append(value)

    def version(self, x: Tensor) -> tuple[int, int]:
        """How many times it was written to, by whatever name.

        PyTorch does not count it for x.data, and not in inference mode.
        """
        if x.layout != torch.strided:
            return 0, 0
        return 0 if x.is_inference() else x._version, \
            self.writes[x.untyped_storage().data_ptr()]

    def written(self, x: Tensor) -> None:
        """Note that it was written to, with all that share its memory."""
        if x.layout == torch.strided and x.numel():
            self.writes[x.untyped_storage().data_ptr()] += 1

    def value(self, x: Tensor, reader: str = '') -> Value:
        """Return what a tensor is.

        If nothing seen has made it, or filled it before somebody reads it,
        everything at hand may be part of it.
        """
        value, version = self.values.get(x, (None, 0))
        if value is not None and version == self.version(x):
            if value.step not in BLANK or reader in FILLS and (
                    value.step not in ZERO or not x.any()):
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
        values = [self.value(x, name) for x in read]
        call = Call(name, args, kwargs, [v.spikes for v in values],
                    self.dtype)
        # Of these no more is asked than of how many images they are.
        asked = values[:1] if name in LIKE else values[1:] \
            if name in MODELED else []
        for value in asked:
            value.sized = True
        sources = tuple(v for v in values if v not in asked)
        if call.rule in PRODUCTS and any(call.tags):
            call.out, tag, note = self.multiply(function, args, kwargs, call)
        else:
            call.out = function(*args, **kwargs)
            if name == 'iter':
                call.out = list(call.out)
            tag, note = call.result() if any(call.tags) else (None, '')
        if name in ZERO or call.rule is elementwise and call.has_zero:
            tag, note = ZEROS, ''
        made = call.out
        if read and (is_in_place(function) or call.get(
                'inplace', default=kwargs.get('inplace'))):
            self.written(read[0])
            made = read[0]
            if function.__name__ == '__set__':  # x.data = y
                tag = None
        for x in tensors(kwargs.get('out')):
            self.written(x)
        self.put_out(made, name, sources, tag, note=note)
        if name in LENDS:
            self.note(read[0], Value(name, self.frames[-1].scope, sources))
        return iter(call.out) if name == 'iter' else call.out

    def multiply(self, function: Callable, args: tuple, kwargs: dict,
                 call: Call) -> tuple[object, Spikes | None, str]:
        """Run an operation that may multiply spikes with another tensor."""
        tags, (spikes, note) = call.tags, call.result()
        flat = call.rule is elementwise
        if note or len(tags) == 1 or flat and None in tags or not any(
                tag is not None and tag.bounded for tag in tags):
            return function(*args, **kwargs), spikes, note
        found = self.found_product(call.name, tags, flat)
        if spikes is not None:
            spikes = replace(spikes, product=found)
        self.inside += 1
        out = self.product(found, function, args, kwargs, tags)
        self.inside -= 1
        return out, spikes, ''

    def product(self, product: Product, function: Callable, args: tuple,
                kwargs: dict, tags: list[Spikes | None]):
        """Run a product."""
        return function(*args, **kwargs)

    def found_product(self, name: str, tags: list[Spikes | None],
                      elementwise: bool) -> Product:
        """Return the product that this is, or is the second part of."""
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
                scope: str | None = None, note: str = '') -> None:
        """Note what a step made."""
        frame = self.frames[-1]
        scope = frame.scope if scope is None else scope
        made = list(tensors(out))
        if not made:  # a number, a text: its reader is Python
            Value(step, scope, sources)
            if not frame.trusted and sources:
                # Other values may take another way from here on.
                self.branches.setdefault(scope, step)
                frame.branched = True
                for each in frame.values:
                    each.hidden = True
        for x in made:
            tag = spikes if x.is_floating_point() else None
            self.note(x, Value(step, scope, sources, tag, module, note=note))

    def run(self, path: str, module: nn.Module, forward: Callable, *args,
            **kwargs):
        """Follow a module's forward."""
        if self.inside:
            return forward(*args, **kwargs)
        if isinstance(module, self.leaves) or is_known(module):
            return self.run_leaf(path, module, forward, *args, **kwargs)
        self.inside += 1
        read = tuple(self.values[x][0] for x in tensors([args, kwargs])
                     if x in self.values)
        self.inside -= 1
        frame = Frame(path, list(read), trusted=f'{type(module).__module__}.'
                      .startswith(TRUSTED))
        self.frames.append(frame)
        out = forward(*args, **kwargs)
        self.frames.pop()
        self.inside += 1
        for x in tensors(out):
            if x in self.values:
                value = self.values[x][0]
                value.hidden |= self.frames[-1].branched
                self.frames[-1].values.append(value)
            else:  # made where nothing is seen, of whatever was there
                for each in frame.values:
                    each.hidden = True
                self.note(x, Value(type(module).__name__, path, read))
        self.inside -= 1
        return out

    def run_leaf(self, path: str, module: nn.Module, forward: Callable, *args,
                 **kwargs):
        """Follow a layer, a norm, a neuron, or a module of the table."""
        self.inside += 1
        name = type(module).__name__
        read = list(tensors([args, kwargs]))
        sources = tuple(self.value(x) for x in read)
        out = forward(*args, **kwargs)
        module = self.originals.get(module, module)
        spikes, note = None, ''
        if isinstance(module, SpikingNeuron):
            spikes = None if self.obstacles.get(module) == OWN_FORWARD \
                else Spikes.of(module)
        elif is_known(module) and any(source.spikes for source in sources):
            call = Call(name, args, kwargs, [s.spikes for s in sources],
                        self.dtype)
            call.out = out
            spikes, note = call.result()
        if isinstance(module, (_ConvNd, nn.Linear)) and \
                module not in self.calls:
            self.order.append(module)
        self.put_out(out, name, sources, spikes, module, path, note)
        made = self.values[next(tensors(out))][0]
        self.calls.setdefault(module, []).append(made)
        self.inside -= 1
        return out


def is_known(module: nn.Module) -> bool:
    """Whether the table of operations knows the class of a module."""
    kind = type(module)
    return kind.__name__ in OPERATIONS and \
        f'{kind.__module__}.'.startswith(TRUSTED)
