"""Where a token stands: sinusoidal and rotary positions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from marey import _arguments, _cpu
from marey._arrays import from_numpy_like, to_numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, DTypeLike, NDArray


def sinusoidal_positions(
    positions: int | ArrayLike, D: int, *, theta: float = 10000.0, dtype: DTypeLike = np.float32
) -> NDArray[Any]:
    """Return the sinusoidal position encoding of the first transformer [1]_.

    Item ``2 i`` is ``sin(position / theta**(2 i / D))``, item ``2 i + 1`` the cosine of the same.

    Parameters
    ----------
    positions : int or array of numbers, (...)
        A number L is for positions 0 to L - 1.
    D : int
        Size of the encoding.
    theta : float
    dtype : dtype

    Returns
    -------
    ndarray, (..., D)
        Of `dtype`, computed in float64.

    Raises
    ------
    TypeError, ValueError
        If `D` is not a positive integer or `theta` not a positive number.

    References
    ----------
    .. [1] A. Vaswani et al., "Attention Is All You Need", NIPS 2017.

    Examples
    --------
    >>> import marey
    >>> marey.attention.sinusoidal_positions(8, 64).shape
    (8, 64)
    """
    name = "marey.sinusoidal_positions"
    size = _arguments.integer(name, "D", D, 1)
    base = _arguments.positive(name, "theta", theta)
    if isinstance(positions, (int, np.integer)):
        positions = np.arange(_arguments.integer(name, "positions", positions, 0))
    place = np.asarray(positions, np.float64)[..., None]
    angle = place / base ** (np.arange(0, size, 2) / size)
    result = np.empty((*place.shape[:-1], size), np.float64)
    result[..., 0::2] = np.sin(angle)
    result[..., 1::2] = np.cos(angle[..., : size // 2])
    return result.astype(dtype)


@functools.lru_cache(maxsize=64)
def _frequencies(sizes: tuple[int, ...], theta: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return for each pair of a head which axis turns it, and by how much at place 1."""
    owner = np.repeat(np.arange(len(sizes)), [n // 2 for n in sizes])
    frequency = np.concatenate([theta ** (-np.arange(0, n, 2) / max(n, 1)) for n in sizes])
    for array in (owner, frequency):
        array.flags.writeable = False
    return owner, frequency


def rotary(
    x: Any,
    positions: ArrayLike | None = None,
    *,
    sections: Sequence[int] | None = None,
    theta: float = 10000.0,
    interleaved: bool = False,
    out: Any = None,
) -> Any:
    """Turn queries or keys by angles that grow with their positions [1]_.

    The product of a query and a key then depends on the difference of their positions only. Pair i
    of a section of n items is turned by ``position * theta**(-2 i / n)``.

    The gradient of `x` is ``rotary(grad, -positions, ...)``.

    Parameters
    ----------
    x : array, (..., L, D)
        float32, float64 or bfloat16, any strides; D even.
    positions : array of numbers, (L,) or (L, axes), optional
        Default ``arange(L)``. For a video, the frame, row and column of each token, (L, 3): see
        `sections`.
    sections : sequence of int, optional
        How many items of a head each axis of the position turns: even sizes that add up to D.
        Default: parts of D as equal as even sizes can be, the first ones larger.
    theta : float
    interleaved : bool
        Which items make a pair: ``(2 i, 2 i + 1)``, or by default ``(i, i + n / 2)``.
    out : array, (..., L, D), optional
        Where to write the result: `x` itself, or memory that does not overlap it.

    Returns
    -------
    array, (..., L, D)

    Raises
    ------
    TypeError, ValueError
        If the shapes do not fit, or `sections` do not add up.

    References
    ----------
    .. [1] J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021.

    Examples
    --------
    >>> import marey, numpy as np
    >>> q = np.random.default_rng(0).random((2, 12, 4 * 7 * 7, 64), np.float32)
    >>> marey.attention.rotary(q).shape
    (2, 12, 196, 64)
    >>> places = np.indices((4, 7, 7)).reshape(3, -1).T
    >>> marey.attention.rotary(q, places).shape
    (2, 12, 196, 64)
    """
    name = "marey.rotary"
    array = to_numpy(name, "x", x)
    if array.ndim < 2 or array.shape[-1] % 2:
        raise ValueError(f"[{name}] x: expected shape (..., L, D), D even; found {array.shape}")
    L, D = array.shape[-2:]
    place = np.arange(L) if positions is None else np.asarray(positions, np.float64)
    if place.ndim == 1:
        place = place[:, None]
    if place.ndim != 2 or len(place) != L:
        raise ValueError(
            f"[{name}] positions: expected shape ({L},) or ({L}, axes); found {place.shape}"
        )
    axes = place.shape[1]
    if sections is None and axes == 1:
        sizes = [D]
    elif sections is None:
        pairs = D // 2
        sizes = [2 * (pairs * (i + 1) // axes - pairs * i // axes) for i in range(axes)][::-1]
    else:
        sizes = [_arguments.integer(name, "sections", n, 0) for n in sections]
    if len(sizes) != axes or sum(sizes) != D or any(n % 2 for n in sizes):
        raise ValueError(
            f"[{name}] sections: expected {axes} even sizes that add up to {D}; found {sizes}"
        )
    base = _arguments.positive(name, "theta", theta)
    owner, frequency = _frequencies(tuple(sizes), base)
    angle = (place if axes == 1 else place.take(owner, axis=1)) * frequency
    computed = np.float64 if array.dtype == np.float64 else np.float32
    result = _cpu.rotary(
        array,
        np.cos(angle).astype(computed, copy=False),
        np.sin(angle).astype(computed, copy=False),
        sizes,
        bool(interleaved),
        None if out is None else to_numpy(name, "out", out),
    )
    return from_numpy_like(x)(result) if out is None else out
