"""Gradients of convolution."""

from __future__ import annotations

from typing import Any

from marey.conv._options import Layout, Numbers, Padding


def conv3d_backward(
    grad: Any,
    x: Any,
    weight: Any,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    layout: Layout = "NCTHW",
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Any, Any, Any]:
    """Gradients of `conv3d` by x, weight and bias."""
    raise NotImplementedError
