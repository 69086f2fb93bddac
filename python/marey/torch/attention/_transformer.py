"""Multi-head attention and transformer blocks: compositions, which torch differentiates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from marey.torch.attention._linear import layer_norm, linear, rotary
from marey.torch.attention._softmax import attention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from marey.torch.attention._softmax import Causal, Window


def multi_head_attention(
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    *,
    num_heads: int,
    in_proj_weight: Tensor,
    in_proj_bias: Tensor | None = None,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None = None,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    causal: Causal = False,
    window: Window = None,
    softcap: float | None = None,
    positions: Any = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Compute attention between linear projections: `marey.attention.multi_head_attention`.

    Parameters
    ----------
    query : Tensor, (..., L, E)
        float32, float64 or bfloat16.
    key : Tensor, (..., S, E), optional
        Default `query`.
    value : Tensor, (..., S, E), optional
        Default `key`.
    num_heads : int
    in_proj_weight : Tensor, (3 E, E)
        The projections of queries, keys and values, one below the other.
    in_proj_bias : Tensor, (3 E,), optional
    out_proj_weight : Tensor, (E, E)
    out_proj_bias : Tensor, (E,), optional
    mask, bias, causal, window, softcap
        As for `attention`.
    positions : Tensor or array, (L,) or (L, axes), optional
        Turns queries and keys by `rotary` positions, for self-attention.
    residual : Tensor, (..., L, E), optional
        Added to the result.

    Returns
    -------
    Tensor, (..., L, E)
    """
    name = "marey.torch.multi_head_attention"
    size = in_proj_weight.shape[0] // 3
    if size == 0 or in_proj_weight.shape[0] % 3 or size % num_heads:
        raise ValueError(
            f"[{name}] in_proj_weight: expected shape (3 E, C), E a multiple of num_heads = "
            f"{num_heads}; found {tuple(in_proj_weight.shape)}"
        )

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (num_heads, -1)).transpose(-2, -3)

    if key is None and value is None:
        projected = linear(query, in_proj_weight, in_proj_bias).chunk(3, -1)
    else:
        key = query if key is None else key
        value = key if value is None else value
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        projected = tuple(
            linear(x, w, b)
            for x, w, b in zip((query, key, value), in_proj_weight.chunk(3), biases, strict=True)
        )
    q, k, v = map(heads, projected)
    if positions is not None:
        q, k = rotary(q, positions), rotary(k, positions)
    mixed = attention(q, k, v, mask=mask, bias=bias, causal=causal, window=window, softcap=softcap)
    joined = mixed.transpose(-2, -3).flatten(-2)
    return linear(joined, out_proj_weight, out_proj_bias, residual=residual)


def transformer_block(
    x: Tensor,
    weights: Mapping[str, Tensor],
    num_heads: int,
    memory: Tensor | None = None,
    *,
    norm_first: bool = True,
    activation: Literal["relu", "gelu"] = "gelu",
    eps: float = 1e-5,
    mask: Tensor | None = None,
    causal: Causal = False,
    memory_mask: Tensor | None = None,
    positions: Any = None,
) -> Tensor:
    """Compute a layer of an encoder or decoder: `marey.attention.transformer_block`.

    Differentiable in `x`, `memory` and the weights.

    Parameters
    ----------
    x : Tensor, (..., L, E)
        float32, float64 or bfloat16.
    weights : mapping of str to Tensor
        By the names of the state of ``torch.nn.TransformerEncoderLayer`` or
        ``TransformerDecoderLayer``.
    num_heads : int
    memory : Tensor, (..., S, E), optional
        What a decoder's layer attends to.
    norm_first, activation, eps, mask, causal, memory_mask, positions
        As for `marey.attention.transformer_block`.

    Returns
    -------
    Tensor, (..., L, E)
    """
    name = "marey.torch.transformer_block"
    decoder = "multihead_attn.out_proj.weight" in weights
    if (memory is None) == decoder:
        expected = "the encoder's result" if decoder else "None for an encoder's layer"
        raise ValueError(f"[{name}] memory: expected {expected}; found {type(memory).__name__}")

    def need(key: str) -> Tensor:
        if key not in weights:
            raise ValueError(f"[{name}] weights: expected {key!r}; found {sorted(weights)}")
        return weights[key]

    def attend(part: str, z: Tensor, residual: Tensor, other: Tensor | None, **options: Any) -> Any:
        return multi_head_attention(
            z,
            other,
            num_heads=num_heads,
            in_proj_weight=need(f"{part}.in_proj_weight"),
            in_proj_bias=weights.get(f"{part}.in_proj_bias"),
            out_proj_weight=need(f"{part}.out_proj.weight"),
            out_proj_bias=weights.get(f"{part}.out_proj.bias"),
            residual=residual,
            **options,
        )

    def itself(z: Tensor, residual: Tensor) -> Tensor:
        return attend("self_attn", z, residual, None, mask=mask, causal=causal, positions=positions)

    def across(z: Tensor, residual: Tensor) -> Tensor:
        return attend("multihead_attn", z, residual, memory, mask=memory_mask)

    def feed_forward(z: Tensor, residual: Tensor) -> Tensor:
        wide = linear(z, need("linear1.weight"), weights.get("linear1.bias"), activation=activation)
        return linear(wide, need("linear2.weight"), weights.get("linear2.bias"), residual=residual)

    parts = [itself, across, feed_forward] if decoder else [itself, feed_forward]
    for k, part in enumerate(parts, 1):
        weight, bias = need(f"norm{k}.weight"), weights.get(f"norm{k}.bias")
        if norm_first:
            x = part(layer_norm(x, weight, bias, eps=eps), x)
        else:
            x = layer_norm(part(x, x), weight, bias, eps=eps)
    return x
