"""Gradients of convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from marey import _arguments
from marey._arrays import from_numpy_like, kernels, to_array, to_array_like
from marey.conv._options import Algorithm, Layout, Numbers, Options, Padding, options

if TYPE_CHECKING:
    from collections.abc import Sequence


def conv3d_backward(
    grad: Any,
    x: Any,
    weight: Any,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    layout: Layout = "NCTHW",
    algorithm: Algorithm = "auto",
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Compute the gradients of `conv3d` without activation.

    Parameters
    ----------
    grad : array, (N, K, T', H', W') or (N, T', H', W', K)
        Gradient of the result, in the layout and of the type of `x`. Any strides.
    x, weight, stride, padding, dilation, groups, layout
        As `conv3d` was given them.
    algorithm : "auto", "direct" or "winograd"
        Of the gradient of `x`, which is a convolution of `grad`; see `conv3d`.
    needs : three bools
        Which gradients to compute: of `x`, of `weight`, of the bias. None stands for the others.

    Returns
    -------
    grad_x : array
        As `x`, C-ordered.
    grad_weight : array, (K, C / groups, kT, kH, kW)
    grad_bias : array, (K,)

    Raises
    ------
    TypeError, ValueError
        As `conv3d`; and if `grad` has not the shape of the result.

    Notes
    -----
    The gradient of `weight` is summed in parts, whose number does not depend on that of threads and
    which take at most 64 MiB, or as much as the gradient if that is more; for bfloat16 in float32.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1, 8, 4, 14, 14), dtype=np.float32)
    >>> weight = rng.standard_normal((16, 8, 3, 3, 3), dtype=np.float32)
    >>> y = marey.conv.conv3d(x, weight, padding=1)
    >>> [g.shape for g in marey.conv.conv3d_backward(np.ones_like(y), x, weight, padding=1)]
    [(1, 8, 4, 14, 14), (16, 8, 3, 3, 3), (16,)]
    """
    name = "marey.conv3d_backward"
    filters = to_array(name, "weight", weight)
    checked = options(
        name,
        filters,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        layout=layout,
        algorithm=algorithm,
    )
    wanted = _arguments.items(name, "needs", needs, "three bools")
    if len(wanted) != 3:
        raise ValueError(f"[{name}] needs: expected three bools; found {needs!r}")
    return convolved_backward(name, grad, x, filters, checked, wanted)


def convolved_backward(
    name: str, grad: Any, x: Any, filters: Any, checked: Options, wanted: Sequence[Any]
) -> tuple[Any, Any, Any]:
    """Compute the gradients with `filters`, an array of `to_array`."""
    results = kernels(name, filters).conv3d_backward(
        to_array_like(name, "grad", grad, filters),
        to_array_like(name, "x", x, filters),
        filters,
        checked.stride,
        checked.padding,
        checked.dilation,
        checked.groups,
        checked.channels_last,
        checked.algorithm,
        [bool(need) for need in wanted],
    )
    convert = from_numpy_like(x)
    grad_x, grad_weight, grad_bias = (None if g is None else convert(g) for g in results)
    return grad_x, grad_weight, grad_bias
