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


def biased_work(
    heads: tuple[int, int], lengths: tuple[int, int], depth: int, dtype: str, which: int
) -> list[Work]:
    """Return attention with a bias of each head and a softcap; or its gradient `which` back."""
    from marey import attention as ours

    q, kv = ((2, heads[0], lengths[0], depth), dtype), ((2, heads[1], lengths[1], depth), dtype)
    bias = ((heads[0], *lengths), "float64" if dtype == "float64" else "float32")
    label = f"h{heads[0]}/{heads[1]} L{lengths[0]} S{lengths[1]} D{depth} {dtype}"
    options: dict[str, Any] = {"softcap": 3.0}

    def run(grad: Any, q: Any, k: Any, v: Any, bias: Any) -> Any:
        y, lse = ours.attention(q, k, v, bias=bias, return_lse=True, **options)
        if which < 0:
            return y
        back = ours.attention_backward
        return back(grad, q, k, v, y, lse, bias=bias, bias_grad=True, **options)[which]

    def reference(*arrays: Array) -> Array:
        return np.asarray(run(*(a.astype(np.float64) for a in arrays)))

    name = "attention" if which < 0 else f"attention backward of {('q', 'k', 'v', 'bias')[which]}"
    return [
        Work(
            f"{name} with bias and softcap, {label}",
            (q, q, kv, kv, bias),
            lambda *arrays: _copied(arrays[-1], run(*arrays[:-1])),
            (q, q, kv, kv, bias)[which + 1],
            reference,
            2**-5 if dtype == "bfloat16" else 1e-5,
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


GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def recurrent_work(kind: str, steps: int, rows: int, hidden: int, dtype: str) -> list[Work]:
    import marey

    x = ((steps, rows, hidden), dtype)
    weight = ((GATES[kind] * hidden, hidden), dtype)
    # Weights of the size that they are initialised with, so that nothing saturates.
    small = hidden**-0.5

    def run(x: Any, w: Any, u: Any, out: Any) -> Any:
        return getattr(marey.recurrent, kind)(x, w * small, u * small, out=out)

    def reference(x: Array, w: Array, u: Array) -> Array:
        wide = [a.astype(np.float64) for a in (x, w * np.float32(small), u * np.float32(small))]
        return np.asarray(getattr(marey.recurrent, kind)(*wide)[0])

    return [
        Work(
            f"{kind}, T{steps} N{rows} H{hidden} {dtype}",
            (x, weight, weight),
            run,
            x,
            reference,
            2**-5 if dtype == "bfloat16" else 1e-5,
            _nbytes(x, x, weight, weight),
            2.0 * steps * rows * 2 * GATES[kind] * hidden * hidden,
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


def recurrent_backward_work(
    kind: str, steps: int, rows: int, hidden: int, dtype: str, *, of_weight: bool = False
) -> list[Work]:
    import marey

    x = ((steps, rows, hidden), dtype)
    weight = ((GATES[kind] * hidden, hidden), dtype)
    small = hidden**-0.5

    def grad(g: Any, x: Any, w: Any, u: Any) -> Any:
        w, u = w * small, u * small
        backward = getattr(marey.recurrent, f"{kind}_backward")
        if kind == "rnn":
            grads = backward(g, x, w, u, y=marey.recurrent.rnn(x, w, u)[0])
        else:
            y, _, kept = getattr(marey.recurrent, kind)(x, w, u, keep=True)
            grads = backward(g, x, w, u, y=y, kept=kept)
        return grads.weight_hh if of_weight else grads.x

    def reference(*arrays: Array) -> Array:
        return np.asarray(grad(*(a.astype(np.float64) for a in arrays)))

    real = "float32" if dtype == "bfloat16" else dtype
    return [
        Work(
            f"{kind} backward of {'weight_hh' if of_weight else 'x'}, "
            f"T{steps} N{rows} H{hidden} {dtype}",
            (x, x, weight, weight),
            lambda g, x, w, u, out: _copied(out, grad(g, x, w, u)),
            (weight[0], real) if of_weight else x,
            reference,
            2**-4 if dtype == "bfloat16" else 2e-5,
            _nbytes(x, x, x, weight, weight),
            6.0 * steps * rows * 2 * GATES[kind] * hidden * hidden,
            "lstm backward",
            0.5,
            {"hidden": hidden},
        )
    ]


def small_works(dry: bool) -> list[Work]:
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
        # So deep that all stages of shared memory are used again.
        made += causal_conv_work((1, 40, 6, 5, 6), 9, (3, 2, 2), dtype)
        # Rows and weights that copies of 16 bytes take: first, since sanitizers watch the first.
        made += recurrent_work("lstm", 4, 20, 64, dtype)
        made += recurrent_backward_work("lstm", 4, 20, 64, dtype)
        made += recurrent_backward_work("gru", 4, 20, 64, dtype, of_weight=True)
        for kind in GATES:
            made += recurrent_work(kind, 5, 3, 17, dtype)
            made += recurrent_backward_work(kind, 5, 3, 17, dtype)
        made += packed_work((3, 0, 40, 17), 3, 24, dtype)
        made += decode_work((4, 2), 700, 32, dtype)
        for which in range(3):
            made += attention_backward_work(2, (4, 2), 50, 40, dtype, causal=True, which=which)
        for which in (-1, 0, 3):
            made += biased_work((4, 2), (20, 45), 24, dtype, which)
    # A launch for each step.
    made += recurrent_work("lstm", 3, 200, 33, "float32")
    made += recurrent_backward_work("lstm", 3, 200, 33, "float32")
    for length in (129,) if dry else (16, 127, 129, 300):
        causal = length % 2 == 1
        for depth in (64, 128, 256):
            made += attention_work(2, (4, 2), length, depth, "bfloat16", causal=causal)
        for depth in (64, 128):
            for which in (1,) if dry else range(3):
                made += attention_backward_work(
                    2, (4, 2), length, depth, "bfloat16", causal=causal, which=which
                )
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
            *recurrent_work("lstm", 3, 4, 16, "float32"),
            *attention_backward_work(1, (2, 2), 40, 32, "float32"),
            *decode_work((2, 1), 600, 32, "bfloat16"),
            *conv_backward_work((1, 8, 2, 6, 6), 16, (3, 3, 3), "float32"),
            *recurrent_backward_work("lstm", 3, 4, 16, "float32"),
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
    made += attention_work(2, (16, 16), 8192, 256, "bfloat16")
    made += attention_work(1, (16, 16), 2048, 64, "float32", target=0.3)
    made += conv_work((8, 64, 8, 56, 56), 64, (3, 3, 3), "float32")
    made += conv_work((8, 64, 8, 56, 56), 64, (3, 3, 3), "bfloat16")
    made += conv_work((8, 64, 8, 56, 56), 64, (1, 3, 3), "bfloat16")
    made += recurrent_work("lstm", 256, 16, 768, "float32")
    made += recurrent_work("lstm", 1024, 16, 768, "bfloat16")
    made += recurrent_backward_work("lstm", 256, 16, 768, "float32")
    made += recurrent_backward_work("lstm", 1024, 16, 768, "bfloat16")
    made += attention_backward_work(1, (16, 16), 2048, 64, "float32")
    made += attention_backward_work(2, (64, 8), 8192, 128, "bfloat16")
    made += attention_backward_work(2, (64, 8), 8192, 128, "bfloat16", causal=True)
    made += attention_backward_work(2, (32, 32), 8192, 64, "bfloat16")
    made += packed_work((512,) * 64, 16, 64, "bfloat16")
    made += decode_work((64, 8), 32768, 128, "bfloat16")
    for of_weight in (False, True):
        made += conv_backward_work(
            (8, 64, 8, 56, 56), 64, (3, 3, 3), "bfloat16", of_weight=of_weight
        )
    return made
