"""Attention, linear layers, convolution and recurrent networks."""

from __future__ import annotations

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from marey.attention import _options
from marey.conv._options import LAYOUTS, Layout, Numbers, Padding, pairs, triple
from marey.jax._call import Shape, call
from marey.recurrent import _call as cells


def _as(array: Any, shape: Shape | None = None, dtype: Any = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        array.shape if shape is None else shape, array.dtype if dtype is None else dtype
    )


def _computed(x: Any) -> Any:
    """Return the type that kernels compute in."""
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


# Attention

Limits = tuple[float, float, int, int, int]


def _attention_options(limits: Limits) -> dict[str, Any]:
    return dict(zip(("scale", "softcap", "left", "right", "alignment"), limits, strict=True))


def _attend(q: Any, k: Any, v: Any, limits: Limits) -> tuple[Any, Any]:
    results = (
        _as(q, (*q.shape[:-1], v.shape[-1])),
        _as(q, q.shape[:-1], _computed(q)),
    )
    out, lse = call("attention", results, q, k, v, **_attention_options(limits))
    return out, lse


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(q: Any, k: Any, v: Any, limits: Limits) -> Any:
    return _attend(q, k, v, limits)[0]


def _attention_forward(q: Any, k: Any, v: Any, limits: Limits) -> Any:
    out, lse = _attend(q, k, v, limits)
    return out, (q, k, v, out, lse)


def _attention_back(limits: Limits, saved: Any, grad: Any) -> Any:
    results = tuple(_as(x) for x in saved[:3])
    return tuple(call("attention_backward", results, grad, *saved, **_attention_options(limits)))


_attention.defvjp(_attention_forward, _attention_back)


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: Literal["top_left", "bottom_right"] | bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Any:
    """Compute softmax attention: `marey.attention.attention`, without a mask or a bias.

    Parameters
    ----------
    q : jax array, (..., h, L, D)
        float32, float64 or bfloat16.
    k : jax array, (..., h_kv, S, D)
        `h_kv` divides h.
    v : jax array, (..., h_kv, S, Dv)
    causal, window, scale, softcap
        As for `marey.attention.attention`.

    Returns
    -------
    jax array, (..., h, L, Dv)
    """
    name = "marey.jax.attention"
    q, k, v = map(jnp.asarray, (q, k, v))
    left, right, alignment = _options.limits(name, causal, window)
    limits = (
        float(_options.scale_or_default(name, q, scale)),
        float(_options.softcap_or_zero(name, softcap)),
        -1 if left is None else left,
        -1 if right is None else right,
        alignment,
    )
    return _attention(q, k, v, limits)


# Linear layers. A batch that vmap adds to a weight is a loop: kernels take one weight at a time.


@jax.custom_vjp
def _linear(x: Any, weight: Any, bias: Any) -> Any:
    given = (x, weight) if bias is None else (x, weight, bias)
    y = _as(x, (*x.shape[:-1], weight.shape[0]))
    return call("linear", y, *given, vmap="sequential")


def _linear_back(saved: Any, grad: Any) -> Any:
    x, weight, bias = saved
    results = (_as(x), _as(weight), _as(weight, weight.shape[:1]))
    found = call("linear_backward", results, grad, x, weight, vmap="sequential")
    return (*found[:2], None if bias is None else found[2])


_linear.defvjp(lambda *arrays: (_linear(*arrays), arrays), _linear_back)


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """Compute ``x @ weight.T + bias``: `marey.attention.linear`.

    Parameters
    ----------
    x : jax array, (..., C)
        float32, float64 or bfloat16.
    weight : jax array, (K, C)
    bias : jax array, (K,), optional

    Returns
    -------
    jax array, (..., K)
    """
    x, weight = jnp.asarray(x), jnp.asarray(weight)
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"[marey.jax.linear] x, weight: expected shapes (..., C) and (K, C); found {x.shape} "
            f"and {weight.shape}"
        )
    return _linear(x, weight, None if bias is None else jnp.asarray(bias))


# Convolution, (N, C, T, H, W)

Window = tuple[float, ...]


