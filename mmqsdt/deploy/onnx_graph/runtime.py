"""ONNX files on ONNX Runtime, and whether they do what the model does."""

import tempfile
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from ..compare import FormReport, NeuronReport, recorded_neurons
from ..describe import describe
from ..forms import to_integer
from ..spikes import spiking_neurons
from .export import Options, build, build_region_head
from .networks import network_outputs, region_heads, region_outputs


def open_session(path: str | Path,
                 threads: int | None = None,
                 optimized: str | Path | None = None
                 ) -> onnxruntime.InferenceSession:
    """Open a session on the processor.

    Args:
        path (str | Path): An ONNX file.
        threads (int, optional): Defaults to ONNX Runtime's.
        optimized (str | Path, optional): Where to write the graph as ONNX
            Runtime runs it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    # Its threads shall not keep a core busy when it is not its turn.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(
        str(path), options, providers=['CPUExecutionProvider'])


def executed_nodes(path: str | Path) -> Counter:
    """How many nodes of each kind ONNX Runtime runs, after its fusions."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, 'optimized.onnx')
        open_session(path, 1, optimized)
        graph = onnx.load(str(optimized)).graph
    return Counter(node.op_type for node in graph.node)


def run_onnx(session: onnxruntime.InferenceSession,
             images: Tensor) -> dict[str, np.ndarray]:
    """All outputs by name."""
    names = [output.name for output in session.get_outputs()]
    feed = {session.get_inputs()[0].name: images.numpy()}
    return dict(zip(names, session.run(names, feed)))


@torch.no_grad()
def compare_onnx(model: nn.Module, images: Tensor,
                 options: Options | None = None) -> FormReport:
    """Write a model with all counts as outputs, and compare every spike.

    Args:
        model (nn.Module): As given to :func:`export_onnx`.
        images (Tensor): (B, C, H, W), normalised, float32. The heads of a
            two-stage detector get random regions.
        options (Options, optional): As given to :func:`export_onnx`;
            normalise does not count here.

    Returns:
        FormReport: Against the same form in PyTorch. The first flip is as
        far from a threshold as float32 rounds; later neurons follow from it.
    """
    options = replace(
        options or Options(), counts=True, normalise=False)
    proto = build(model, options)
    reference = form_of(model, options.form)
    report = FormReport()
    compare(report, proto, reference,
            partial(network_outputs, part=options.part), images)
    if options.part == 'whole':
        for name, (head, channels, size) in region_heads(model).items():
            regions = torch.randn(8, channels, size, size)
            compare(report,
                    build_region_head(head, channels, size, options),
                    form_of(head, options.form, regions), region_outputs,
                    regions, f'{name}.')
    return report


def form_of(model: nn.Module, form: str, inputs=None) -> nn.Module:
    """Copy a module in integer form if it reads spikes, else as it is."""
    if form == 'integer' and any(
            d.reads == 'spike' for d in describe(model, inputs)):
        return to_integer(model, inputs)
    return deepcopy(model).eval()


def compare(report: FormReport, proto: onnx.ModelProto, model: nn.Module,
            outputs_of: Callable, x: Tensor, prefix: str = '') -> None:
    """Run a graph and the module it was made of; add to a report."""
    with recorded_neurons(model) as records:
        expected = outputs_of(model, x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'counts.onnx')
        onnx.save(proto, path)
        found = run_onnx(open_session(path, torch.get_num_threads()), x)
    neurons = spiking_neurons(model)
    for name, calls in records.items():
        entry = NeuronReport(prefix + name)
        report.neurons.append(entry)
        for i, (potential, counts) in enumerate(calls):
            array = found[f'counts:{name}:{i}'].astype(np.float32)
            entry.add(neurons[name], potential, counts,
                      torch.from_numpy(array).view_as(counts))
    report.output_error = max(report.output_error, *(
        relative_error(found[name], y.numpy())
        for name, y in expected.items()))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest value."""
    largest = max(float(np.abs(expected).max()), 1e-30)
    return float(np.abs(found - expected).max()) / largest
