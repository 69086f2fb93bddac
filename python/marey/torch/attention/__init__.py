"""The functions of `marey.attention` for tensors, with gradients.

`KVCache`, `sinusoidal_positions` and the classes that keep packed weights are no operations on
tensors that come in: those of `marey.attention` take tensors too, without gradients.
"""

from marey.torch.attention._linear import layer_norm, linear, rotary
from marey.torch.attention._softmax import attention, space_time_attention
from marey.torch.attention._transformer import multi_head_attention, transformer_block
from marey.torch.attention._varlen import attention_varlen

__all__ = [
    "attention",
    "attention_varlen",
    "layer_norm",
    "linear",
    "multi_head_attention",
    "rotary",
    "space_time_attention",
    "transformer_block",
]
