"""Mixed precision where mmengine's AmpOptimWrapper refuses: on the CPU."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from ..registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """OptimWrapper whose forward pass runs under bfloat16 autocast.

    bfloat16 has the exponent range of float32, so no loss scaling is needed.
    Works on CPU and GPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Autocast the forward pass; keep gradient accumulation as it is."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), \
                torch.autocast(device, dtype=torch.bfloat16):
            yield


def use_amp(optim_wrapper: dict) -> None:
    """Turn an optim_wrapper config into its mixed precision form, in place.

    float16 with loss scaling on CUDA, bfloat16 on the CPU.

    Raises:
        ValueError: If there is no such form of this type of wrapper.
    """
    kind = optim_wrapper.get('type', 'OptimWrapper')
    if kind in ('AmpOptimWrapper', 'mmqsdt.BFloat16OptimWrapper'):
        return
    if kind != 'OptimWrapper':
        raise ValueError(f'--amp cannot be combined with {kind}')
    if torch.cuda.is_available():
        optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    else:
        optim_wrapper['type'] = 'mmqsdt.BFloat16OptimWrapper'
