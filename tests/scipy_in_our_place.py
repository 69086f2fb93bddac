"""A pytest plugin: SciPy's own tests meet our functions where they call SciPy's, along one axis.

What marey does not take is translated first: lists and integers become float64 (marey computes in
the type it is given), a complex signal of sosfiltfilt two calls, a dtype given as output a cast.
Calls that marey has no counterpart of, along several axes at once or a complex convolve1d, go to
SciPy. How many calls were ours is printed at the end.
"""

from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
from marey import temporal

_their_convolve1d = scipy.ndimage.convolve1d
_their_median_filter = scipy.ndimage.median_filter
_calls = {"sosfiltfilt": 0, "convolve1d": 0, "median_filter": 0}


def _ours(name: str, function: Any, x: Any, *arguments: Any, **options: Any) -> Any:
    _calls[name] += 1
    return function(x, *arguments, **options)


def sosfiltfilt(
    sos: Any, x: Any, axis: int = -1, padtype: Any = "odd", padlen: int | None = None
) -> Any:
    x = np.asarray(x)

    def filtered(part: Any) -> Any:
        wide = np.asarray(part, np.float64)
        return _ours(
            "sosfiltfilt",
            lambda v: temporal.sosfiltfilt(sos, v, axis, padtype, padlen),
            np.ascontiguousarray(wide),
        )

    return filtered(x.real) + 1j * filtered(x.imag) if np.iscomplexobj(x) else filtered(x)


def convolve1d(
    input: Any,  # noqa: A002
    weights: Any,
    axis: int = -1,
    output: Any = None,
    mode: str = "reflect",
    cval: Any = 0.0,
    origin: int = 0,
) -> Any:
    x, taps = np.asarray(input), np.asarray(weights)
    if np.iscomplexobj(x) or np.iscomplexobj(taps) or np.iscomplexobj(cval):
        return _their_convolve1d(input, weights, axis, output, mode, cval, origin)
    y = _ours(
        "convolve1d",
        lambda v: temporal.convolve(v, taps, axis, mode, origin, cval=float(cval)),
        np.array(x, np.float64),
    )
    return _output(x, y, output)


def _output(x: Any, y: Any, output: Any) -> Any:
    if isinstance(output, np.ndarray):
        if output.shape != y.shape:
            raise RuntimeError("output shape not correct")
        output[...] = y.astype(output.dtype)
        return output
    return y.astype(x.dtype if output is None else output)


def median_filter(
    input: Any,  # noqa: A002
    size: Any = None,
    footprint: Any = None,
    output: Any = None,
    mode: Any = "reflect",
    cval: float = 0.0,
    origin: Any = 0,
    *,
    axes: Any = None,
) -> Any:
    x = np.asarray(input)
    over = tuple(range(x.ndim)) if axes is None else tuple(np.atleast_1d(axes))
    fits = footprint is None and size is not None and isinstance(mode, str)
    sizes = np.broadcast_to(size, len(over)) if fits else np.empty(0)
    origins = np.broadcast_to(origin, len(over)) if fits else np.empty(0)
    longer = np.flatnonzero(sizes != 1)
    fits = len(longer) == 1 and not np.delete(origins, longer).any()
    if not fits or x.dtype.kind not in "biuf" or x.dtype.itemsize > 8:
        return _their_median_filter(
            input, size, footprint, output, mode=mode, cval=cval, origin=origin, axes=axes
        )
    a = longer[0]
    y = _ours(
        "median_filter",
        lambda v: temporal.median_filter(
            v, int(sizes[a]), int(over[a]), mode, int(origins[a]), cval=float(cval)
        ),
        x if x.dtype in (np.uint8, np.float32) and x.dtype.isnative else np.array(x, np.float64),
    )
    return _output(x, y, output)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Put ours in place once the modules are imported and their decorators have seen SciPy's."""
    scipy.ndimage.convolve1d = convolve1d
    scipy.ndimage.median_filter = median_filter
    scipy.signal.sosfiltfilt = sosfiltfilt
    for item in session.items:
        module = item.getparent(pytest.Module).obj
        if hasattr(module, "sosfiltfilt"):
            module.sosfiltfilt = sosfiltfilt


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for name, count in _calls.items():
        terminalreporter.write_line(f"calls of our {name}: {count}")
