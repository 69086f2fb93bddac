"""Filters in time and pyramids as modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from marey.torch import pyramid, temporal


class SosFilter(torch.nn.Module):
    """A recursive filter along time: `marey.torch.temporal.sosfilt`.

    Parameters
    ----------
    sos : array, (sections, 6)
        Second-order sections, as `marey.temporal.butter_bandpass` gives them; kept as the buffer
        ``sos``, which stays float64 whatever the module is cast to.
    axis : int
        The axis that is time.

    Examples
    --------
    >>> import marey, torch
    >>> from marey.torch.nn import SosFilter
    >>> bandpass = SosFilter(marey.temporal.butter_bandpass(0.4, 3, fs=30))
    >>> bandpass(torch.ones(30, 4, 5)).shape
    torch.Size([30, 4, 5])
    """

    sos: Tensor

    def __init__(self, sos: Any, axis: int = 0) -> None:
        super().__init__()
        self.register_buffer("sos", torch.as_tensor(sos, dtype=torch.float64).clone())
        self.axis = axis

    def _apply(self, fn: Any, recurse: bool = True) -> SosFilter:
        sos = self.sos
        super()._apply(fn, recurse)
        if self.sos.dtype is not torch.float64:
            self.sos = sos  # coefficients rounded to float32 are another filter
        return self

    def forward(self, x: Tensor, zi: Tensor | None = None) -> Any:
        """Filter `x`; with the state `zi` return the next one too.

        Parameters
        ----------
        x : Tensor
            uint8, float32 or float64.
        zi : Tensor, optional
            As for `marey.torch.temporal.sosfilt`.

        Returns
        -------
        y : Tensor, of the shape of `x`
        zf : Tensor
            Only if `zi` is given.
        """
        return temporal.sosfilt(self.sos, x, self.axis, zi)

    def extra_repr(self) -> str:
        """Return the number of sections and the axis."""
        return f"sections={len(self.sos)}, axis={self.axis}"


class LaplacianPyramid(torch.nn.Module):
    """A Laplacian pyramid: `marey.torch.pyramid.laplacian`.

    Parameters
    ----------
    levels : int
        How many bands.
    channel_axis : int or None
        The axis of the channels where they are interleaved; None, the default, for torch's (N, C,
        H, W).

    Examples
    --------
    >>> import torch
    >>> from marey.torch.nn import LaplacianPyramid
    >>> pyramid = LaplacianPyramid(2)
    >>> bands = pyramid(torch.ones(1, 3, 17, 23))
    >>> [tuple(band.shape) for band in bands]
    [(1, 3, 17, 23), (1, 3, 9, 12), (1, 3, 5, 6)]
    >>> bool(torch.allclose(pyramid.collapse(bands), torch.ones(1, 3, 17, 23)))
    True
    """

    def __init__(self, levels: int, channel_axis: int | None = None) -> None:
        super().__init__()
        self.levels = levels
        self.channel_axis = channel_axis

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the bands, finest first, and the residual."""
        return pyramid.laplacian(image, self.levels, channel_axis=self.channel_axis)

    def collapse(self, bands: list[Tensor]) -> Tensor:
        """Return the image that the bands are of."""
        return pyramid.collapse(bands, channel_axis=self.channel_axis)

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"levels={self.levels}, channel_axis={self.channel_axis}"
