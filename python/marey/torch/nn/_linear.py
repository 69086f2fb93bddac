"""A linear layer as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from marey.torch import attention as ops
from marey.torch._packed import on_cpu, packed_linear, without_gradient


class Linear(torch.nn.Linear):
    """`torch.nn.Linear` with marey's kernels: the same arguments, parameters and results."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Multiply, as torch's."""
        weight, bias = self.weight, self.bias
        if not on_cpu(input) or not on_cpu(weight) or input.shape[-1] != self.in_features:
            return super().forward(input)  # torch says what does not fit
        if without_gradient(input, weight, bias):
            return packed_linear(self, "", input, weight, bias)
        return ops.linear(input, weight, bias)
