"""Softmax attention that never stores the score matrix.

``q`` is ``(..., h, L, D)``, ``k`` and ``v`` are ``(..., h_kv, S, D)``: batch axes, heads,
positions, head size. Strides are free, so the ``(B, L, h, D)`` arrays that projections make are
passed as ``x.transpose(0, 2, 1, 3)`` and read where they lie. Arrays are float32, float64, or
bfloat16 (`ml_dtypes.bfloat16`), which is computed in float32.
"""

from marey.attention._cache import KVCache
from marey.attention._softmax import attention, attention_backward
from marey.attention._space_time import space_time_attention
from marey.attention._varlen import attention_varlen, attention_varlen_backward

__all__ = [
    "KVCache",
    "attention",
    "attention_backward",
    "attention_varlen",
    "attention_varlen_backward",
    "space_time_attention",
]
