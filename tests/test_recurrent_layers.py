"""Layers and directions of recurrent networks, long sequences, and what they need of memory."""

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from marey import config, recurrent
from marey.reference import recurrent as reference
from numpy.typing import NDArray
from tolerances import assert_close

Array = NDArray[Any]
Weights = dict[str, Array]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {}),
    ("LSTM", {"projected": 11}),
    ("LSTM", {"normed": True}),
    ("GRU", {"reset": "after"}),
    ("GRU", {"reset": "before"}),
    ("RNN", {"nonlinearity": "relu"}),
]
every_kind = pytest.mark.parametrize(("kind", "options"), KINDS, ids=str)


def network(
    kind: str, options: dict[str, Any], I: int, H: int, layers: int, directions: int, dtype: Any,
    rng: np.random.Generator,
) -> tuple[Any, Weights, dict[str, Any]]:  # fmt: skip
    options = dict(options)
    P = options.pop("projected", H)
    normed = options.pop("normed", False)
    rows, bound = GATES[kind] * H, H**-0.5
    weights: Weights = {}

    def put(name: str, *shape: int) -> None:
        weights[name] = rng.uniform(-bound, bound, shape).astype(dtype)

    for layer in range(layers):
        for end in (f"_l{layer}", f"_l{layer}_reverse")[:directions]:
            put("weight_ih" + end, rows, directions * P if layer else I)
            put("weight_hh" + end, rows, P)
            put("bias_ih" + end, rows)
            put("bias_hh" + end, rows)
            if P != H:
                put("weight_hr" + end, P, H)
            if normed:
                put("norm_ih" + end, rows)
                put("norm_hh" + end, rows)
                put("norm_c" + end, 2, H)
    return getattr(recurrent, kind)(weights, **options), weights, options


def layer_by_layer(
    kind: str, weights: Weights, options: dict[str, Any], x: Array, states: list[Array],
    lengths: Any, dtype: Any,
) -> list[Array]:  # fmt: skip
    """Return y and the final states, from the reference of one layer and direction."""
    y, ends = x, []
    k = layer = 0
    while f"weight_ih_l{layer}" in weights:
        outputs = []
        for end in (f"_l{layer}", f"_l{layer}_reverse"):
            if "weight_ih" + end not in weights:
                continue
            given: dict[str, Any] = {
                name[: -len(end)]: w for name, w in weights.items() if name.endswith(end)
            }
            norms = [given.pop(n) for n in ("norm_ih", "norm_hh", "norm_c") if n in given]
            if norms:
                given["layer_norm"] = norms
            given |= dict(zip(("h0", "c0"), (s[k] for s in states), strict=False))
            out, state = getattr(reference, kind.lower())(
                y, **given, **options, lengths=lengths, reverse=end.endswith("reverse"),
                dtype=dtype,
            )  # fmt: skip
            outputs.append(out)
            ends.append(state if kind == "LSTM" else (state,))
            k += 1
        y = np.concatenate(outputs, axis=-1)
        layer += 1
    return [y, *(np.stack(each) for each in zip(*ends, strict=True))]


