"""Trained models as ONNX graphs that ONNX Runtime fuses.

Needs the packages onnx and onnxruntime: ``pip install "mmqsdt[onnx]"``.
"""

try:
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'ONNX needs the package {error.name}, which is not installed:\n'
        '  pip install "mmqsdt[onnx]"  (or: pip install onnx onnxruntime)'
    ) from error

from .export import FORMS, OPSETS, Options, check_destination, export_onnx
from .networks import PARTS, network_outputs, region_heads, region_outputs
from .runtime import compare_onnx, executed_nodes, open_session, run_onnx

__all__ = [
    'FORMS', 'OPSETS', 'PARTS', 'Options', 'check_destination',
    'compare_onnx', 'executed_nodes', 'export_onnx', 'network_outputs',
    'open_session', 'region_heads', 'region_outputs', 'run_onnx'
]
