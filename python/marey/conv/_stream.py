"""Causal and separable convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marey.conv._options import Activation, Layout, Numbers, Padding


def causal_conv3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    state: Any = None,
    stride: Numbers = 1,
    padding: Padding = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    layout: Layout = "NCTHW",
    activation: Activation = None,
) -> tuple[Any, Any]:
    """Convolve so that no result sees a later frame."""
    raise NotImplementedError


def separable_conv3d(
    x: Any,
    spatial_weight: Any,
    temporal_weight: Any,
    spatial_bias: Any = None,
    temporal_bias: Any = None,
    *,
    stride: Numbers = 1,
    padding: Padding = 0,
    layout: Layout = "NCTHW",
    activation: Activation = None,
) -> Any:
    """Convolve in space, then in time."""
    raise NotImplementedError
