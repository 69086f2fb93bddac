"""Pooling for tensors, with gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from marey import conv as plain
from marey.conv._options import LAYOUTS, Layout, Numbers, Padding, pairs, triple
from marey.conv._pool import of_numbers, pooled, pooled_backward
from marey.torch._operation import gradient, new, operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from marey.torch._operation import Call

# As those of convolution: three numbers of the kernel, three of the stride, six of the padding,
# three of the dilation.
_OPTIONS = "int[] numbers, bool ceil_mode, bool count_include_pad, str layout"
_NAMES = ("numbers", "ceil_mode", "count_include_pad", "layout")


_MAX_BACKWARD, _AVG_BACKWARD = "marey.max_pool3d_backward", "marey.avg_pool3d_backward"


def _parsed(function: str, numbers: Any, *options: Any) -> Any:
    window, steps, around, apart = numbers[:3], numbers[3:6], numbers[6:12], numbers[12:]
    return of_numbers(function, window, steps, around, apart, *options)


def _pooled(function: str, average: bool) -> Callable[..., Any]:
    return lambda x, *options: pooled(function, x, average, _parsed(function, *options), None)


def _shape(call: Call) -> Tensor:
    first = 2 if call.layout == "NCTHW" else 1
    shape = list(call.x.shape)
    for axis in range(3):
        kernel, step, apart = (call.numbers[k + axis] for k in (0, 3, 12))
        before, after = call.numbers[6 + 2 * axis : 8 + 2 * axis]
        n = shape[first + axis]
        room = n + before + after - apart * (kernel - 1) - 1
        count = room // step + 1
        # A last window beyond the padding still has to begin before the end of x.
        if call.ceil_mode and room % step and count * step < n + before:
            count += 1
        shape[first + axis] = count
    return new(call.x, shape)


def _values(call: Call) -> list[Any]:
    return [getattr(call, name) for name in _NAMES]


_max = operation(
    f"max_pool3d(Tensor x, {_OPTIONS}) -> Tensor",
    _pooled("marey.max_pool3d", False),
    _shape,
)
_max_backward = operation(
    f"max_pool3d_backward(Tensor grad, Tensor x, {_OPTIONS}) -> Tensor",
    lambda grad, x, *options: pooled_backward(
        _MAX_BACKWARD, grad, x, None, _parsed(_MAX_BACKWARD, *options)
    ),
    lambda call: new(call.x),
)
_avg = operation(
    f"avg_pool3d(Tensor x, {_OPTIONS}) -> Tensor",
    _pooled("marey.avg_pool3d", True),
    _shape,
)
_avg_backward = operation(
    f"avg_pool3d_backward(Tensor grad, SymInt[] shape, {_OPTIONS}) -> Tensor",
    lambda grad, shape, *options: pooled_backward(
        _AVG_BACKWARD, grad, None, shape, _parsed(_AVG_BACKWARD, *options)
    ),
    lambda call: new(call.grad, call.shape),
)
gradient(
    _max,
    lambda call, grad: {"x": _max_backward(grad, call.x, *_values(call))},
    save=["x"],
)
gradient(_avg, lambda call, grad: {"x": _avg_backward(grad, list(call.x), *_values(call))})
gradient(_avg_backward, lambda call, grad: {"grad": _avg(grad, *_values(call))})


def _arguments(
    name: str,
    x: Tensor,
    kernel: Numbers,
    stride: Numbers | None,
    padding: Padding,
    dilation: Numbers,
    layout: Layout,
) -> tuple[Any, Any, Any, Any]:
    if x.ndim != 5 or layout not in (*LAYOUTS,):
        raise ValueError(
            f"[{name}] x, layout: expected 5 axes, and 'NCTHW' or 'NTHWC'; found "
            f"{tuple(x.shape)} and {layout!r}"
        )
    window = triple(name, "kernel", kernel, 1)
    steps = window if stride is None else triple(name, "stride", stride, 1)
    apart = triple(name, "dilation", dilation, 1)
    return window, steps, pairs(name, padding, window, apart, steps), apart


def max_pool3d(
    x: Tensor,
    kernel: Numbers,
    stride: Numbers | None = None,
    padding: Padding = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    *,
    layout: Layout = "NCTHW",
) -> Tensor:
    """Take the maximum of each window: `marey.conv.max_pool3d`.

    Parameters
    ----------
    x : Tensor, (N, C, T, H, W) or (N, T, H, W, C)
        float32, float64 or bfloat16; any strides.
    kernel, stride, padding, dilation, ceil_mode, layout
        As for `marey.conv.max_pool3d`.

    Returns
    -------
    Tensor, (N, C, T', H', W') or (N, T', H', W', C)
    """
    name = "marey.torch.max_pool3d"
    window, steps, around, apart = _arguments(name, x, kernel, stride, padding, dilation, layout)
    return _max(x, (*window, *steps, *around, *apart), bool(ceil_mode), True, layout)


def avg_pool3d(
    x: Tensor,
    kernel: Numbers,
    stride: Numbers | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    *,
    dilation: Numbers = 1,
    layout: Layout = "NCTHW",
) -> Tensor:
    """Take the mean of each window: `marey.conv.avg_pool3d`.

    Parameters
    ----------
    x : Tensor, (N, C, T, H, W) or (N, T, H, W, C)
        As for `max_pool3d`.
    kernel, stride, padding, ceil_mode, count_include_pad, dilation, layout
        As for `marey.conv.avg_pool3d`.

    Returns
    -------
    Tensor, (N, C, T', H', W') or (N, T', H', W', C)
    """
    name = "marey.torch.avg_pool3d"
    window, steps, around, apart = _arguments(name, x, kernel, stride, padding, dilation, layout)
    numbers = (*window, *steps, *around, *apart)
    return _avg(x, numbers, bool(ceil_mode), bool(count_include_pad), layout)


_global = operation(
    "global_avg_pool3d(Tensor x, str layout) -> Tensor",
    lambda x, layout: plain.global_avg_pool3d(x, layout=layout),
    lambda call: new(call.x, [call.x.shape[0], call.x.shape[1 if call.layout == "NCTHW" else 4]]),
)
_global_backward = operation(
    "global_avg_pool3d_backward(Tensor grad, SymInt[] shape, str layout) -> Tensor",
    lambda grad, shape, layout: plain.global_avg_pool3d_backward(grad, tuple(shape), layout=layout),
    lambda call: new(call.grad, call.shape),
)
gradient(_global, lambda call, grad: {"x": _global_backward(grad, list(call.x), call.layout)})
gradient(_global_backward, lambda call, grad: {"grad": _global(grad, call.layout)})


def global_avg_pool3d(x: Tensor, *, layout: Layout = "NCTHW") -> Tensor:
    """Take the mean over T, H and W: `marey.conv.global_avg_pool3d`.

    Parameters
    ----------
    x : Tensor, (N, C, T, H, W) or (N, T, H, W, C)
        As for `max_pool3d`.
    layout : "NCTHW" or "NTHWC"

    Returns
    -------
    Tensor, (N, C)
    """
    if x.ndim != 5 or layout not in (*LAYOUTS,):
        raise ValueError(
            f"[marey.torch.global_avg_pool3d] x, layout: expected 5 axes, and 'NCTHW' or 'NTHWC'; "
            f"found {tuple(x.shape)} and {layout!r}"
        )
    return _global(x, layout)
