"""A trained model as an ONNX file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, checker, helper
from torch import nn

from ...utils.build import input_channels
from ...version import __version__
from ..forms import check_convertible
from .graph import Graph, Value
from .layers import Counts
from .modules import Lowering, check_neurons, trace_outputs
from .networks import (
    PARTS,
    network_outputs,
    output_fact,
    output_rules,
    region_fact,
    region_heads,
    region_outputs,
)

FORMS = ('integer', 'float')
OPSETS = range(17, 22)


@dataclass
class Options:
    """How a file is written.

    Attributes:
        form (str): 'integer': codes and counts; or 'float', as trained, also
            for an ANN counterpart. Norms are folded in both.
            Defaults to 'integer'.
        part (str): 'whole', or 'backbone'. Defaults to 'whole'.
        size (tuple[int, int]): Height and width of the images; of the
            largest if they differ. Defaults to (224, 224).
        static (bool): Whether this is the only size, with batch 1, instead
            of any. Defaults to False.
        opset (int): One of ``OPSETS``. Defaults to 17.
        normalise (bool): Whether the graph begins with the normalisation of
            the model's data preprocessor. Defaults to False.
        counts (bool): Whether the counts of every neuron are outputs too,
            named counts:PATH:CALL. Defaults to False.

    Raises:
        ValueError: For settings that do not fit.
    """
    form: str = 'integer'
    part: str = 'whole'
    size: tuple[int, int] = (224, 224)
    static: bool = False
    opset: int = 17
    normalise: bool = False
    counts: bool = False

    def __post_init__(self) -> None:
        for name, known in (('form', FORMS), ('part', PARTS),
                            ('opset', OPSETS)):
            if getattr(self, name) not in known:
                raise ValueError(f'{name} must be one of {tuple(known)}, got '
                                 f'{getattr(self, name)!r}')
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError('size must be a height and a width of at least '
                             f'1, got {self.size}')


def export_onnx(model: nn.Module,
                path: str | Path,
                options: Options | None = None,
                metadata: dict[str, str] | None = None) -> list[Path]:
    """Write a model, or a part of it, as ONNX, and check the file.

    Args:
        model (nn.Module): A trained model in float form; see
            :func:`network_outputs` for what becomes an output.
        path (str | Path): File to write, .onnx. The heads of a two-stage
            detector, which read regions, go into files of their own beside
            it: OUT.bbox_head.onnx, OUT.mask_head.onnx.
        options (Options, optional): Defaults to ``Options()``.
        metadata (dict, optional): More texts to store in the file.

    Returns:
        list[Path]: Files written.

    Raises:
        FileNotFoundError: If the folder of the file is not there.
        ValueError: If the suffix is another, or the model cannot be written.
    """
    path, options = Path(path), options or Options()
    check_destination(path)
    protos = {path: build(model, options, metadata)}
    if options.part == 'whole':
        for name, (head, channels, size) in region_heads(model).items():
            protos[path.with_suffix(f'.{name}.onnx')] = build_region_head(
                head, channels, size, options, metadata)
    for file, proto in protos.items():
        onnx.save(proto, file)
    return list(protos)


def check_destination(path: Path) -> None:
    """Refuse what could not be written in the end.

    Raises:
        FileNotFoundError: If the folder is not there.
        ValueError: If the suffix is not .onnx.
    """
    if path.suffix != '.onnx':
        raise ValueError(f'the file to write must end in .onnx, got {path}')
    if not path.parent.is_dir():
        raise FileNotFoundError(f'the folder {path.parent} is not there; '
                                f'make it first: mkdir -p {path.parent}')


def build(model: nn.Module, options: Options,
          metadata: dict[str, str] | None = None) -> onnx.ModelProto:
    """Write the graph from images to raw outputs; see :func:`export_onnx`."""
    backbone = getattr(model, 'backbone', model)
    written = backbone if options.part == 'backbone' else model
    if options.form == 'integer':
        check_convertible(written)
    check_neurons(written)
    channels = input_channels(model)
    batch, size = ('batch', ('height', 'width'))
    if options.static:
        batch, size = 1, options.size

    def outputs_of(model: nn.Module, images: Value) -> dict[str, Value]:
        if options.normalise and isinstance(images, Value):
            images = normalised(model, images)
        return network_outputs(model, images, options.part)

    outputs, counts = run(outputs_of, model, channels, options)
    return finish('images', (batch, channels, *size), outputs, counts, options,
                  {**input_facts(model, options),
                   'output': output_fact(model, options.part),
                   **output_rules(model, options.part),
                   **(metadata or {})})


def build_region_head(head: nn.Module, channels: int, size: int,
                      options: Options,
                      metadata: dict[str, str] | None = None
                      ) -> onnx.ModelProto:
    """Write the graph of a head on regions (R, channels, size, size)."""
    outputs, counts = run(region_outputs, head, channels, options, 'regions',
                          size)
    facts = dict(input='what RoIAlign cuts from the maps feat0, ...',
                 output=region_fact(head))
    shape = 'number', channels, size, size
    return finish('regions', shape, outputs, counts, options,
                  {**facts, **(metadata or {})})


def run(outputs_of: Callable[[nn.Module, Value], dict[str, Value]],
        model: nn.Module, channels: int, options: Options,
        name: str = 'images', side: int | None = None
        ) -> tuple[dict[str, Value], dict[str, list[Value]]]:
    """Write what a model does: its outputs, the counts of its neurons."""
    program, graph = trace_outputs(model, outputs_of, channels, side), Graph()
    lowering = Lowering(program, graph, options.form, options.size)
    with torch.no_grad():
        outputs = outputs_of(
            lowering.lowered(model), Value(graph, name, channels))
        outputs = {name: x.real() for name, x in outputs.items()}
    return outputs, graph.counts


def normalised(model: nn.Module, images: Value) -> Value:
    """Normalize the images as the model's data preprocessor does.

    Raises:
        ValueError: If it has no such preprocessor.
    """
    swap, mean, std = preprocessing(model)
    if mean is None:
        raise ValueError('the model has no data_preprocessor that normalises '
                         'images: nothing to put in front of the graph')
    graph = images.graph
    if swap:
        order = graph.constant([2, 1, 0], np.int64)
        images = images.like(
            graph.node('Gather', images.name, order, axis=1))
    images = images.apply('Sub', images.per_channel(np.array(mean)))
    return images.apply('Div', images.per_channel(np.array(std)))


def preprocessing(model: nn.Module) -> tuple:
    """Whether channels are swapped, mean and std (None, None if none)."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    # Preprocessors leave other numbers of channels in their order.
    swap = input_channels(model) == 3 and bool(
        getattr(preprocessor, 'to_rgb', False)
        or getattr(preprocessor, '_channel_conversion', False)
        or getattr(preprocessor, 'channel_conversion', False))
    if not getattr(preprocessor, '_enable_normalize', False):
        return swap, None, None
    return swap, *(getattr(preprocessor, name).flatten().tolist()
                   for name in ('mean', 'std'))


