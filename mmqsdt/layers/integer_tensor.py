"""Floats that are integers times a scale, and are stored as integers."""

from collections.abc import Callable
from math import frexp

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

aten = torch.ops.aten


class IntegerTensor(Tensor):
    """A float tensor of which only integer codes and a scale are stored.

    To autograd and to whoever reads it, it is the float tensor
    ``codes * scale``. What an operation saves of it for its backward pass
    takes one byte an element. Operations see the floats, which are made for
    them and forgotten, with two exceptions: views and changes of precision
    give an IntegerTensor again, and a convolution of counts with codes may
    run on an integer kernel, see :func:`convolve`.

    Args:
        codes (Tensor): Integers: counts of spikes, uint8, or codes of
            weights, int8.
        scale (float | Tensor): One, or one that broadcasts over the codes.
        dtype (torch.dtype): Of the float tensor.
        integer_kernel (bool): Whether convolutions may multiply the codes.
            Defaults to False.
    """

    codes: Tensor
    scale: float | Tensor
    integer_kernel: bool

    @staticmethod
    def __new__(cls,
                codes: Tensor,
                scale: float | Tensor,
                dtype: torch.dtype,
                integer_kernel: bool = False) -> 'IntegerTensor':
        out = Tensor._make_wrapper_subclass(
            cls,
            codes.shape,
            strides=codes.stride(),
            storage_offset=codes.storage_offset(),
            dtype=dtype,
            device=codes.device)
        out.codes, out.scale = codes, scale
        out.integer_kernel = integer_kernel
        return out

    def floats(self) -> Tensor:
        """codes * scale, a plain tensor with the same strides."""
        # uint8 is the slower conversion; counts are below 128.
        codes = self.codes.view(torch.int8)
        if isinstance(self.scale, Tensor):
            return codes.to(self.scale.dtype).mul_(self.scale).to(self.dtype)
        out = codes.to(torch.promote_types(self.dtype, torch.float32))
        if self.scale != 1:
            out.mul_(self.scale)
        return out.to(self.dtype)

    def __repr__(self) -> str:
        return (f'IntegerTensor({self.codes}, scale={self.scale}, '
                f'dtype={self.dtype})')

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Run an operation, below autograd."""
        special = SPECIAL.get(func)
        if special is not None:
            out = special(func, *args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        for argument, value in zip(func._schema.arguments, args):
            if isinstance(value, cls) and argument.alias_info is not None \
                    and argument.alias_info.is_write:
                raise NotImplementedError(
                    f'{func} would change an IntegerTensor in place; spikes '
                    'and weights that are stored as integers cannot hold '
                    'other values: take a clone')
        args, kwargs = tree_map_only(cls, cls.floats, (args, kwargs or {}))
        return func(*args, **kwargs)


def rearrange(func, x: IntegerTensor, *args, **kwargs) -> Tensor:
    """A view or a copy: of the codes, and of scales that lie beside them."""
    scale = x.scale
    if isinstance(scale, Tensor):
        if func not in ALIGNED:
            return NotImplemented
        scale = func(scale, *args, **kwargs)
    return IntegerTensor(
        func(x.codes, *args, **kwargs), scale, x.dtype, x.integer_kernel)


def change_precision(func, x: IntegerTensor, *, dtype=None, **kwargs) -> \
        Tensor:
    """Spikes in half precision, as autocast wants them.

    Not the other way round: what was rounded once stays rounded.
    """
    if isinstance(x.scale, Tensor) or x.dtype != torch.float32 or \
            dtype not in (torch.bfloat16, torch.float16) or any(
                kwargs[k] not in (None, False, torch.strided)
                for k in kwargs):
        return NotImplemented
    return IntegerTensor(x.codes, x.scale, dtype, x.integer_kernel)


def convolve(func, x: Tensor, weight: Tensor, bias: Tensor | None,
             stride: list[int], padding: list[int], dilation: list[int],
             transposed: bool, output_padding: list[int],
             groups: int) -> Tensor:
    """Counts with codes on oneDNN's integer kernel.

    The sums are exact; scaling them and adding the bias is rounded to
    float32, where a float convolution rounds every product and every sum.
    For maps in the channels_last format, which the kernel reads.
    """
    fits = isinstance(x, IntegerTensor) and isinstance(
        weight, IntegerTensor) and x.integer_kernel and \
        x.dtype == weight.dtype == torch.float32 and not transposed and \
        x.device.type == 'cpu' and x.numel() > 0 and x.dim() == 4 and \
        x.codes.is_contiguous(memory_format=torch.channels_last)
    if not fits:
        return NotImplemented
    scale = (weight.scale * x.scale).flatten()
    geometry = stride, padding, dilation, groups
    # Packing reads every scale it is given, one by one, and needs none.
    packed = torch.ops.onednn.qconv_prepack(weight.codes, scale[:1], 1., 0,
                                            *geometry, list(x.shape))
    return torch.ops.onednn.qconv2d_pointwise(
        x.codes, 1., 0, packed, scale,
        torch.zeros(len(scale), dtype=torch.int64), bias, *geometry, 1., 0,
        torch.float32, 'none', [], '')


def convolve_backward(func, grad: Tensor, x: Tensor, weight: Tensor,
                      *args) -> tuple:
    """Gradients of a convolution whose input was stored as counts.

    A scale that is a power of two may as well be multiplied with the
    gradient of the weights: the same result to the last bit, and one pass
    over the map less.
    """
    if not isinstance(x, IntegerTensor) or isinstance(
            x.scale, Tensor) or frexp(x.scale)[0] != 0.5:
        return NotImplemented
    if isinstance(weight, IntegerTensor):
        weight = weight.floats()
    grad_x, grad_weight, grad_bias = func(
        grad, x.codes.view(torch.int8).to(x.dtype), weight, *args)
    if grad_weight is not None and x.scale != 1:
        grad_weight.mul_(x.scale)
    return grad_x, grad_weight, grad_bias


# What can be done to codes and per-channel scales alike.
ALIGNED = (aten.alias.default, aten.clone.default, aten.detach.default,
           aten.permute.default, aten.t.default, aten.transpose.int)
SPECIAL: dict[object, Callable] = {
    aten.convolution.default: convolve,
    aten.convolution_backward.default: convolve_backward,
    aten._to_copy.default: change_precision,
    **dict.fromkeys((
        *ALIGNED, aten.expand.default, aten.select.int, aten.slice.Tensor,
        aten.squeeze.dim, aten.unsqueeze.default, aten.view.default,
        aten._unsafe_view.default), rearrange)
}
