"""Projections and normalisation: what surrounds attention in a transformer."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, to_numpy

Activation = Literal["relu", "gelu"] | None


def _one_stride(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return `x`, or a copy if no one stride steps through its leading axes."""
    if x.ndim <= 2:
        return x
    step = None
    rows = 1
    for n, stride in zip(x.shape[-2::-1], x.strides[-2::-1], strict=True):
        if n == 1:
            continue
        if step is not None and stride != step * rows:
            return np.ascontiguousarray(x)
        step = stride if step is None else step
        rows *= n
    return x


def _adjacent(function: str, argument: str, x: Any) -> np.ndarray[Any, Any] | None:
    return None if x is None else np.ascontiguousarray(to_numpy(function, argument, x))


def linear(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: Activation = None,
    residual: Any = None,
    out: Any = None,
) -> Any:
    """Compute ``activation(x @ weight.T + bias) + residual``.

    Parameters
    ----------
    x : array, (..., C)
        float32, float64 or bfloat16 (summed in float32). Copied if no one stride steps through its
        leading axes.
    weight : array, (K, C)
        As in torch; of the type of `x`. Any strides.
    bias : array, (K,), optional
    activation : None, "relu" or "gelu"
        ``"gelu"`` is ``x / 2 * (1 + erf(x / sqrt(2)))``.
    residual : array, (..., K), optional
        Of the type of `x`.
    out : array, (..., K), optional
        Where to write the result, which may be `residual`; one stride must step through its leading
        axes.

    Returns
    -------
    array, (..., K)

    Raises
    ------
    TypeError, ValueError
        If an argument is not an array of this type and shape, or `activation` is another.

    See Also
    --------
    Linear : The same with the weight packed once.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x, weight = rng.random((2, 50, 96), np.float32), rng.random((64, 96), np.float32)
    >>> marey.attention.linear(x, weight, activation="gelu").shape
    (2, 50, 64)
    """
    return Linear(weight, bias)(x, activation=activation, residual=residual, out=out)


class Linear:
    """A linear layer whose weight is packed once, for many calls.

    Several threads may call one object.

    Parameters
    ----------
    weight : array, (K, C)
        float32, float64 or bfloat16; kept, and to be left as it is.
    bias : array, (K,), optional

    Examples
    --------
    >>> import marey, numpy as np
    >>> layer = marey.attention.Linear(np.ones((64, 96), np.float32))
    >>> layer(np.ones((2, 50, 96), np.float32)).shape
    (2, 50, 64)
    """

    def __init__(self, weight: Any, bias: Any = None) -> None:
        name = "marey.linear"
        self._compiled = _cpu.Linear(
            to_numpy(name, "weight", weight), _adjacent(name, "bias", bias)
        )

    def __call__(
        self, x: Any, *, activation: Activation = None, residual: Any = None, out: Any = None
    ) -> Any:
        """Compute ``activation(x @ weight.T + bias) + residual``: see `linear`."""
        name = "marey.linear"
        more = None if residual is None else _one_stride(to_numpy(name, "residual", residual))
        target = None if out is None else to_numpy(name, "out", out)
        result = self._compiled(_one_stride(to_numpy(name, "x", x)), activation, more, target)
        return from_numpy_like(x)(result) if out is None else out


def linear_backward(
    grad: Any, x: Any, weight: Any, *, needs: tuple[bool, bool, bool] = (True, True, True)
) -> tuple[Any, Any, Any]:
    """Compute the gradients of `linear` without an activation.

    Parameters
    ----------
    grad : array, (..., K)
        The gradient of the result, of its type.
    x : array, (..., C)
    weight : array, (K, C)
    needs : tuple of bool
        Which of the gradients are wanted.

    Returns
    -------
    grad_x, grad_weight, grad_bias : array
        ``grad @ weight``, ``grad.T @ x`` and ``grad.sum(0)`` over all leading axes; None for those
        that are not wanted. They do not depend on the number of threads.

    Raises
    ------
    TypeError, ValueError
        As `linear`.

    Examples
    --------
    >>> import marey, numpy as np
    >>> x, weight = np.ones((2, 50, 96), np.float32), np.ones((64, 96), np.float32)
    >>> grad = np.ones((2, 50, 64), np.float32)
    >>> [g.shape for g in marey.attention.linear_backward(grad, x, weight)]
    [(2, 50, 96), (64, 96), (64,)]
    """
    name = "marey.linear_backward"
    grads = _cpu.linear_backward(
        _one_stride(to_numpy(name, "grad", grad)),
        _one_stride(to_numpy(name, "x", x)),
        to_numpy(name, "weight", weight),
        needs_x=bool(needs[0]),
        needs_weight=bool(needs[1]),
        needs_bias=bool(needs[2]),
    )
    convert = from_numpy_like(x)
    grad_x, grad_weight, grad_bias = (None if g is None else convert(g) for g in grads)
    return grad_x, grad_weight, grad_bias


def layer_norm(
    x: Any, weight: Any = None, bias: Any = None, *, eps: float = 1e-5, out: Any = None
) -> Any:
    """Normalise the last axis to mean 0 and variance 1 [1]_.

    Parameters
    ----------
    x : array, (..., C)
        float32, float64 or bfloat16 (computed in float32). Any strides.
    weight, bias : array, (C,), optional
        What the result is multiplied by, and what is added to it; of the type of `x`.
    eps : float
        Added to the variance.
    out : array, (..., C), optional
        Where to write the result: `x` itself, or memory that does not overlap it.

    Returns
    -------
    array, (..., C)

    Raises
    ------
    TypeError, ValueError
        If an argument is not an array of this type and shape, or `eps` is negative.

    References
    ----------
    .. [1] J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", 2016.

    Examples
    --------
    >>> import marey, numpy as np
    >>> marey.attention.layer_norm(np.array([1.0, 3.0]), eps=0.0)
    array([-1.,  1.])
    """
    name = "marey.layer_norm"
    result = _cpu.layer_norm(
        to_numpy(name, "x", x),
        _adjacent(name, "weight", weight),
        _adjacent(name, "bias", bias),
        _arguments.number(name, "eps", eps, 0.0),
        None if out is None else to_numpy(name, "out", out),
    )
    return from_numpy_like(x)(result) if out is None else out


def layer_norm_backward(
    grad: Any, x: Any, weight: Any = None, *, eps: float = 1e-5
) -> tuple[Any, Any, Any]:
    """Compute the gradients of `layer_norm`.

    Parameters
    ----------
    grad : array, (..., C)
        The gradient of the result, of its type.
    x : array, (..., C)
    weight : array, (C,), optional
    eps : float

    Returns
    -------
    grad_x : array, (..., C)
    grad_weight, grad_bias : array, (C,)
        They do not depend on the number of threads.

    Raises
    ------
    TypeError, ValueError
        As `layer_norm`.

    Examples
    --------
    >>> import marey, numpy as np
    >>> x = np.random.default_rng(0).random((2, 50, 96))
    >>> [g.shape for g in marey.attention.layer_norm_backward(x, x)]
    [(2, 50, 96), (96,), (96,)]
    """
    name = "marey.layer_norm_backward"
    grads = _cpu.layer_norm_backward(
        to_numpy(name, "grad", grad),
        to_numpy(name, "x", x),
        _adjacent(name, "weight", weight),
        _arguments.number(name, "eps", eps, 0.0),
    )
    grad_x, grad_weight, grad_bias = map(from_numpy_like(x), grads)
    return grad_x, grad_weight, grad_bias