@every_kind
@pytest.mark.parametrize("lengths", [None, [6, 0, 3]], ids=["whole", "ragged"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("batch_first", [False, True])
def test_layers_are_one_after_the_other(
    kind: str, options: Any, lengths: Any, directions: int, batch_first: bool,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    T, N, I, H = 6, 3, 5, 17
    layers, weights, options = network(kind, options, I, H, 2, directions, np.float32, rng)
    assert (layers.num_layers, layers.bidirectional) == (2, directions == 2)
    layers.batch_first = batch_first
    x = rng.standard_normal((T, N, I), np.float32)
    sizes = (layers.state_size, H) if kind == "LSTM" else (H,)
    states = [rng.standard_normal((2 * directions, N, s), np.float32) for s in sizes]
    given = tuple(states) if kind == "LSTM" else states[0]
    y, ends = layers(x.swapaxes(0, 1) if batch_first else x, given, lengths=lengths)
    y = y.swapaxes(0, 1) if batch_first else y
    for k, result in enumerate([y, *(ends if kind == "LSTM" else (ends,))]):
        assert_close(
            result,
            lambda dtype, k=k: layer_by_layer(
                kind, weights, options, x, states, lengths, dtype
            )[k],
            "recurrent",
            scale=1.0,
        )  # fmt: skip


@every_kind
@pytest.mark.parametrize(
    "size", [(0, 2, 3, 5), (1, 1, 3, 113), (4, 0, 3, 5), (3, 1, 1, 1)], ids=str
)
def test_no_steps_one_step_and_no_sequences(
    kind: str, options: Any, size: Any, rng: np.random.Generator
) -> None:
    T, N, I, H = size
    if "projected" in options:
        options = options | {"projected": 2}
    layers, weights, options = network(kind, options, I, H, 1, 1, np.float64, rng)
    x = rng.standard_normal((T, N, I))
    P = layers.state_size
    states = [rng.standard_normal((1, N, s)) for s in ((P, H) if kind == "LSTM" else (H,))]
    y, ends = layers(x, tuple(states) if kind == "LSTM" else states[0])
    expected = layer_by_layer(kind, weights, options, x, states, None, np.float64)
    for result, exact in zip([y, *(ends if kind == "LSTM" else (ends,))], expected, strict=True):
        np.testing.assert_allclose(result, exact, rtol=0, atol=1e-13, strict=True)
    named = {name.removesuffix("_l0"): w for name, w in weights.items()}
    norms = [named.pop(n) for n in ("norm_ih", "norm_hh", "norm_c") if n in named]
    extra = {"layer_norm": norms} if norms else {}
    back = getattr(recurrent, kind.lower() + "_backward")(
        np.ones_like(y), x, **named, **extra, **options, grad_h=states[0][0]
    )
    for name, array in named.items():
        assert getattr(back, name).shape == array.shape
    if T == 0:
        np.testing.assert_array_equal(back.h0, states[0][0])
        assert not back.weight_hh.any()


@pytest.mark.parametrize("kind", GATES)
def test_ten_thousand_steps_do_not_drift(kind: str, rng: np.random.Generator) -> None:
    """The rule of one step holds for the last of very many: nothing accumulates."""
    _, weights, _ = network(kind, {}, 3, 17, 1, 1, np.float32, rng)
    x = rng.standard_normal((10_000, 1, 3), np.float32)
    w = [weights[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    run = getattr(recurrent, kind.lower())
    assert_close(
        run(x, *w)[0],
        lambda dtype: (
            getattr(reference, kind.lower())(x, *w, dtype=dtype)[0]
            if dtype == np.float32
            else run(x.astype(np.float64), *(a.astype(np.float64) for a in w))[0]
        ),
        "recurrent",
        scale=1.0,
    )


@every_kind
def test_gradients_of_bfloat16_are_those_of_its_values(
    kind: str, options: Any, rng: np.random.Generator
) -> None:
    if kind == "RNN":
        options = {}  # relu's slope jumps where a sum rounds to the other side of zero
    _, weights, options = network(kind, options, 9, 33, 1, 1, ml_dtypes.bfloat16, rng)
    x = rng.standard_normal((7, 5, 9)).astype(ml_dtypes.bfloat16)
    named: dict[str, Any] = {name.removesuffix("_l0"): w for name, w in weights.items()}
    norms = [named.pop(n) for n in ("norm_ih", "norm_hh", "norm_c") if n in named]
    P = named["weight_hh"].shape[1]
    grad = rng.standard_normal((7, 5, P)).astype(ml_dtypes.bfloat16)
    back = getattr(recurrent, kind.lower() + "_backward")

    def gradients(dtype: Any) -> recurrent.Gradients:
        given: dict[str, Any] = {name: w.astype(dtype) for name, w in named.items()}
        if norms:
            given["layer_norm"] = [w.astype(dtype) for w in norms]
        return back(grad.astype(dtype), x.astype(dtype), **given, **options)

    narrow, exact = gradients(ml_dtypes.bfloat16), gradients(np.float64)
    assert narrow.x.dtype == ml_dtypes.bfloat16
    assert narrow.weight_hh.dtype == np.float32
    for name in ("x", *named):
        a, b = (np.asarray(getattr(g, name), np.float64) for g in (narrow, exact))
        # States are rounded to 8 bits at every step, so that a gradient has some errors of 1/256.
        assert np.abs(a - b).max() <= 0.03 * np.abs(b).max() + 1e-6, name


class TestTruncated:
    """No gradient passes from a chunk to the one before."""

    @pytest.mark.parametrize("reverse", [False, True])
    @pytest.mark.parametrize("lengths", [None, [10, 0, 7, 3]], ids=["whole", "ragged"])
    def test_is_chunk_by_chunk(self, lengths: Any, reverse: bool, rng: np.random.Generator) -> None:
        T, N, I, H, every = 10, 4, 3, 5, 4
        w, u = rng.standard_normal((4 * H, I)), rng.standard_normal((4 * H, H))
        x, grad = rng.standard_normal((T, N, I)), rng.standard_normal((T, N, H))
        grad_h = rng.standard_normal((N, H))
        found = recurrent.lstm_backward(
            grad, x, w, u, grad_h=grad_h, lengths=lengths, reverse=reverse, truncate=every
        )
        total_w = np.zeros_like(w)
        for n in range(N):  # each sequence by itself, in its own order
            length = T if lengths is None else lengths[n]
            order = np.arange(length)[::-1] if reverse else np.arange(length)
            state: dict[str, Any] = {}
            for start in range(0, length, every):
                part = order[start : start + every]
                last = start + every >= length
                back = recurrent.lstm_backward(
                    grad[part, n : n + 1], x[part, n : n + 1], w, u, **state,
                    grad_h=grad_h[n : n + 1] if last else None,
                )  # fmt: skip
                total_w += back.weight_ih
                np.testing.assert_allclose(found.x[part, n], back.x[:, 0], atol=1e-12)
                if start == 0:
                    np.testing.assert_allclose(found.h0[n], back.h0[0], atol=1e-12)
                _, (h, c) = recurrent.lstm(x[part, n : n + 1], w, u, **state)
                state = {"h0": h, "c0": c}
            if length == 0:
                np.testing.assert_array_equal(found.h0[n], grad_h[n])
        np.testing.assert_allclose(found.weight_ih, total_w, atol=1e-12)

    def test_in_one_chunk_is_the_whole(self, rng: np.random.Generator) -> None:
        w, u = rng.standard_normal((3, 2)), rng.standard_normal((3, 3))
        x, grad = rng.standard_normal((6, 2, 2)), rng.standard_normal((6, 2, 3))
        whole = recurrent.rnn_backward(grad, x, w, u)
        one = recurrent.rnn_backward(grad, x, w, u, truncate=6)
        np.testing.assert_array_equal(one.weight_hh, whole.weight_hh)

    def test_excludes_checkpoints(self) -> None:
        x, w, u = np.ones((3, 2, 5)), np.ones((4, 5)), np.ones((4, 4))
        with pytest.raises(ValueError, match=r"truncate: expected no checkpoints beside it"):
            recurrent.rnn_backward(None, x, w, u, checkpoints=2, truncate=2)


PEAK = """
import numpy as np
from marey import config, recurrent
config.set_num_threads(1)

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

H, N = 64, 16
w, u = np.full((4 * H, 1), 0.1, np.float32), np.full((4 * H, H), 0.01, np.float32)
end = np.ones((N, H), np.float32)

def run(T, **options):
    x = np.zeros((T, N, 1), np.float32)
    before = peak()
    recurrent.lstm_backward(None, x, w, u, grad_h=end, **options)
    print(peak() - before)

run(512, checkpoints=16)
run(16 * 512, checkpoints=40)
run(16 * 512)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.slow
def test_memory_with_checkpoints_is_that_of_the_square_root() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK], check=True, capture_output=True, text=True, timeout=120
    )
    few, many, whole = map(float, done.stdout.split())
    assert whole > 150  # MiB: five gates of 16 * 64 units for each of 8,192 steps
    # 40 steps kept whole and 205 pairs of states, beside the gradient of x: 3 MiB.
    assert many < whole / 20
    assert many < 4 * few + 8


class TestTeams:
    """Threads that go through steps together give what one thread gives, whatever they find."""

    @pytest.mark.parametrize("threads", [2, 3, 7])
    @pytest.mark.parametrize(("N", "H"), [(1, 500), (50, 65), (7, 1)])
    def test_of_any_size_give_the_same(
        self, threads: int, N: int, H: int, rng: np.random.Generator
    ) -> None:
        for options in ({}, {"projected": 40}, {"normed": True}):
            layers, _, _ = network("LSTM", options, 9, H, 1, 1, np.float32, rng)
            x = rng.standard_normal((12, N, 9), np.float32)
            with config.threads(1):
                y = layers(x)[0]
            with config.threads(threads):
                np.testing.assert_array_equal(layers(x)[0], y)

    @pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
    @pytest.mark.parametrize(("N", "H"), [(40, 65), (3, 250)])
    def test_have_the_same_gradients(
        self, kind: str, N: int, H: int, rng: np.random.Generator
    ) -> None:
        gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
        x = rng.standard_normal((20, N, 37), np.float32)
        weights = [rng.uniform(-0.1, 0.1, (gates * H, size)).astype(np.float32) for size in (37, H)]
        grad = rng.standard_normal((20, N, H), np.float32)
        backward = getattr(recurrent, kind + "_backward")
        for options in ({}, {"reset": "before"}) if kind == "gru" else ({},):
            with config.threads(1):
                expected = backward(grad, x, *weights, **options)
            for threads in (2, 3):
                with config.threads(threads):
                    found = backward(grad, x, *weights, **options)
                for a, b in zip(found, expected, strict=True):
                    if b is not None:
                        np.testing.assert_array_equal(a, b)