def _conv3d_options(window: Window, groups: int) -> dict[str, Any]:
    return {"vmap": "sequential", "window": window, "groups": groups}


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _conv3d(x: Any, weight: Any, bias: Any, window: Window, groups: int) -> Any:
    sizes = [
        int((n + window[3 + a] + window[6 + a] - window[9 + a] * (kernel - 1) - 1) // window[a] + 1)
        for a, (n, kernel) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True))
    ]
    given = (x, weight) if bias is None else (x, weight, bias)
    y = _as(x, (x.shape[0], weight.shape[0], *(max(n, 0) for n in sizes)))
    return call("conv3d", y, *given, **_conv3d_options(window, groups))


def _conv3d_forward(x: Any, weight: Any, bias: Any, window: Window, groups: int) -> Any:
    return _conv3d(x, weight, bias, window, groups), (x, weight, bias)


def _conv3d_back(window: Window, groups: int, saved: Any, grad: Any) -> Any:
    x, weight, bias = saved
    results = (_as(x), _as(weight), _as(weight, weight.shape[:1]))
    found = call("conv3d_backward", results, grad, x, weight, **_conv3d_options(window, groups))
    return (*found[:2], None if bias is None else found[2].astype(bias.dtype))


_conv3d.defvjp(_conv3d_forward, _conv3d_back)


def conv3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    layout: Layout = "NCTHW",
) -> Any:
    """Convolve a video: `marey.conv.conv3d`.

    Parameters
    ----------
    x : jax array, (N, C, T, H, W) or (N, T, H, W, C)
        float32, float64 or bfloat16.
    weight : jax array, (K, C / groups, kT, kH, kW)
    bias : jax array, (K,), optional
    stride, padding, dilation, groups
        As for `marey.conv.conv3d`.
    layout : "NCTHW" or "NTHWC"
        XLA transposes the latter.

    Returns
    -------
    jax array, (N, K, T', H', W') or (N, T', H', W', K)
    """
    name = "marey.jax.conv3d"
    x, weight = jnp.asarray(x), jnp.asarray(weight)
    if x.ndim != 5 or weight.ndim != 5:
        raise ValueError(
            f"[{name}] x, weight: expected 5 axes each; found {x.shape} and {weight.shape}"
        )
    if layout not in (*LAYOUTS,):
        raise ValueError(f"[{name}] layout: expected 'NCTHW' or 'NTHWC'; found {layout!r}")
    steps, apart = triple(name, "stride", stride, 1), triple(name, "dilation", dilation, 1)
    kernel = (weight.shape[2], weight.shape[3], weight.shape[4])
    around = pairs(name, padding, kernel, apart, steps)
    window = tuple(map(float, (*steps, *around[::2], *around[1::2], *apart)))
    first = x if layout == "NCTHW" else jnp.moveaxis(x, -1, 1)
    y = _conv3d(first, weight, None if bias is None else jnp.asarray(bias), window, int(groups))
    return y if layout == "NCTHW" else jnp.moveaxis(y, 1, -1)


# Recurrent networks: x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0 (empty where there is none)


def _recurrent_options(cell: int, reverse: bool) -> dict[str, Any]:
    return {"vmap": "sequential", "cell": cell, "reverse": int(reverse)}


@functools.partial(jax.custom_vjp, nondiff_argnums=(7, 8))
def _recurrent(
    x: Any, w: Any, u: Any, b: Any, d: Any, h0: Any, c0: Any, cell: int, reverse: bool
) -> Any:
    y = _as(x, (*x.shape[:2], u.shape[1]))
    arrays = (x, w, u, b, d, h0, c0)
    return tuple(
        call("recurrent", (y, _as(h0), _as(c0)), *arrays, **_recurrent_options(cell, reverse))
    )


def _recurrent_forward(*arguments: Any) -> Any:
    return _recurrent(*arguments), arguments[:7]


def _recurrent_back(cell: int, reverse: bool, saved: Any, grads: Any) -> Any:
    real = _computed(saved[0])
    # The gradients of weights are summed, and come, in the type of the computation.
    results = tuple(
        _as(array, dtype=None if k in (0, 5) else real) for k, array in enumerate(saved)
    )
    found = call("recurrent_backward", results, *grads, *saved, **_recurrent_options(cell, reverse))
    return tuple(g.astype(a.dtype) for g, a in zip(found, saved, strict=True))


