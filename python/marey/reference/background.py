"""Background subtraction: medians, and an adaptive Gaussian mixture."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["difference", "majority", "mixture", "sliding_median"]


def difference(frames: ArrayLike, background: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Mark the pixels of which a channel is further from the background than a threshold."""
    frames = np.asarray(frames)
    background = np.asarray(background)
    distance = np.abs(frames.astype(np.float64) - background.astype(np.float64))
    far: NDArray[np.bool_] = ~(distance <= threshold)
    return np.any(far, axis=-1) if background.ndim == 3 else far


def majority(mask: ArrayLike, size: int) -> NDArray[np.bool_]:
    """Set a pixel if more than half of those in the window around it, inside the image, are set."""
    mask = np.asarray(mask, bool)
    out = np.empty_like(mask)
    r = size // 2
    for y in range(mask.shape[1]):
        for x in range(mask.shape[2]):
            window = mask[:, max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]
            out[:, y, x] = 2 * window.sum(axis=(1, 2)) > window.shape[1] * window.shape[2]
    return out


def sliding_median(frames: ArrayLike, window: int, every: int) -> NDArray[np.float64]:
    """At each frame the median of the last `window` of every `every`-th; uint8 rounded half up."""
    frames = np.asarray(frames)
    medians = np.stack(
        [np.median(frames[: t + 1 : every][-window:], axis=0) for t in range(len(frames))]
    )
    return np.floor(medians + 0.5) if frames.dtype == np.uint8 else medians


def _sum(items: NDArray[Any]) -> NDArray[Any]:
    """Over the channels, from the first to the last."""
    total = items[..., 0].copy()
    for c in range(1, items.shape[-1]):
        total += items[..., c]
    return total


def mixture(
    frames: ArrayLike,
    rates: ArrayLike,
    *,
    modes: int = 5,
    threshold: float = 16.0,
    match_threshold: float = 9.0,
    background_ratio: float = 0.9,
    initial_variance: float = 36.0,
    minimum_variance: float = 16.0,
    maximum_variance: float = 80.0,
    complexity: float = 0.05,
    darkest: float = 0.5,
    dtype: DTypeLike = np.float64,
) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
    """Zivkovic's adaptive Gaussian mixture (ICPR 2004), one mode of all pixels at a time.

    Parameters
    ----------
    frames : array_like, (T, H, W) or (T, H, W, C)
        In levels of 255.
    rates : array_like, (T,)
        Learning rates.
    modes, threshold, match_threshold, background_ratio
        As for `marey.background.MixtureBackground`.
    initial_variance, minimum_variance, maximum_variance, complexity, darkest
        As there.
    dtype : dtype
        What to compute in.

    Returns
    -------
    labels : ndarray of uint8, (T, H, W)
        0 background, 127 shadow, 255 in front.
    model : dict
        ``weights`` and ``variances`` (modes, H, W), ``means`` (modes, H, W, C).
    """
    x = np.asarray(frames).astype(dtype)
    x = x if x.ndim == 4 else x[..., None]
    kind = x.dtype.type
    w = np.zeros((modes, *x.shape[1:3]), dtype)
    v = np.zeros_like(w)
    m = np.zeros((modes, *x.shape[1:]), dtype)
    labels = np.empty(x.shape[:3], np.uint8)
    near, match = kind(threshold), kind(match_threshold)
    least, most = kind(minimum_variance), kind(maximum_variance)

    for t, rate in enumerate(np.asarray(rates).astype(dtype)):
        keep, cost = kind(1) - rate, rate * kind(complexity)
        total = np.zeros_like(w[0])
        owned = np.zeros(w[0].shape, bool)
        background, shadow = owned.copy(), owned.copy()
        for k in range(modes):
            active = w[k] > 0
            trusted = active & (total < kind(background_ratio))
            d = x[t] - m[k]
            distance = _sum(d * d)
            background |= trusted & (distance < near * v[k])

            # s says how much darker x is than the mode.
            xm, mm = _sum(x[t] * m[k]), _sum(m[k] * m[k])
            darker = trusted & (mm > 0) & (xm <= mm) & (xm >= kind(darkest) * mm)
            s = np.where(darker, xm / np.where(mm > 0, mm, kind(1)), kind(0))
            e = s[..., None] * m[k] - x[t]
            shadow |= darker & (_sum(e * e) < near * v[k] * (s * s))

            if rate > 0:
                owner = active & ~owned & (distance < match * v[k])
                owned |= owner
                weight = keep * w[k] - cost
                weight = np.where(owner, weight + rate, weight)
                gain = rate / np.where(owner, weight, kind(1))
                m[k] = np.where(owner[..., None], m[k] + gain[..., None] * d, m[k])
                wider = np.clip(v[k] + gain * (distance - v[k]), least, most)
                v[k] = np.where(owner, wider, v[k])
                w[k] = np.where(active & (weight >= cost), weight, kind(0))
            total += w[k]
        labels[t] = np.where(background, 0, np.where(shadow, 127, 255))
        if not rate > 0:
            continue
        w *= np.where(total > 0, kind(1) / np.where(total > 0, total, kind(1)), kind(0))

        # A value without owner becomes a mode, in the place of the lightest if all are taken.
        count = (w > 0).sum(axis=0)
        slot = np.minimum(count, modes - 1)
        for k in range(modes):
            w[k] = np.where(owned, w[k], w[k] * keep)
            new = ~owned & (slot == k)
            w[k] = np.where(new, np.where(count == 0, kind(1), rate), w[k])
            v[k] = np.where(new, kind(initial_variance), v[k])
            m[k] = np.where(new[..., None], x[t], m[k])
        for k in range(modes - 1, 0, -1):
            swap = w[k] > w[k - 1]
            for field in (w, v, m):
                chosen = swap[..., None] if field is m else swap
                upper, lower = field[k - 1].copy(), field[k].copy()
                field[k - 1] = np.where(chosen, lower, upper)
                field[k] = np.where(chosen, upper, lower)
    return labels, {"weights": w, "variances": v, "means": m}
