"""Gaussian, Laplacian, complex steerable and Riesz pyramids of images.

Images are uint8, float32 or float64 arrays ``(..., H, W)`` or ``(..., H, W, C)`` of any size from
one pixel up; leading axes are batch. Every function takes NumPy arrays, any CPU array with
``__dlpack__``, CuPy arrays or CUDA tensors of torch, and returns the same kind. Inputs are read
where they lie, whatever their strides.
Borders are reflected about the edge pixel (``d c b | a b c d | c b a``).

References
----------
.. [1] P. Burt and E. Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE Transactions on
   Communications 31(4), 1983.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from marey import _arguments
from marey._arrays import from_numpy_like, kernels, to_array, to_array_like
from marey._steerable import (
    RieszCoefficients,
    RieszPyramid,
    SteerableCoefficients,
    SteerablePyramid,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "RieszCoefficients",
    "RieszPyramid",
    "SteerableCoefficients",
    "SteerablePyramid",
    "collapse",
    "down",
    "gaussian",
    "laplacian",
    "up",
]

_MOST_LEVELS = 63  # by then every size is one pixel


def down(image: Any, *, channel_axis: int | None = -1, out: Any = None) -> Any:
    """Smooth an image and keep every second pixel.

    The kernel is ``(1, 4, 6, 4, 1) / 16`` in both directions [1]_; the result is that of OpenCV's
    ``pyrDown``.

    Parameters
    ----------
    image : array, (..., H, W) or (..., H, W, C)
        uint8, float32 or float64.
    channel_axis : int or None
        The axis of the channels; None for an image without one.
    out : array, optional
        Where to write the result: its rows are contiguous, and it does not overlap `image`.

    Returns
    -------
    array, (..., ceil(H / 2), ceil(W / 2)) or (..., ceil(H / 2), ceil(W / 2), C)
        Of the type of `image`; uint8 is rounded half up.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If there are too few axes, `channel_axis` is none of them, or `out` does not fit.

    References
    ----------
    .. [1] P. Burt and E. Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE
       Transactions on Communications 31(4), 1983, equation (1).

    Examples
    --------
    >>> import marey, numpy as np
    >>> marey.pyramid.down(np.ones((5, 4, 3), np.float32)).shape
    (3, 2, 3)
    """
    source = to_array("marey.down", "image", image)
    result = kernels("marey.down", source).down(
        source,
        _channel_axis("marey.down", source, channel_axis),
        None if out is None else to_array_like("marey.down", "out", out, source),
    )
    return from_numpy_like(image)(result) if out is None else out


def up(
    image: Any,
    shape: tuple[int, int] | None = None,
    *,
    channel_axis: int | None = -1,
    out: Any = None,
) -> Any:
    """Double an image: zeros between the pixels, smoothed with four times the kernel of `down`.

    The result is that of OpenCV's ``pyrUp``.

    Parameters
    ----------
    image : array, (..., h, w) or (..., h, w, C)
        uint8, float32 or float64.
    shape : (int, int), optional
        The height and width of the result: twice those of `image` (the default), or one less or
        more where that is odd.
    channel_axis : int or None
        The axis of the channels; None for an image without one.
    out : array, optional
        Where to write the result: its rows are contiguous, and it does not overlap `image`.

    Returns
    -------
    array, (..., H, W) or (..., H, W, C)
        Of the type of `image`; uint8 is rounded half up.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If there are too few axes, `channel_axis` is none of them, `shape` is not about twice, or
        `out` does not fit.

    References
    ----------
    .. [1] P. Burt and E. Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE
       Transactions on Communications 31(4), 1983, equation (2).

    Examples
    --------
    >>> import marey, numpy as np
    >>> marey.pyramid.up(np.ones((3, 2), np.float32), (5, 4), channel_axis=None).shape
    (5, 4)
    """
    height, width = (None, None) if shape is None else _size(shape)
    source = to_array("marey.up", "image", image)
    result = kernels("marey.up", source).up(
        source,
        height,
        width,
        _channel_axis("marey.up", source, channel_axis),
        None if out is None else to_array_like("marey.up", "out", out, source),
    )
    return from_numpy_like(image)(result) if out is None else out


def _size(shape: Any) -> tuple[int, ...]:
    sizes = _arguments.integers("marey.up", "shape", shape, "two integers, (H, W)")
    if len(sizes) != 2:
        raise ValueError(f"[marey.up] shape: expected two integers, (H, W); found {shape!r}")
    return sizes


def _channel_axis(function: str, image: Any, axis: Any) -> int | None:
    return None if axis is None else _arguments.axis(function, "channel_axis", axis, image.shape)


def _levels(function: str, levels: Any) -> int:
    return _arguments.integer(function, "levels", levels, 0, _MOST_LEVELS)


def _arrays(function: str, out: Sequence[Any] | None, like: Any) -> list[Any] | None:
    if out is None:
        return None
    return [to_array_like(function, "out", level, like) for level in out]


def gaussian(
    image: Any, levels: int, *, channel_axis: int | None = -1, out: Sequence[Any] | None = None
) -> list[Any]:
    """Build a Gaussian pyramid: the image, and `levels` times `down` of the one before.

    Parameters
    ----------
    image : array, (..., H, W) or (..., H, W, C)
        uint8, float32 or float64.
    levels : int
        How many times to halve, 0 or more. A single pixel stays a single pixel.
    channel_axis : int or None
        The axis of the channels; None for an image without one.
    out : sequence of levels + 1 arrays, optional
        Where to write the result.

    Returns
    -------
    list of levels + 1 arrays
        Finest first; the first is a copy of `image`. uint8 is rounded at each level.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If there are too few axes, `channel_axis` is none of them, `levels` is not 0 to 63, or
        `out` does not fit.
    """
    source = to_array("marey.gaussian", "image", image)
    result = kernels("marey.gaussian", source).gaussian(
        source,
        _levels("marey.gaussian", levels),
        _channel_axis("marey.gaussian", source, channel_axis),
        _arrays("marey.gaussian", out, source),
    )
    return list(map(from_numpy_like(image), result)) if out is None else list(out)


def laplacian(
    image: Any, levels: int, *, channel_axis: int | None = -1, out: Sequence[Any] | None = None
) -> list[Any]:
    """Build a Laplacian pyramid [1]_: what each halving of the image loses, and what remains.

    ``band[l] = G[l] - up(G[l + 1], size of G[l])`` with ``G`` the Gaussian pyramid. `collapse` is
    the inverse for every size, odd ones too. Each level is one pass over memory; two intermediate
    images (a quarter and a sixteenth of `image`) are allocated besides the result.

    Parameters
    ----------
    image : array, (..., H, W) or (..., H, W, C)
        uint8, float32 or float64.
    levels : int
        How many bands, 0 or more.
    channel_axis : int or None
        The axis of the channels; None for an image without one.
    out : sequence of levels + 1 arrays, optional
        Where to write the result; no two may overlap.

    Returns
    -------
    list of levels + 1 arrays
        `levels` bands, finest first, then the low-pass residual; of the type of `image`, float32
        for uint8.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If there are too few axes, `channel_axis` is none of them, `levels` is not 0 to 63, or
        `out` does not fit.

    References
    ----------
    .. [1] P. Burt and E. Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE
       Transactions on Communications 31(4), 1983.

    Examples
    --------
    >>> import marey, numpy as np
    >>> image = np.random.default_rng(0).random((97, 113, 3), dtype=np.float32)
    >>> bands = marey.pyramid.laplacian(image, 4)
    >>> [band.shape for band in bands]
    [(97, 113, 3), (49, 57, 3), (25, 29, 3), (13, 15, 3), (7, 8, 3)]
    >>> bool(np.allclose(marey.pyramid.collapse(bands), image, atol=1e-6))
    True
    """
    source = to_array("marey.laplacian", "image", image)
    result = kernels("marey.laplacian", source).laplacian(
        source,
        _levels("marey.laplacian", levels),
        _channel_axis("marey.laplacian", source, channel_axis),
        _arrays("marey.laplacian", out, source),
    )
    return list(map(from_numpy_like(image), result)) if out is None else list(out)


def collapse(bands: Sequence[Any], *, channel_axis: int | None = -1, out: Any = None) -> Any:
    """Rebuild the image from its Laplacian pyramid: the inverse of `laplacian`.

    Parameters
    ----------
    bands : sequence of arrays
        The bands, finest first, then the residual, as `laplacian` returns them; float32 or float64.
    channel_axis : int or None
        The axis of the channels; None for images without one.
    out : array, optional
        Where to write the image.

    Returns
    -------
    array, of the shape and type of ``bands[0]``

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If the sizes are not those of a pyramid, or `out` does not fit.
    """
    arrays = [to_array("marey.collapse", f"bands[{k}]", band) for k, band in enumerate(bands)]
    if not arrays:
        raise ValueError("[marey.collapse] bands: expected at least one array; found none")
    for k, band in enumerate(bands):
        to_array_like("marey.collapse", f"bands[{k}]", band, arrays[0])
    result = kernels("marey.collapse", arrays[0]).collapse(
        arrays,
        _channel_axis("marey.collapse", arrays[0], channel_axis),
        None if out is None else to_array_like("marey.collapse", "out", out, arrays[0]),
    )
    return from_numpy_like(bands[0])(result) if out is None else out
