"""What the gate checks and times."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.gpu_gate.libraries import Array, item_size, numbers

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Work:
    """One kernel on one shape.

    Attributes
    ----------
    inputs : dict
        Shapes and types.
    run : callable
        ``run(*inputs, out)`` writes to `out`.
    out : (shape, dtype)
        Of the result.
    reference : callable
        The same of NumPy arrays, in float64.
    tolerance : float
        Largest error, as a share of the largest exact value.
    bytes, flops : float
        What must be read and written, and computed; for a benchmark.
    peer : str
        "copy", or torch's "sdpa", "conv3d" or "lstm"; with " backward", there and back.
    target : float
        The share of the peer's rate that is wanted at first.
    """

    name: str
    inputs: tuple[tuple[tuple[int, ...], str], ...]
    run: Callable[..., Any]
    out: tuple[tuple[int, ...], str]
    reference: Callable[..., Array] | None = None
    tolerance: float = 1e-5
    bytes: float = 0.0
    flops: float = 0.0
    peer: str = "copy"
    target: float = 0.85
    options: dict[str, Any] = field(default_factory=dict)

    def arrays(self) -> list[Array]:
        return [numbers(shape, dtype, k) for k, (shape, dtype) in enumerate(self.inputs)]


def _nbytes(*arrays: tuple[tuple[int, ...], str]) -> float:
    return float(
        sum(np.prod(shape, dtype=np.float64) * item_size(dtype) for shape, dtype in arrays)
    )


def temporal_work(shape: tuple[int, ...], dtype: str) -> list[Work]:
    import marey
    from marey.reference import temporal as reference

    sos = marey.temporal.butter_bandpass(0.4, 3, 30, order=2)
    taps = np.hanning(11)[1:-1]
    result = "float32" if dtype == "uint8" else dtype
    eps = 1e-12 if dtype == "float64" else 2e-5
    label = f"{'x'.join(map(str, shape))} {dtype}"
    x, y = (shape, dtype), (shape, result)
    t = marey.temporal
    made = [
        Work(
            f"sosfilt, 2 sections, {label}",
            (x,),
            lambda x, out: t.sosfilt(sos, x, out=out),
            y,
            lambda x: reference.sosfilt(sos, x),
            eps,
            _nbytes(x, y),
        ),
        Work(
            f"convolve, 9 taps, {label}",
            (x,),
            lambda x, out: t.convolve(x, taps, out=out),
            y,
            lambda x: reference.convolve(x, taps),
            eps,
            _nbytes(x, y),
        ),
        Work(
            f"median_filter, 5, {label}",
            (x,),
            lambda x, out: t.median_filter(x, 5, out=out),
            x,
            lambda x: reference.median_filter(x, 5),
            0.0,
            _nbytes(x, x),
        ),
        Work(
            f"median, {label}",
            (x,),
            lambda x, out: t.median(x, out=out),
            (shape[1:], result),
            lambda x: np.median(x.astype(np.float64), axis=0),
            eps,
            _nbytes(x, (shape[1:], result)),
            target=0.5,
        ),
    ]
    if shape[0] > 20:
        made.append(
            Work(
                f"sosfiltfilt, 2 sections, {label}",
                (x,),
                lambda x, out: t.sosfiltfilt(sos, x, out=out),
                y,
                lambda x: reference.sosfiltfilt(sos, x),
                10 * eps,
                _nbytes(x, y, y, y),
            )
        )
    return made


def pyramid_work(shape: tuple[int, ...], dtype: str) -> list[Work]:
    import marey
    from marey.reference import pyramid as reference

    label = f"{'x'.join(map(str, shape))} {dtype}"
    n, h, w, c = shape
    half = (n, (h + 1) // 2, (w + 1) // 2, c)
    x = (shape, dtype)
    p = marey.pyramid
    eps = 1e-12 if dtype == "float64" else 1e-5
    made = [
        Work(
            f"down, {label}",
            (x,),
            lambda x, out: p.down(x, out=out),
            (half, dtype),
            reference.down,
            eps,
            _nbytes(x, (half, dtype)),
            target=0.75,
        ),
        Work(
            f"up, {label}",
            ((half, dtype),),
            lambda x, out: p.up(x, (h, w), out=out),
            x,
            lambda x: reference.up(x, (h, w)),
            eps,
            _nbytes((half, dtype), x),
            target=0.75,
        ),
    ]
    if dtype != "uint8":
        made.append(
            Work(
                f"laplacian and collapse, 4 levels, {label}",
                (x,),
                lambda x, out: p.collapse(p.laplacian(x, 4), out=out),
                x,
                lambda x: x.astype(np.float64),
                1e-5,
                4 * _nbytes(x),
                target=0.6,
            )
        )
    return made


def magnifier_work(shape: tuple[int, ...], dtype: str) -> list[Work]:
    import marey

    label = f"{'x'.join(map(str, shape))} {dtype}"

    def run(x: Any, out: Any) -> Any:
        magnifier = marey.Magnifier(shape[1:], 30, 0.4, 3, 10, cutoff=16, levels=3, dtype=dtype)
        return magnifier.feed(x, out=out)

    def reference(x: Array) -> Array:
        magnifier = marey.Magnifier(shape[1:], 30, 0.4, 3, 10, cutoff=16, levels=3, dtype=dtype)
        return np.asarray(magnifier.feed(x))

    x = (shape, dtype)
    return [
        Work(
            f"Magnifier, linear motion, {label}",
            (x,),
            run,
            x,
            reference,
            2.1 / 255,
            3 * _nbytes(x),
            target=0.5,
        )
    ]


def attention_work(
    batch: int,
    heads: tuple[int, int],
    length: int,
    depth: int,
    dtype: str,
    *,
    causal: bool = False,
    target: float = 0.6,
) -> list[Work]:
    from marey import attention as ours
    from marey.reference import attention as reference

    q = ((batch, heads[0], length, depth), dtype)
    kv = ((batch, heads[1], length, depth), dtype)
    label = f"B{batch} h{heads[0]}/{heads[1]} L{length} D{depth} {dtype}"
    pairs = length * (length + 1) / 2 if causal else length * length
    return [
        Work(
            f"attention{', causal' if causal else ''}, {label}",
            (q, kv, kv),
            lambda q, k, v, out: ours.attention(q, k, v, causal=causal, out=out),
            q,
            lambda q, k, v: reference.attention(q, k, v, causal=causal),
            2**-6 if dtype == "bfloat16" else 1e-5,
            _nbytes(q, q, kv, kv),
            4.0 * batch * heads[0] * depth * pairs,
            "sdpa",
            target,
            {"causal": causal, "grouped": heads[0] != heads[1]},
        )
    ]


def conv_work(
    x: tuple[int, ...], filters: int, kernel: tuple[int, int, int], dtype: str
) -> list[Work]:
    import marey
    from marey.reference import conv as reference

    n, c, t, h, w = x
    padding = tuple(k // 2 for k in kernel)
    weight = ((filters, c, *kernel), dtype)
    out = ((n, filters, t, h, w), dtype)
    label = f"{'x'.join(map(str, x))} {filters}x{'x'.join(map(str, kernel))} {dtype}"
    taps = c * kernel[0] * kernel[1] * kernel[2]
    return [
        Work(
            f"conv3d, {label}",
            ((x, dtype), weight),
            lambda x, weight, out: marey.conv.conv3d(x, weight, padding=padding, out=out),
            out,
            lambda x, weight: reference.conv3d(x, weight, padding=padding),
            2**-7 if dtype == "bfloat16" else 1e-5,
            _nbytes((x, dtype), weight, out),
            2.0 * n * filters * t * h * w * taps,
            "conv3d",
            0.65,
            {"padding": padding},
        )
    ]


def lstm_work(steps: int, rows: int, hidden: int, dtype: str) -> list[Work]:
    import marey

    x = ((steps, rows, hidden), dtype)
    weight = ((4 * hidden, hidden), dtype)
    # Weights of the size that they are initialised with, so that nothing saturates.
    small = hidden**-0.5

    def run(x: Any, w: Any, u: Any, out: Any) -> Any:
        return marey.recurrent.lstm(x, w * small, u * small, out=out)

    def reference(x: Array, w: Array, u: Array) -> Array:
        wide = [a.astype(np.float64) for a in (x, w * np.float32(small), u * np.float32(small))]
        return np.asarray(marey.recurrent.lstm(*wide)[0])

    return [
        Work(
            f"lstm, T{steps} N{rows} H{hidden} {dtype}",
            (x, weight, weight),
            run,
            x,
            reference,
            2**-5 if dtype == "bfloat16" else 1e-5,
            _nbytes(x, x, weight, weight),
            2.0 * steps * rows * 8 * hidden * hidden,
            "lstm",
            0.65,
            {"hidden": hidden},
        )
    ]


def _copied(out: Any, result: Any) -> None:
    out[...] = result


def attention_backward_work(
    batch: int,
    heads: tuple[int, int],
    length: int,
    depth: int,
    dtype: str,
    *,
    causal: bool = False,
    which: int = 0,
) -> list[Work]:
    """Return the way there and back; what is compared is gradient `which` of q, k and v."""
    from marey import attention as ours

    q = ((batch, heads[0], length, depth), dtype)
    kv = ((batch, heads[1], length, depth), dtype)
    label = f"B{batch} h{heads[0]}/{heads[1]} L{length} D{depth} {dtype}"
    pairs = length * (length + 1) / 2 if causal else length * length

    def grads(grad: Any, *qkv: Any) -> Any:
        y, lse = ours.attention(*qkv, causal=causal, return_lse=True)
        return ours.attention_backward(grad, *qkv, y, lse, causal=causal)[which]

    def reference(*arrays: Array) -> Array:
        return np.asarray(grads(*(x.astype(np.float64) for x in arrays)))

    return [
        Work(
            f"attention backward of {'qkv'[which]}{', causal' if causal else ''}, {label}",
            (q, q, kv, kv),
            lambda *arrays: _copied(arrays[-1], grads(*arrays[:-1])),
            (q, kv, kv)[which],
            reference,
            2**-5 if dtype == "bfloat16" else 1e-5,
            _nbytes(q, q, q, q, kv, kv, kv, kv),
            14.0 * batch * heads[0] * depth * pairs,
            "sdpa backward",
            0.45,
            {"causal": causal, "grouped": heads[0] != heads[1]},
        )
    ]


def packed_work(lengths: tuple[int, ...], heads: int, depth: int, dtype: str) -> list[Work]:
    from marey import attention as ours

    cu = np.cumsum([0, *lengths])
    x = ((int(cu[-1]), heads, depth), dtype)

    def reference(*arrays: Array) -> Array:
        wide = [a.astype(np.float64) for a in arrays]
        return np.asarray(ours.attention_varlen(*wide, cu, cu, causal=True))

    return [
        Work(
            f"attention_varlen, {len(lengths)} sequences of {cu[-1]}, h{heads} D{depth} {dtype}",
            (x, x, x),
            lambda q, k, v, out: ours.attention_varlen(q, k, v, cu, cu, causal=True, out=out),
            x,
            reference,
            2**-6 if dtype == "bfloat16" else 1e-5,
            _nbytes(x, x, x, x),
        )
    ]


def decode_work(heads: tuple[int, int], keys: int, depth: int, dtype: str) -> list[Work]:
    from marey import attention as ours
    from marey.reference import attention as reference

    q, kv = ((heads[0], 1, depth), dtype), ((heads[1], keys, depth), dtype)
    return [
        Work(
            f"attention, one query, h{heads[0]}/{heads[1]} S{keys} D{depth} {dtype}",
            (q, kv, kv),
            lambda q, k, v, out: ours.attention(q, k, v, out=out),
            q,
            reference.attention,
            2**-6 if dtype == "bfloat16" else 1e-5,
            _nbytes(q, q, kv, kv),
            target=0.5,
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
            lambda g, x, w, out: _copied(out, grad(g, x, w)),
            weight if of_weight else (x, dtype),
            reference,
            2**-6 if dtype == "bfloat16" else 2e-5,
            _nbytes((x, dtype), weight, (out, dtype)),
            2.0 * float(np.prod(out)) * taps,
            "conv3d backward",
            0.5,
            {**options, "mask": list(needs)},
        )
    ]


def lstm_backward_work(steps: int, rows: int, hidden: int, dtype: str) -> list[Work]:
    import marey

    x = ((steps, rows, hidden), dtype)
    weight = ((4 * hidden, hidden), dtype)
    small = hidden**-0.5

    def grad(g: Any, x: Any, w: Any, u: Any) -> Any:
        w, u = w * small, u * small
        y, _, kept = marey.recurrent.lstm(x, w, u, keep=True)
        return marey.recurrent.lstm_backward(g, x, w, u, y=y, kept=kept).x

    def reference(*arrays: Array) -> Array:
        return np.asarray(grad(*(a.astype(np.float64) for a in arrays)))

    return [
        Work(
            f"lstm backward, T{steps} N{rows} H{hidden} {dtype}",
            (x, x, weight, weight),
            lambda g, x, w, u, out: _copied(out, grad(g, x, w, u)),
            x,
            reference,
            2**-4 if dtype == "bfloat16" else 2e-5,
            _nbytes(x, x, x, weight, weight),
            6.0 * steps * rows * 8 * hidden * hidden,
            "lstm backward",
            0.5,
            {"hidden": hidden},
        )
    ]


def small_works() -> list[Work]:
    """Return ragged, misaligned and tiny shapes, to be compared with float64."""
    made: list[Work] = []
    for dtype in ("uint8", "float32", "float64"):
        for shape in ((1, 1), (1, 97), (40, 257), (33, 16, 20, 3)):
            made += temporal_work(shape, dtype)
        for shape in ((1, 1, 1, 1), (2, 17, 33, 3), (1, 64, 130, 1), (3, 5, 2, 4)):
            made += pyramid_work(shape, dtype)
    for dtype in ("uint8", "float32"):
        made += magnifier_work((5, 33, 40, 3), dtype)
    made += attention_work(1, (2, 2), 40, 16, "float64")
    made += attention_work(2, (4, 2), 70, 40, "float32", causal=True)
    for dtype in ("float32", "float64", "bfloat16"):
        made += conv_work((2, 3, 4, 9, 7), 70, (3, 3, 3), dtype)
        made += conv_work((1, 17, 3, 5, 6), 4, (1, 1, 1), dtype)
        made += conv_backward_work((2, 3, 4, 9, 7), 70, (3, 3, 3), dtype)
        made += conv_backward_work((1, 5, 4, 9, 7), 6, (2, 3, 3), dtype, stride=2)
        made += conv_backward_work((2, 3, 4, 9, 7), 70, (3, 3, 3), dtype, of_weight=True)
        made += lstm_work(5, 3, 17, dtype)
        made += lstm_backward_work(5, 3, 17, dtype)
        made += packed_work((3, 0, 40, 17), 3, 24, dtype)
        made += decode_work((4, 2), 700, 32, dtype)
        for which in range(3):
            made += attention_backward_work(2, (4, 2), 50, 40, dtype, causal=True, which=which)
    made += lstm_work(3, 200, 33, "float32")  # a launch for each step
    for length in (16, 127, 129, 300):
        for depth in (64, 128):
            made += attention_work(2, (4, 2), length, depth, "bfloat16", causal=length % 2 == 1)
    return made


def large_works(dry: bool) -> list[Work]:
    """Return what is timed."""
    if dry:
        return [
            *temporal_work((24, 64), "float32"),
            *pyramid_work((1, 32, 32, 3), "float32"),
            *magnifier_work((3, 32, 32, 3), "uint8"),
            *attention_work(1, (2, 2), 64, 64, "bfloat16"),
            *conv_work((1, 8, 4, 8, 8), 16, (3, 3, 3), "float32"),
            *lstm_work(3, 4, 16, "float32"),
            *attention_backward_work(1, (2, 2), 40, 32, "float32"),
            *decode_work((2, 1), 600, 32, "bfloat16"),
            *conv_backward_work((1, 8, 2, 6, 6), 16, (3, 3, 3), "float32"),
            *lstm_backward_work(3, 4, 16, "float32"),
        ]
    made = temporal_work((300, 1080, 1920), "uint8") + temporal_work((128, 1080, 1920), "float32")
    made += temporal_work((300, 128, 128), "float32")
    made += pyramid_work((32, 1080, 1920, 3), "uint8")
    made += pyramid_work((32, 1080, 1920, 3), "float32")
    made += magnifier_work((32, 1080, 1920, 3), "uint8")
    for length, batch in ((2048, 8), (8192, 2), (16384, 1)):
        made += attention_work(batch, (64, 8), length, 128, "bfloat16")
        made += attention_work(batch, (64, 8), length, 128, "bfloat16", causal=True)
    made += attention_work(2, (32, 32), 8192, 64, "bfloat16")
    made += attention_work(1, (16, 16), 2048, 64, "float32", target=0.3)
    made += conv_work((8, 64, 8, 56, 56), 64, (3, 3, 3), "float32")
    made += conv_work((8, 64, 8, 56, 56), 64, (3, 3, 3), "bfloat16")
    made += conv_work((8, 64, 8, 56, 56), 64, (1, 3, 3), "bfloat16")
    made += lstm_work(256, 16, 768, "float32")
    made += lstm_work(1024, 16, 768, "bfloat16")
    made += lstm_backward_work(256, 16, 768, "float32")
    made += attention_backward_work(1, (16, 16), 2048, 64, "float32")
    made += packed_work((512,) * 64, 16, 64, "bfloat16")
    made += decode_work((64, 8), 32768, 128, "bfloat16")
    for of_weight in (False, True):
        made += conv_backward_work(
            (8, 64, 8, 56, 56), 64, (3, 3, 3), "bfloat16", of_weight=of_weight
        )
    return made