def input_facts(model: nn.Module, options: Options) -> dict[str, str]:
    """Say what an image needs before it is put in."""
    swap, mean, std = preprocessing(model)
    channels = input_channels(model)
    text = f'(B, {channels}, H, W), '
    order = {1: 'gray', 3: 'BGR' if options.normalise or not swap else 'RGB'
             }.get(channels, str(channels))
    facts = dict(channels=order, normalized='not at all')
    divisor = getattr(getattr(model, 'data_preprocessor', None),
                      'pad_size_divisor', 1)
    if divisor and divisor > 1:
        facts.update(size_divisor=str(divisor), pad='0')
    if mean is None:
        return dict(facts, input=f'{text}as the model was trained')
    if channels == 3:
        text += f'channels in the order {order}, '
    elif channels == 1:
        text += 'gray, '
    text += '0..255' if options.normalise else \
        '(x - mean) / std with x in 0..255'
    facts.update(
        input=text, mean=json.dumps(mean), std=json.dumps(std),
        normalized='inside' if options.normalise else 'by you')
    if 'pad' in facts:  # what becomes 0, in the order of the channels
        facts['pad'] = json.dumps(
            mean[::-1] if options.normalise and swap else mean)
    return facts


def finish(name: str, shape: tuple, outputs: dict[str, Value],
           counts: dict[str, list[Value]], options: Options,
           metadata: dict[str, str]) -> onnx.ModelProto:
    """Put inputs, outputs and metadata around the nodes; then check."""
    infos = []
    graph = next(iter(outputs.values())).graph

    def add(name: str, value: Value) -> None:
        kind = TensorProto.UINT8 if isinstance(value, Counts) \
            else TensorProto.FLOAT
        dims = [shape[0]] + [f'{name}_{i}' for i in range(1, value.rank)]
        if value.channels:
            dims[1] = value.channels
        graph.nodes.append(
            helper.make_node('Identity', [value.first_name()], [name],
                             name=f'output {name}'))
        infos.append(helper.make_tensor_value_info(name, kind, dims))

    for output, value in outputs.items():
        add(output, value)
    if options.counts:
        for path, values in counts.items():
            for i, value in enumerate(values):
                add(f'counts:{path}:{i}', value)
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes, 'mmqsdt',
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
            infos,
            list(graph.constants.values())),
        opset_imports=[helper.make_opsetid('', options.opset)],
        producer_name='mmqsdt',
        producer_version=__version__)
    # The oldest that knows the opset: a newer one is refused by runtimes.
    proto.ir_version = helper.find_min_ir_version_for(
        list(proto.opset_import))
    helper.set_model_props(
        proto,
        dict(form=options.form, opset=str(options.opset),
             mmqsdt=__version__, torch=torch.__version__,
             exact_up_to=f'{options.size[0]}x{options.size[1]}',
             **metadata))
    checker.check_model(proto, full_check=True)
    return proto