_recurrent.defvjp(_recurrent_forward, _recurrent_back)


def _run(
    name: str,
    cell: int,
    x: Any,
    weights: tuple[Any, Any, Any, Any],
    h0: Any,
    c0: Any,
    reverse: bool,
    batch_first: bool,
) -> tuple[Any, Any, Any]:
    x = jnp.asarray(x)
    w, u = jnp.asarray(weights[0]), jnp.asarray(weights[1])
    if x.ndim != 3 or w.ndim != 2 or u.ndim != 2:
        raise ValueError(
            f"[{name}] x, weight_ih, weight_hh: expected 3, 2 and 2 axes; found shapes {x.shape}, "
            f"{w.shape} and {u.shape}"
        )
    if batch_first:
        x = jnp.swapaxes(x, 0, 1)
    N, H = x.shape[1], u.shape[1]
    biases = [jnp.zeros(w.shape[0], x.dtype) if b is None else jnp.asarray(b) for b in weights[2:]]
    h = jnp.zeros((N, H), x.dtype) if h0 is None else jnp.asarray(h0)
    real = _computed(x)
    if cell != cells.LSTM:
        c = jnp.zeros(0, real)
    else:
        c = jnp.zeros((N, H), real) if c0 is None else jnp.asarray(c0)
    y, h_n, c_n = _recurrent(x, w, u, *biases, h, c, cell, bool(reverse))
    return (jnp.swapaxes(y, 0, 1) if batch_first else y), h_n, c_n


def lstm(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    h0: Any = None,
    c0: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
) -> tuple[Any, tuple[Any, Any]]:
    """Run a long short-term memory over sequences: `marey.recurrent.lstm`.

    The way there is gone once more on the way back.

    Parameters
    ----------
    x : jax array, (T, N, I)
        float32, float64 or bfloat16. (N, T, I) with `batch_first`.
    weight_ih, weight_hh, bias_ih, bias_hh
        As for `marey.recurrent.lstm`.
    h0, c0 : jax array, (N, H), optional
        c0 is float32 for bfloat16.
    reverse, batch_first : bool
        As for `marey.recurrent.lstm`.

    Returns
    -------
    y : jax array, (T, N, H)
    (h_n, c_n) : jax arrays, (N, H)
    """
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    y, h, c = _run("marey.jax.lstm", cells.LSTM, x, weights, h0, c0, reverse, batch_first)
    return y, (h, c)


def gru(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    h0: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    reset: Literal["after", "before"] = "after",
) -> tuple[Any, Any]:
    """Run a gated recurrent unit over sequences: `marey.recurrent.gru`.

    Parameters
    ----------
    x : jax array, (T, N, I)
        As for `lstm`.
    weight_ih, weight_hh, bias_ih, bias_hh, reset
        As for `marey.recurrent.gru`.
    h0, reverse, batch_first
        As for `lstm`.

    Returns
    -------
    y : jax array, (T, N, H)
    h_n : jax array, (N, H)
    """
    name = "marey.jax.gru"
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    cell = cells.gru_cell(name, reset)
    y, h, _ = _run(name, cell, x, weights, h0, None, reverse, batch_first)
    return y, h


def rnn(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    h0: Any = None,
    reverse: bool = False,
    batch_first: bool = False,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
) -> tuple[Any, Any]:
    """Run a vanilla recurrent network over sequences: `marey.recurrent.rnn`.

    Parameters
    ----------
    x : jax array, (T, N, I)
        As for `lstm`.
    weight_ih, weight_hh, bias_ih, bias_hh, nonlinearity
        As for `marey.recurrent.rnn`.
    h0, reverse, batch_first
        As for `lstm`.

    Returns
    -------
    y : jax array, (T, N, H)
    h_n : jax array, (N, H)
    """
    name = "marey.jax.rnn"
    weights = (weight_ih, weight_hh, bias_ih, bias_hh)
    cell = cells.rnn_cell(name, nonlinearity)
    y, h, _ = _run(name, cell, x, weights, h0, None, reverse, batch_first)
    return y, h
