"""Recurrent networks: vanilla RNN, LSTM and GRU, over sequences and step by step.

Weights have torch's layout and names: ``weight_ih`` is ``(gates * H, I)``, ``weight_hh`` is
``(gates * H, H)``, the gates i, f, g, o (LSTM) or r, z, n (GRU) below each other. A sequence is
``(T, N, I)``, or ``(N, T, I)`` with ``batch_first``, which is read where it lies. Arrays are
float32, float64, or bfloat16 (`ml_dtypes.bfloat16`), whose products are summed in float32 and whose
cell state is float32.

The functions `rnn`, `lstm` and `gru` pack the weights at every call; the classes `RNN`, `LSTM` and
`GRU` do so once, and have layers and both directions.
"""

from marey.recurrent._layers import GRU, LSTM, RNN
from marey.recurrent._sequences import gru, lstm, rnn

__all__ = ["GRU", "LSTM", "RNN", "gru", "lstm", "rnn"]
