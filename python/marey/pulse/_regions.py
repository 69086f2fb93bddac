"""Where to look for a pulse: patches, their mean colours, and whether they are skin."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marey import _arguments, _cpu
from marey._arrays import to_numpy

__all__ = ["Region", "patch_means", "skin_coloured"]

Signal = NDArray[np.float64]

_GRID = 16  # patches along the shorter side
_SMALLEST_PATCH = 8  # pixels


def skin_coloured(colours: Any) -> NDArray[np.bool_]:
    """Whether colours are those of skin.

    The rectangle of Chai and Ngan [1]_ in the chrominance of ITU-R BT.601 (77 <= Cb <= 127 and
    133 <= Cr <= 173), for colours that are neither nearly black nor clipped. It is the same for
    light and for dark skin; wood, sand and many walls are in it too.

    Parameters
    ----------
    colours : array, (..., 3)
        RGB, in levels of 255.

    Returns
    -------
    array of bool, (...)

    References
    ----------
    .. [1] D. Chai and K. Ngan, "Face segmentation using skin-color map in videophone applications",
       IEEE Transactions on Circuits and Systems for Video Technology 9(4), 1999.
    """
    rgb = np.asarray(colours, np.float64)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    cb = 128.0 + (-37.797 * red - 74.203 * green + 112.0 * blue) / 255.0
    cr = 128.0 + (112.0 * red - 93.786 * green - 18.214 * blue) / 255.0
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    inside = (cb >= 77) & (cb <= 127) & (cr >= 133) & (cr <= 173)
    result: NDArray[np.bool_] = inside & (luma > 25.0) & (rgb.max(axis=-1) < 252.0)
    return result


def patch_means(frames: Any, row_edges: Any, column_edges: Any, mask: Any = None) -> Signal:
    """The mean colour of each patch of a grid, in every frame.

    Parameters
    ----------
    frames : array, (T, H, W, 3)
        uint8 or float32; any strides, fastest where the rows of a frame are contiguous.
    row_edges, column_edges : sequence of int
        Patch (i, j) is ``frames[:, row_edges[i]:row_edges[i + 1], column_edges[j]:column_edges[j +
        1]]``; rising from 0 or more to H (W) or less.
    mask : array of bool, (H, W), optional
        Which pixels count.

    Returns
    -------
    array of float64, (T, rows, columns, 3)
        NaN where the mask leaves nothing of a patch. uint8 is summed exactly.

    Raises
    ------
    TypeError, ValueError
        If a shape or a type does not fit, or edges do not rise.

    Examples
    --------
    >>> import marey, numpy as np
    >>> frames = np.full((5, 40, 60, 3), 7, np.uint8)
    >>> marey.pulse.patch_means(frames, [0, 20, 40], [0, 30, 60]).shape
    (5, 2, 2, 3)
    """
    name = "marey.pulse.patch_means"
    source = to_numpy(name, "frames", frames)
    selected = None
    if mask is not None:
        selected = np.ascontiguousarray(_mask(name, mask)).view(np.uint8)
    means: Signal = _cpu.patch_means(
        source,
        _arguments.integers(name, "row_edges", row_edges, "a sequence of integers"),
        _arguments.integers(name, "column_edges", column_edges, "a sequence of integers"),
        selected,
    )
    return means


def _mask(name: str, mask: Any) -> NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.ndim != 2:
        raise TypeError(
            f"[{name}] mask: expected a bool array (H, W); found {array.dtype}, shape {array.shape}"
        )
    return array


class Region:
    """Where to look: the edges of patches, a mask, and whether skin is to be picked out."""

    def __init__(self, name: str, roi: Any, height: int, width: int) -> None:
        self.mask: NDArray[np.bool_] | None = None
        self.rows, self.columns = [0, height], [0, width]
        self.pick_skin = roi is None
        if roi is None:
            size = max(_SMALLEST_PATCH, min(height, width) // _GRID)
            self.rows = self._split(height, size)
            self.columns = self._split(width, size)
        elif isinstance(roi, str):
            if roi != "frame":
                raise ValueError(
                    f"[{name}] roi: expected None, 'frame', a box (x, y, width, height) or a bool "
                    f"mask (H, W); found {roi!r}"
                )
        elif np.ndim(roi) == 2:
            mask = _mask(name, roi)
            if mask.shape != (height, width) or not mask.any():
                raise ValueError(
                    f"[{name}] roi: expected a mask of shape {(height, width)} that is not empty; "
                    f"found shape {mask.shape}, {int(mask.sum())} pixels"
                )
            self.mask = mask
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            self.rows = [int(rows[0]), int(rows[-1]) + 1]
            self.columns = [int(columns[0]), int(columns[-1]) + 1]
        else:
            box = _arguments.integers(name, "roi", roi, "a box (x, y, width, height)")
            x, y, w, h = box if len(box) == 4 else (0, 0, 0, 0)
            if not (0 <= x < x + w <= width and 0 <= y < y + h <= height):
                raise ValueError(
                    f"[{name}] roi: expected a box (x, y, width, height) inside {width}x{height} "
                    f"pixels; found {box}"
                )
            self.rows, self.columns = [y, y + h], [x, x + w]

    @staticmethod
    def _split(extent: int, size: int) -> list[int]:
        count = max(1, extent // size)
        return [round(k * extent / count) for k in range(count + 1)]
