"""Multi-head attention and transformer blocks: compositions that store no scores and copy no heads.

Weights have the shapes and names that they have in torch.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from marey import _arguments
from marey._arrays import from_numpy_like, to_numpy
from marey.attention._linear import Linear, layer_norm
from marey.attention._positions import rotary
from marey.attention._softmax import attention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from marey.attention._options import Causal, Window

    Array = np.ndarray[Any, Any]


class MultiHeadAttention:
    """Attention between linear projections, with the weights packed once.

    Parameters
    ----------
    num_heads : int
        Of the queries. Keys and values may have fewer heads, by fewer rows of their weights.
    in_proj_weight : array, (3 E, E), optional
        The projections of queries, keys and values, one below the other; or `q_proj_weight`
        (E, E), `k_proj_weight` (E_kv, C) and `v_proj_weight` (Ev_kv, Cv) instead.
    in_proj_bias : array, (3 E,), optional
        With either: the biases one after the other.
    q_proj_weight, k_proj_weight, v_proj_weight : array, optional
    out_proj_weight : array, (E, h Dv)
    out_proj_bias : array, (E,), optional

    Raises
    ------
    ValueError
        If the weights do not fit together.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> layer = marey.attention.MultiHeadAttention(
    ...     12,
    ...     in_proj_weight=rng.random((3 * 96, 96), np.float32),
    ...     out_proj_weight=rng.random((96, 96), np.float32),
    ... )
    >>> layer(rng.random((2, 50, 96), np.float32)).shape
    (2, 50, 96)
    """

    _NAME = "marey.multi_head_attention"

    def __init__(
        self,
        num_heads: int,
        *,
        in_proj_weight: Any = None,
        in_proj_bias: Any = None,
        q_proj_weight: Any = None,
        k_proj_weight: Any = None,
        v_proj_weight: Any = None,
        out_proj_weight: Any,
        out_proj_bias: Any = None,
    ) -> None:
        name = self._NAME
        self.num_heads = _arguments.integer(name, "num_heads", num_heads, 1)
        separate = {
            "q_proj_weight": q_proj_weight,
            "k_proj_weight": k_proj_weight,
            "v_proj_weight": v_proj_weight,
        }
        given = sum(w is not None for w in separate.values())
        if given != (3 if in_proj_weight is None else 0):
            raise ValueError(
                f"[{name}] in_proj_weight: expected it, or all of {', '.join(separate)}; found "
                f"{'it and' if in_proj_weight is not None else 'only'} {given} of these"
            )
        self._whole: Array | None = None
        if in_proj_weight is not None:
            self._whole = self._matrix("in_proj_weight", in_proj_weight)
            if len(self._whole) % 3:
                raise ValueError(
                    f"[{name}] in_proj_weight: expected shape (3 E, C); found {self._whole.shape}"
                )
            self._weights = np.split(self._whole, 3)
        else:
            self._weights = [self._matrix(argument, w) for argument, w in separate.items()]
        ends = np.cumsum([len(w) for w in self._weights])
        self._bias = None
        if in_proj_bias is not None:
            self._bias = to_numpy(name, "in_proj_bias", in_proj_bias)
            if self._bias.shape != (ends[-1],):
                raise ValueError(
                    f"[{name}] in_proj_bias: expected shape ({ends[-1]},); found {self._bias.shape}"
                )
        self._ends = ends[:-1]
        rows = [len(w) for w in self._weights]
        size = rows[0] // self.num_heads
        if size == 0 or rows[0] % self.num_heads:
            raise ValueError(
                f"[{name}] num_heads: expected a number that divides {rows[0]}; "
                f"found {self.num_heads}"
            )
        self._key_heads = rows[1] // size
        if self._key_heads == 0 or rows[1] % size or self.num_heads % self._key_heads:
            raise ValueError(
                f"[{name}] k_proj_weight: expected {size} rows for each of a number of heads that "
                f"divides {self.num_heads}; found {rows[1]}"
            )
        if rows[2] % self._key_heads:
            raise ValueError(
                f"[{name}] v_proj_weight: expected rows for {self._key_heads} heads; "
                f"found {rows[2]}"
            )
        self._out = Linear(self._matrix("out_proj_weight", out_proj_weight), out_proj_bias)

    # Packed when they are first used: self-attention needs the one, cross-attention the others.
    @cached_property
    def _joint(self) -> Linear:
        return Linear(self._whole, self._bias)

    @cached_property
    def _apart(self) -> list[Linear]:
        biases: list[Any] = [None] * 3 if self._bias is None else np.split(self._bias, self._ends)
        return [Linear(w, b) for w, b in zip(self._weights, biases, strict=True)]

    def _matrix(self, argument: str, weight: Any) -> Array:
        array = to_numpy(self._NAME, argument, weight)
        if array.ndim != 2:
            raise ValueError(f"[{self._NAME}] {argument}: expected 2 axes; found {array.shape}")
        return array

    def __call__(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        *,
        mask: Any = None,
        bias: Any = None,
        causal: Causal = False,
        window: Window = None,
        softcap: float | None = None,
        positions: Any = None,
        residual: Any = None,
        out: Any = None,
    ) -> Any:
        """Project, attend, and project back: see `multi_head_attention`."""
        name = self._NAME
        q_in = to_numpy(name, "query", query)
        if q_in.ndim < 2:
            raise ValueError(f"[{name}] query: expected shape (..., L, E); found {q_in.shape}")
        if key is None and value is None and self._whole is not None:
            projected = np.split(self._joint(q_in), 3, axis=-1)
        else:
            k_in = q_in if key is None else to_numpy(name, "key", key)
            v_in = k_in if value is None else to_numpy(name, "value", value)
            projected = [layer(x) for layer, x in zip(self._apart, (q_in, k_in, v_in), strict=True)]
        heads = (self.num_heads, self._key_heads, self._key_heads)
        q, k, v = (_split(x, h) for x, h in zip(projected, heads, strict=True))
        if positions is not None:
            rotary(q, positions, out=q)
            rotary(k, positions, out=k)
        mixed = np.empty((*q_in.shape[:-1], self.num_heads, v.shape[-1]), q_in.dtype)
        attention(
            q,
            k,
            v,
            mask=mask,
            bias=bias,
            causal=causal,
            window=window,
            softcap=softcap,
            out=np.moveaxis(mixed, -2, -3),
        )
        flat = mixed.reshape(*q_in.shape[:-1], self.num_heads * v.shape[-1])
        result = self._out(flat, residual=residual, out=out)
        return from_numpy_like(query)(result) if out is None else out


def _split(x: Array, heads: int) -> Array:
    """Return (..., L, E) as (..., h, L, D): a view."""
    return np.moveaxis(x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads), -2, -3)


def multi_head_attention(
    query: Any,
    key: Any = None,
    value: Any = None,
    *,
    num_heads: int,
    in_proj_weight: Any = None,
    in_proj_bias: Any = None,
    q_proj_weight: Any = None,
    k_proj_weight: Any = None,
    v_proj_weight: Any = None,
    out_proj_weight: Any,
    out_proj_bias: Any = None,
    mask: Any = None,
    bias: Any = None,
    causal: Causal = False,
    window: Window = None,
    softcap: float | None = None,
    positions: Any = None,
    out: Any = None,
) -> Any:
    """Compute attention between linear projections [1]_.

    Heads are read where the projections write them; nothing is permuted.

    Parameters
    ----------
    query : array, (..., L, E)
        float32, float64 or bfloat16.
    key : array, (..., S, C), optional
        Default `query`: self-attention.
    value : array, (..., S, Cv), optional
        Default `key`.
    num_heads, in_proj_weight, in_proj_bias, q_proj_weight, k_proj_weight, v_proj_weight
        As for `MultiHeadAttention`, which packs them once for many calls.
    out_proj_weight, out_proj_bias
        As for `MultiHeadAttention`.
    mask, bias, causal, window, softcap
        As for `attention`: a mask is True where attention is allowed, and broadcasts to
        (..., h, L, S).
    positions : array, (L,) or (L, axes), optional
        Turns queries and keys by `rotary` positions, for self-attention.
    out : array, (..., L, E), optional

    Returns
    -------
    array, (..., L, E)

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", NIPS 2017.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.random((2, 50, 96), np.float32)
    >>> weights = {
    ...     "in_proj_weight": rng.random((3 * 96, 96), np.float32),
    ...     "out_proj_weight": rng.random((96, 96), np.float32),
    ... }
    >>> marey.attention.multi_head_attention(x, num_heads=12, causal=True, **weights).shape
    (2, 50, 96)
    """
    layer = MultiHeadAttention(
        num_heads,
        in_proj_weight=in_proj_weight,
        in_proj_bias=in_proj_bias,
        q_proj_weight=q_proj_weight,
        k_proj_weight=k_proj_weight,
        v_proj_weight=v_proj_weight,
        out_proj_weight=out_proj_weight,
        out_proj_bias=out_proj_bias,
    )
    return layer(
        query,
        key,
        value,
        mask=mask,
        bias=bias,
        causal=causal,
        window=window,
        softcap=softcap,
        positions=positions,
        out=out,
    )


class TransformerBlock:
    """A layer of a transformer's encoder or decoder, with the weights packed once.

    Parameters
    ----------
    weights : mapping of str to array
        By the names of the state of ``torch.nn.TransformerEncoderLayer`` (or
        ``TransformerDecoderLayer``): ``self_attn.in_proj_weight``, ``self_attn.out_proj.weight``,
        ``linear1.weight``, ``linear2.weight``, ``norm1.weight``, ``norm2.weight``, each with its
        bias or without; a decoder's has ``multihead_attn`` like ``self_attn``, and ``norm3``.
    num_heads : int
    norm_first : bool
        Whether each part normalises what it reads (True) or the sum that it gives (False, as in
        the first transformer).
    activation : "relu" or "gelu"
        Of the feed-forward part.
    eps : float
        Of the normalisation.

    Raises
    ------
    ValueError
        If a weight is missing or does not fit.
    """

    _NAME = "marey.transformer_block"

    def __init__(
        self,
        weights: Mapping[str, Any],
        num_heads: int,
        *,
        norm_first: bool = True,
        activation: Literal["relu", "gelu"] = "gelu",
        eps: float = 1e-5,
    ) -> None:
        name = self._NAME
        if activation not in ("relu", "gelu"):
            raise ValueError(
                f"[{name}] activation: expected 'relu' or 'gelu'; found {activation!r}"
            )

        def need(key: str) -> Any:
            if key not in weights:
                raise ValueError(f"[{name}] weights: expected {key!r}; found {sorted(weights)}")
            return weights[key]

        def heads(part: str) -> MultiHeadAttention:
            separate = {f"{a}_proj_weight": weights.get(f"{part}.{a}_proj_weight") for a in "qkv"}
            if all(w is None for w in separate.values()):
                need(f"{part}.in_proj_weight")
            return MultiHeadAttention(
                num_heads,
                in_proj_weight=weights.get(f"{part}.in_proj_weight"),
                in_proj_bias=weights.get(f"{part}.in_proj_bias"),
                **separate,
                out_proj_weight=need(f"{part}.out_proj.weight"),
                out_proj_bias=weights.get(f"{part}.out_proj.bias"),
            )

        self.is_decoder = "multihead_attn.out_proj.weight" in weights
        self._self = heads("self_attn")
        self._cross = heads("multihead_attn") if self.is_decoder else None
        self._wide = Linear(need("linear1.weight"), weights.get("linear1.bias"))
        self._narrow = Linear(need("linear2.weight"), weights.get("linear2.bias"))
        norms = ("norm1", "norm2", "norm3") if self.is_decoder else ("norm1", "norm2")
        self._norms = [(need(f"{n}.weight"), weights.get(f"{n}.bias")) for n in norms]
        self._norm_first = bool(norm_first)
        self._activation: Literal["relu", "gelu"] = activation
        self._eps = _arguments.number(name, "eps", eps, 0.0)

    def __call__(
        self,
        x: Any,
        memory: Any = None,
        *,
        mask: Any = None,
        causal: Causal = False,
        memory_mask: Any = None,
        positions: Any = None,
    ) -> Any:
        """Compute the layer: see `transformer_block`."""
        name = self._NAME
        if (memory is None) == self.is_decoder:
            expected = "the encoder's result" if self.is_decoder else "None for an encoder's layer"
            raise ValueError(f"[{name}] memory: expected {expected}; found {type(memory).__name__}")
        y = to_numpy(name, "x", x)

        def attend(z: Array, residual: Array) -> Any:
            return self._self(z, mask=mask, causal=causal, positions=positions, residual=residual)

        def cross(z: Array, residual: Array) -> Any:
            assert self._cross is not None
            return self._cross(z, other, mask=memory_mask, residual=residual)

        def feed_forward(z: Array, residual: Array) -> Any:
            return self._narrow(self._wide(z, activation=self._activation), residual=residual)

        parts = [attend, feed_forward]
        if memory is not None:
            other = to_numpy(name, "memory", memory)
            parts.insert(1, cross)
        for part, (weight, bias) in zip(parts, self._norms, strict=True):
            if self._norm_first:
                y = part(layer_norm(y, weight, bias, eps=self._eps), y)
            else:
                y = part(y, y)
                layer_norm(y, weight, bias, eps=self._eps, out=y)
        return from_numpy_like(x)(y)


def transformer_block(
    x: Any,
    weights: Mapping[str, Any],
    num_heads: int,
    memory: Any = None,
    *,
    norm_first: bool = True,
    activation: Literal["relu", "gelu"] = "gelu",
    eps: float = 1e-5,
    mask: Any = None,
    causal: Causal = False,
    memory_mask: Any = None,
    positions: Any = None,
) -> Any:
    """Compute a layer of a transformer's encoder or decoder [1]_.

    With ``norm_first``, ``x += attention(norm1(x)); x += feed_forward(norm2(x))``; without,
    ``x = norm1(x + attention(x)); x = norm2(x + feed_forward(x))``. A decoder attends to `memory`
    between the two.

    Parameters
    ----------
    x : array, (..., L, E)
        float32, float64 or bfloat16.
    weights, num_heads, norm_first, activation, eps
        As for `TransformerBlock`, which packs the weights once for many calls.
    memory : array, (..., S, E), optional
        What a decoder's layer attends to.
    mask, causal
        Of the self-attention, as for `attention`.
    memory_mask : array of bool, optional
        Of the attention to `memory`.
    positions : array, (L,) or (L, axes), optional
        Of the self-attention, for `rotary` positions.

    Returns
    -------
    array, (..., L, E)

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit together.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", NIPS 2017.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> shapes = {
    ...     "self_attn.in_proj_weight": (3 * 96, 96),
    ...     "self_attn.out_proj.weight": (96, 96),
    ...     "linear1.weight": (384, 96),
    ...     "linear2.weight": (96, 384),
    ...     "norm1.weight": (96,),
    ...     "norm2.weight": (96,),
    ... }
    >>> weights = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    >>> marey.attention.transformer_block(rng.random((2, 50, 96), np.float32), weights, 12).shape
    (2, 50, 96)
    """
    block = TransformerBlock(
        weights, num_heads, norm_first=norm_first, activation=activation, eps=eps
    )
    return block(x, memory, mask=mask, causal=causal, memory_mask=memory_mask, positions=positions)
