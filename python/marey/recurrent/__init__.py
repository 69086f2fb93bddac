"""Recurrent networks: vanilla RNN, LSTM and GRU, over sequences and step by step.

Weights have torch's layout and names: ``weight_ih`` is ``(gates * H, I)``, ``weight_hh`` is
``(gates * H, H)``, the gates i, f, g, o (LSTM) or r, z, n (GRU) below each other. A sequence is
``(T, N, I)``, or ``(N, T, I)`` with ``batch_first``, which is read where it lies. Arrays are
float32, float64, or bfloat16 (`ml_dtypes.bfloat16`), whose products are summed in float32 and whose
cell state is float32.

The functions `rnn`, `lstm` and `gru` pack the weights at every call; the classes `RNN`, `LSTM` and
`GRU` do so once, and have layers and both directions.
"""

from marey.recurrent._backward import Gradients, gru_backward, lstm_backward, rnn_backward
from marey.recurrent._layers import GRU, LSTM, RNN
from marey.recurrent._sequences import gru, lstm, rnn
from marey.recurrent._steps import gru_step, lstm_step, rnn_step

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Gradients",
    "gru",
    "gru_backward",
    "gru_step",
    "lstm",
    "lstm_backward",
    "lstm_step",
    "rnn",
    "rnn_backward",
    "rnn_step",
]
