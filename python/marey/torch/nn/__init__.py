"""Modules with torch's constructor arguments, parameter names and state dictionaries.

Those that torch has too are torch's own with another forward: what marey has no kernel for (a CUDA
tensor, an option) goes to torch's. Without gradients weights are packed once, and again when they
change.
"""

from marey.torch.nn._conv import Conv3d
from marey.torch.nn._filters import LaplacianPyramid, SosFilter
from marey.torch.nn._linear import Linear
from marey.torch.nn._recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from marey.torch.nn._transformer import MultiheadAttention, TransformerEncoderLayer

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Conv3d",
    "GRUCell",
    "LSTMCell",
    "LaplacianPyramid",
    "Linear",
    "MultiheadAttention",
    "RNNCell",
    "SosFilter",
    "TransformerEncoderLayer",
]
