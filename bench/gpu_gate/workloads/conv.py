"""Convolution: forward, streams and backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench.gpu_gate.workloads.work import Work, copied, nbytes

if TYPE_CHECKING:
    from bench.gpu_gate.libraries import Array


def conv_work(
    x: tuple[int, ...],
    filters: int,
    kernel: tuple[int, int, int],
    dtype: str,
    *,
    layout: Literal["NCTHW", "NTHWC"] = "NCTHW",
) -> list[Work]:
    """Return a convolution; `x` is (N, C, T, H, W) in either layout."""
    import marey
    from marey.reference import conv as reference

    n, c, t, h, w = x
    padding = tuple(k // 2 for k in kernel)
    last = layout == "NTHWC"
    given = ((n, t, h, w, c) if last else x, dtype)
    out = ((n, t, h, w, filters) if last else (n, filters, t, h, w), dtype)
    weight = ((filters, c, *kernel), dtype)
    label = f"{'x'.join(map(str, x))} {filters}x{'x'.join(map(str, kernel))} {dtype}"
    taps = c * kernel[0] * kernel[1] * kernel[2]

    def run(x: Any, weight: Any, out: Any) -> Any:
        return marey.conv.conv3d(x, weight, padding=padding, layout=layout, out=out)

    def exact(x: Array, weight: Array) -> Array:
        if not last:
            return np.asarray(reference.conv3d(x, weight, padding=padding))
        y = reference.conv3d(np.moveaxis(x, -1, 1), weight, padding=padding)
        return np.moveaxis(np.asarray(y), 1, -1)

    return [
        Work(
            f"conv3d{' NTHWC' if last else ''}, {label}",
            (given, weight),
            run,
            out,
            exact,
            2**-7 if dtype == "bfloat16" else 1e-5,
            nbytes(given, weight, out),
            2.0 * n * filters * t * h * w * taps,
            "conv3d",
            0.65,
            {"padding": padding, "layout": layout},
        )
    ]


def causal_conv_work(
    x: tuple[int, ...], filters: int, kernel: tuple[int, int, int], dtype: str
) -> list[Work]:
    """Return a stream in two chunks: the second one's frames before it are a state."""
    import marey

    n, c, t, h, w = x
    weight = ((filters, c, *kernel), dtype)
    out = ((n, t, h - kernel[1] + 1, w - kernel[2] + 1, filters), dtype)

    def run(x: Any, weight: Any, out: Any) -> None:
        causal = marey.conv.causal_conv3d
        first, state = causal(x[:, : t // 2], weight, layout="NTHWC")
        out[:, : t // 2] = first
        out[:, t // 2 :] = causal(x[:, t // 2 :], weight, state=state, layout="NTHWC")[0]

    def reference(x: Array, weight: Array) -> Array:
        wide = (x.astype(np.float64), weight.astype(np.float64))
        return np.asarray(marey.conv.causal_conv3d(*wide, layout="NTHWC")[0])

    label = f"{'x'.join(map(str, x))} {filters}x{'x'.join(map(str, kernel))} {dtype}"
    return [
        Work(
            f"causal_conv3d, two chunks, {label}",
            (((n, t, h, w, c), dtype), weight),
            run,
            out,
            reference,
            2**-7 if dtype == "bfloat16" else 1e-5,
        )
    ]


def conv_backward_work(
    x: tuple[int, ...],
    filters: int,
    kernel: tuple[int, int, int],
    dtype: str,
    *,
    stride: int = 1,
    of_weight: bool = False,
) -> list[Work]:
    import marey

    n, _, t, h, w = x
    padding = tuple(k // 2 for k in kernel)
    along = zip((t, h, w), kernel, padding, strict=True)
    out = (n, filters, *((size + 2 * p - k) // stride + 1 for size, k, p in along))
    weight = ((filters, x[1], *kernel), dtype)
    options = {"padding": padding, "stride": stride}
    needs = (not of_weight, of_weight, False)
    label = f"{'x'.join(map(str, x))} {filters}x{'x'.join(map(str, kernel))} /{stride} {dtype}"

    def grad(*arrays: Any) -> Any:
        return marey.conv.conv3d_backward(*arrays, needs=needs, **options)[int(of_weight)]

    def reference(*arrays: Array) -> Array:
        return np.asarray(grad(*(a.astype(np.float64) for a in arrays)))

    taps = x[1] * kernel[0] * kernel[1] * kernel[2]
    return [
        Work(
            f"conv3d backward of {'weight' if of_weight else 'x'}, {label}",
            ((out, dtype), (x, dtype), weight),
            lambda g, x, w, out: copied(out, grad(g, x, w)),
            weight if of_weight else (x, dtype),
            reference,
            2**-6 if dtype == "bfloat16" else 2e-5,
            nbytes((x, dtype), weight, (out, dtype)),
            2.0 * float(np.prod(out)) * taps,
            "conv3d backward",
            0.5,
            {**options, "mask": list(needs)},
        )
    ]
