"""Attention and transformer layers as modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, relu

from marey.torch import attention as ops
from marey.torch._packed import (
    eager,
    linear_is_faster,
    on_cpu,
    packed_linear,
    without_gradient,
)

_IN_PLACE: dict[Any, Any] = {gelu: torch.ops.aten.gelu_, relu: torch.relu_}


def _unwatched(*modules: torch.nn.Module) -> bool:
    """Return whether nobody else may hold what these modules return."""
    watched = torch.nn.modules.module._global_forward_hooks
    return not watched and not any(module._forward_hooks for module in modules)


def _project(
    module: torch.nn.Module, which: str, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Multiply by whichever is faster here; compilers and tracers, which watch, get torch's."""
    if not eager(x, weight, bias) or not linear_is_faster(x.dtype):
        return linear(x, weight, bias)
    if without_gradient(x, weight, bias):
        return packed_linear(module, which, x, weight, bias)
    return ops.linear(x, weight, bias)


def _is_mask(mask: Any, query: Tensor, shape: tuple[int, ...]) -> bool:
    return mask is None or (
        mask.shape == shape and mask.dtype in (torch.bool, torch.float32, query.dtype)
    )


def _allowed(module: Any, query: Tensor, attn_mask: Any, key_padding_mask: Any) -> Any:
    """Return (mask, bias) for (N, h, L, S) from torch's, where True means forbidden."""
    mask = bias = None
    for given, padding in ((attn_mask, False), (key_padding_mask, True)):
        if given is None:
            continue
        if padding:
            shaped = given[:, None, None, :]
        elif given.dim() == 3:
            shaped = given.view(-1, module.num_heads, *given.shape[1:])
        else:
            shaped = given
        if given.dtype is torch.bool:
            mask = ~shaped if mask is None else mask & ~shaped
        else:
            bias = shaped if bias is None else bias + shaped
    if bias is not None:
        bias = bias.to(torch.float64 if query.dtype is torch.float64 else torch.float32)
    return mask, bias


class MultiheadAttention(torch.nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` with marey's attention: the same arguments and parameters.

    Where attention weights are asked for (``need_weights``, torch's default), torch computes.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, as torch's."""
        ours = not need_weights and self._ours(query, key, value)
        # torch says what does not fit.
        if not (ours and self._fits(query, key, value, key_padding_mask, attn_mask, is_causal)):
            return super().forward(
                query,
                key,
                value,
                key_padding_mask=key_padding_mask,
                need_weights=need_weights,
                attn_mask=attn_mask,
                average_attn_weights=average_attn_weights,
                is_causal=is_causal,
            )
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._projected(query, key, value)
        mask, bias = _allowed(self, query, attn_mask, key_padding_mask)
        attended = ops.attention(q, k, v, mask=mask, bias=bias)
        joined = attended.transpose(1, 2).flatten(2)
        y = _project(self, "out", joined, self.out_proj.weight, self.out_proj.bias)
        return (y if self.batch_first else y.transpose(0, 1)), None

    def _ours(self, query: Tensor, key: Tensor, value: Tensor) -> bool:
        plain = self._qkv_same_embed_dim and self.bias_k is None and not self.add_zero_attn
        whole = query.dim() == key.dim() == value.dim() == 3 and not query.is_nested
        return plain and whole and on_cpu(query) and not (self.training and self.dropout > 0)

    def _fits(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding: Any,
        attn_mask: Any,
        is_causal: bool,
    ) -> bool:
        batch = 0 if self.batch_first else 1
        if key.shape[:2] != value.shape[:2] or query.shape[batch] != key.shape[batch]:
            return False
        N, L, S = query.shape[batch], query.shape[1 - batch], key.shape[1 - batch]
        if attn_mask is None:
            return not is_causal and _is_mask(padding, query, (N, S))
        shape = (L, S) if attn_mask.dim() == 2 else (N * self.num_heads, L, S)
        return _is_mask(attn_mask, query, shape) and _is_mask(padding, query, (N, S))

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Return q, k and v as (N, h, steps, D) views."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is key and key is value:
            both = _project(self, "in", query, weight, bias)
            both = both.unflatten(2, (3, self.num_heads, self.head_dim))
            return [x.transpose(1, 2) for x in both.unbind(2)]
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        return [
            _project(self, which, x, w, b)
            .unflatten(2, (self.num_heads, self.head_dim))
            .transpose(1, 2)
            for which, x, w, b in zip(
                "qkv", (query, key, value), weight.chunk(3), biases, strict=True
            )
        ]


class TransformerEncoderLayer(torch.nn.TransformerEncoderLayer):
    """`torch.nn.TransformerEncoderLayer` with marey's attention, and torch's arguments."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.self_attn.__class__ = MultiheadAttention

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Encode, as torch's."""
        if not on_cpu(src) or src.is_nested:
            return super().forward(src, src_mask, src_key_padding_mask, is_causal)
        x = src
        if self.norm_first:
            x = self._sum(
                x, self._sa_block(self.norm1(x), src_mask, src_key_padding_mask, is_causal)
            )
            return self._sum(x, self._ff_block(self.norm2(x)))
        x = self.norm1(self._sum(x, self._sa_block(x, src_mask, src_key_padding_mask, is_causal)))
        return self.norm2(self._sum(x, self._ff_block(x)))

    # New memory costs a page fault for every 4 KiB, which is as much as a layer's pointwise parts
    # do: what no gradient needs is written where it stands.

    def _sum(self, x: Tensor, y: Tensor) -> Tensor:
        own = _unwatched(self.self_attn, self.linear2, self.dropout1, self.dropout2)
        return y.add_(x) if own and without_gradient(x, y) else x + y

    def _ff_block(self, x: Tensor) -> Tensor:
        hidden = self.linear1(x)
        own = _unwatched(self.linear1) and not self.training and self.activation in _IN_PLACE
        if own and without_gradient(hidden):
            hidden = _IN_PLACE[self.activation](hidden)
        else:
            hidden = self.dropout(self.activation(hidden))
        return self.dropout2(self.linear2(hidden))
