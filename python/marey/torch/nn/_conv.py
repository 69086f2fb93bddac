"""Convolution as a module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from marey import conv as plain
from marey.torch import conv as ops
from marey.torch._operation import to_array, to_tensor
from marey.torch._packed import Packed, on_cpu, without_gradient


class Conv3d(torch.nn.Conv3d):
    """`torch.nn.Conv3d` with marey's kernels: the same arguments, parameters and results.

    A tensor in ``torch.channels_last_3d`` is read and answered in that order.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
        if not on_cpu(input) or input.dim() not in (4, 5) or not on_cpu(weight):
            return super()._conv_forward(input, weight, bias)
        x = input if input.dim() == 5 else input.unsqueeze(0)
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            around = self._reversed_padding_repeated_twice
            x = torch.nn.functional.pad(x, around, mode=self.padding_mode)
            padding = 0
        elif isinstance(padding, str):
            # torch pads more behind than before, as marey does.
            padding = "same" if padding == "same" else 0
        options: dict[str, Any] = {
            "stride": self.stride,
            "padding": padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }
        last = x.is_contiguous(memory_format=torch.channels_last_3d) and not x.is_contiguous()
        if last:
            options["layout"] = "NTHWC"
            x = x.permute(0, 2, 3, 4, 1)
        if without_gradient(x, weight, bias):
            packed = self.__dict__.setdefault("_packed", Packed()).get(
                last,
                (weight, bias),
                lambda: plain.Conv3d(
                    to_array(weight), None if bias is None else to_array(bias), **options
                ),
            )
            y = to_tensor(packed(to_array(x)))
        else:
            y = ops.conv3d(x, weight, bias, **options)
        if last:
            y = y.permute(0, 4, 1, 2, 3)
        return y if input.dim() == 5 else y.squeeze(0)
