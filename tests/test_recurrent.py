"""Recurrent networks over sequences, step by step, and back through time."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from marey import _cpu, config, recurrent
from marey.reference import recurrent as reference
from numpy.typing import NDArray
from tolerances import assert_close

DTYPES = [np.float32, np.float64]
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("lstm", {}),
    ("lstm", {"peephole": True}),
    ("lstm", {"weight_hr": True}),
    ("lstm", {"layer_norm": True, "peephole": True}),
    ("lstm", {"weight_hr": True, "layer_norm": True}),
    ("gru", {"reset": "after"}),
    ("gru", {"reset": "before"}),
    ("rnn", {"nonlinearity": "tanh"}),
    ("rnn", {"nonlinearity": "relu"}),
]
NORMS = ("norm_ih", "norm_hh", "norm_c")
every_cell = pytest.mark.parametrize(("kind", "options"), CASES, ids=str)
SIZES = [(3, 1, 1, 1), (1, 1, 5, 7), (5, 4, 9, 17), (9, 17, 33, 97), (4, 3, 128, 113)]  # T, N, I, H


def inputs(
    kind: str, options: dict[str, Any], size: tuple[int, ...], dtype: Any, rng: np.random.Generator
) -> tuple[tuple[NDArray[Any], ...], dict[str, Any]]:
    """Return x and the weights, and the options with arrays for the states and peepholes."""
    T, N, I, H = size
    rows, bound = GATES[kind] * H, H**-0.5
    P = -(-H // 2) if "weight_hr" in options else H
    shapes = [(rows, I), (rows, P), (rows,), (rows,)]
    weights = [rng.uniform(-bound, bound, shape).astype(dtype) for shape in shapes]
    real = np.float32 if dtype == ml_dtypes.bfloat16 else dtype
    options = options | {"h0": rng.standard_normal((N, P)).astype(dtype)}
    if kind == "lstm":
        options["c0"] = rng.standard_normal((N, H)).astype(real)
    if "peephole" in options:
        options["peephole"] = rng.uniform(-1, 1, (3, H)).astype(dtype)
    if "weight_hr" in options:
        options["weight_hr"] = rng.uniform(-bound, bound, (P, H)).astype(dtype)
    if "layer_norm" in options:
        sizes = ((rows,), (rows,), (2, H))
        options["layer_norm"] = tuple(rng.uniform(0.5, 1.5, s).astype(dtype) for s in sizes)
    return (rng.standard_normal((T, N, I)).astype(dtype), *weights), options


def every_array(gradients: recurrent.Gradients) -> list[NDArray[Any]]:
    """Return all that there are."""
    *most, norms = gradients
    return [g for g in (*most, *(norms or ())) if g is not None]


def flat(result: Any) -> list[Any]:
    """Return y and the final states as a list."""
    y, state = result[:2]
    return [y, *(state if isinstance(state, tuple) else (state,))]


def check(kind: str, arrays: Any, options: dict[str, Any]) -> None:
    results = flat(getattr(recurrent, kind)(*arrays, **options))
    for k, result in enumerate(results):
        assert_close(
            result,
            lambda dtype, k=k: flat(getattr(reference, kind)(*arrays, **options, dtype=dtype))[k],
            "recurrent",
            scale=1.0,
        )


@every_cell
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("isa")
class TestSequences:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_are_the_equations(
        self, kind: str, options: Any, dtype: type, size: Any, rng: np.random.Generator
    ) -> None:
        check(kind, *inputs(kind, options, size, dtype, rng))

    @pytest.mark.parametrize("reverse", [False, True])
    def test_of_different_lengths(
        self, kind: str, options: Any, dtype: type, reverse: bool, rng: np.random.Generator
    ) -> None:
        arrays, options = inputs(kind, options, (9, 7, 5, 17), dtype, rng)
        options |= {"lengths": [3, 0, 9, 1, 9, 5, 2], "reverse": reverse}
        check(kind, arrays, options)

    def test_any_chunking_gives_the_result_of_one_call(
        self, kind: str, options: Any, dtype: type, rng: np.random.Generator
    ) -> None:
        (x, *weights), options = inputs(kind, options, (11, 3, 5, 17), dtype, rng)
        run = getattr(recurrent, kind)
        whole = flat(run(x, *weights, **options))
        parts = []
        for chunk in (x[:1], x[1:8], x[8:8], x[8:]):
            y, *state = flat(run(chunk, *weights, **options))
            options |= dict(zip(("h0", "c0"), state, strict=False))
            parts.append(y)
        np.testing.assert_array_equal(np.concatenate(parts), whole[0])
        for end, expected in zip(state, whole[1:], strict=True):
            np.testing.assert_array_equal(end, expected)

    def test_do_not_depend_on_threads_neighbours_or_layout(
        self, kind: str, options: Any, dtype: type, rng: np.random.Generator
    ) -> None:
        (x, *weights), options = inputs(kind, options, (6, 50, 9, 65), dtype, rng)
        run = getattr(recurrent, kind)
        y = run(x, *weights, **options)[0]
        with config.threads(1):
            np.testing.assert_array_equal(run(x, *weights, **options)[0], y)
        batch_first = run(x.swapaxes(0, 1), *weights, **options, batch_first=True)[0]
        np.testing.assert_array_equal(batch_first.swapaxes(0, 1), y)
        one = {k: v[7:8] if k in ("h0", "c0") else v for k, v in options.items()}
        np.testing.assert_array_equal(run(x[:, 7:8], *weights, **one)[0], y[:, 7:8])

    def test_one_step_is_a_sequence_of_one(
        self, kind: str, options: Any, dtype: type, rng: np.random.Generator
    ) -> None:
        (x, *weights), options = inputs(kind, options, (1, 5, 9, 19), dtype, rng)
        expected = flat(getattr(recurrent, kind)(x, *weights, **options))[1:]
        states = [options.pop(name) for name in ("h0", "c0") if name in options]
        if {"weight_hr", "layer_norm"} & options.keys():
            return  # sequences alone have them
        result = getattr(recurrent, kind + "_step")(x[0], *states, *weights, **options)
        tolerance = 20 * float(np.finfo(dtype).eps)
        for a, b in zip(result if kind == "lstm" else [result], expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("lengths", [None, [3, 0, 6, 5]])
    @pytest.mark.parametrize("reverse", [False, True])
    def test_gradients_are_finite_differences(
        self, kind: str, options: Any, dtype: type, lengths: Any, reverse: bool,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        arrays, options = inputs(kind, options, (6, 4, 3, 5), np.float64, rng)
        options |= {"lengths": lengths, "reverse": reverse}
        grads = [
            rng.standard_normal(r.shape) for r in flat(getattr(reference, kind)(*arrays, **options))
        ]
        back = dict(zip(("grad_h", "grad_c"), grads[1:], strict=False))
        cast = [a.astype(dtype) for a in arrays]
        typed = {k: v.astype(dtype) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        if "layer_norm" in options:
            typed["layer_norm"] = [a.astype(dtype) for a in options["layer_norm"]]
        result = getattr(recurrent, kind + "_backward")(
            grads[0].astype(dtype), *cast, **typed,
            **{name: g.astype(dtype) for name, g in back.items()},
        )  # fmt: skip

        def loss(**changed: Any) -> float:
            names = ["x", "weight_ih", "weight_hh", "bias_ih", "bias_hh"]
            norms = {k: changed.pop(k) for k in NORMS if k in changed}
            all_arrays = dict(zip(names, arrays, strict=True)) | options | changed
            if norms:
                kept = dict(zip(NORMS, options["layer_norm"], strict=True)) | norms
                all_arrays["layer_norm"] = list(kept.values())
            out = flat(getattr(reference, kind)(**all_arrays))
            return float(sum(np.sum(g * r) for g, r in zip(grads, out, strict=True)))

        named = dict(
            zip(["x", "weight_ih", "weight_hh", "bias_ih", "bias_hh"], arrays, strict=True)
        )
        named |= {k: options[k] for k in ("h0", "c0", "peephole", "weight_hr") if k in options}
        found_at = result._asdict()
        if "layer_norm" in options:
            named |= dict(zip(NORMS, options["layer_norm"], strict=True))
            found_at |= dict(zip(NORMS, result.layer_norm, strict=True))
        for name, array in named.items():
            direction = rng.standard_normal(array.shape)
            eps = 1e-6
            slope = (
                loss(**{name: array + eps * direction}) - loss(**{name: array - eps * direction})
            ) / (2 * eps)
            found = float(np.sum(found_at[name].astype(float) * direction))
            assert found == pytest.approx(slope, rel=2e-4, abs=2e-4), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.usefixtures("isa")
def test_a_step_does_not_depend_on_where_its_weights_lie(
    dtype: type, rng: np.random.Generator
) -> None:
    (x, *weights), options = inputs("lstm", {}, (1, 2, 32, 48), dtype, rng)
    states = (options["h0"], options["c0"])
    expected = recurrent.lstm_step(x[0], *states, *weights)
    memory = np.empty(2 * weights[1].size, dtype)
    for offset in range(0, 64 // memory.itemsize, 3):
        moved = [w.copy() for w in weights]
        moved[1] = memory[offset : offset + weights[1].size].reshape(weights[1].shape)
        moved[1][...] = weights[1]
        for a, b in zip(recurrent.lstm_step(x[0], *states, *moved), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@every_cell
def test_checkpoints_give_the_same_gradients(
    kind: str, options: Any, rng: np.random.Generator
) -> None:
    arrays, options = inputs(kind, options, (10, 4, 3, 5), np.float64, rng)
    options |= {"lengths": [10, 0, 7, 3], "reverse": True}
    back = getattr(recurrent, kind + "_backward")
    grad = rng.standard_normal((10, 4, options["h0"].shape[1]))
    whole = back(grad, *arrays, **options)
    chunked = back(grad, *arrays, **options, checkpoints=3)
    for a, b in zip(every_array(whole), every_array(chunked), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


# Of both sizes: no multiple of a tile, and whole tiles.
depths = pytest.mark.parametrize(("I", "H"), [(9, 65), (32, 64)])


@every_cell
@depths
@pytest.mark.usefixtures("isa")
def test_bfloat16_does_not_depend_on_neighbours(
    kind: str, options: Any, I: int, H: int, rng: np.random.Generator
) -> None:
    (x, *weights), options = inputs(kind, options, (3, 53, I, H), ml_dtypes.bfloat16, rng)
    run = getattr(recurrent, kind)
    y = run(x, *weights, **options)[0]
    for rows in (slice(3, 4), slice(0, 2), slice(5, 22), slice(7, 47)):
        some = {k: v[rows] if k in ("h0", "c0") else v for k, v in options.items()}
        np.testing.assert_array_equal(run(x[:, rows], *weights, **some)[0], y[:, rows])


@every_cell
@depths
@pytest.mark.usefixtures("isa")
def test_bfloat16_of_many_rows_is_that_of_one(
    kind: str, options: Any, I: int, H: int, rng: np.random.Generator
) -> None:
    """Ragged, from states that lie backwards, with a NaN among them."""
    lengths = [20, 0, 3, 20, 1, 19, 8]
    (x, *weights), options = inputs(kind, options, (20, 7, I, H), ml_dtypes.bfloat16, rng)
    options["h0"][4, 1] = np.nan
    backwards = options | {"h0": options["h0"][::-1, ::-1].copy()[::-1, ::-1]}

    def run(*arrays: Any, **more: Any) -> list[Any]:
        results = flat(getattr(recurrent, kind)(*arrays, **more))
        return [r.astype(np.float32) for r in results]  # NaN of bfloat16 is not equal to itself

    results = run(x, *weights, **backwards, lengths=lengths)
    for n in range(7):
        one = {k: v[n : n + 1] if k in ("h0", "c0") else v for k, v in options.items()}
        y, *state = run(x[:, n : n + 1], *weights, **one, lengths=lengths[n : n + 1])
        np.testing.assert_array_equal(results[0][:, n : n + 1], y)
        for found, expected in zip(results[1:], state, strict=True):
            np.testing.assert_array_equal(found[n : n + 1], expected)
    for none in ((x[:0], None), (x, [0] * 7)):
        still = run(none[0], *weights, **backwards, lengths=none[1])
        np.testing.assert_array_equal(still[1], options["h0"].astype(np.float32))


@every_cell
@depths
@pytest.mark.usefixtures("isa")
def test_bfloat16_is_float32_inside(
    kind: str, options: Any, I: int, H: int, rng: np.random.Generator
) -> None:
    arrays, options = inputs(kind, options, (7, 5, I, H), ml_dtypes.bfloat16, rng)
    y = getattr(recurrent, kind)(*arrays, **options)[0]
    assert y.dtype == ml_dtypes.bfloat16
    exact = getattr(reference, kind)(*arrays, **options)[0]
    np.testing.assert_allclose(y.astype(float), exact, rtol=0.02, atol=0.02)


@pytest.mark.skipif("avx512_amx" not in config.available_isas(), reason="no AMX")
def test_tiles_take_what_multiply_adds_take(rng: np.random.Generator) -> None:
    """Inputs and gradients that are infinite, NaN or huge too."""
    (x, *weights), _ = inputs("rnn", {}, (3, 40, 33, 70), np.float32, rng)
    grad = rng.standard_normal((3, 40, 70)).astype(np.float32)
    odd_x, odd_grad = x.copy(), grad.copy()
    odd = (np.inf, -np.inf, np.nan, 0.5 * np.finfo(np.float32).max)
    for row, value in enumerate(odd):
        odd_x[1, 9 * row, 5 * row] = odd_grad[2, 7 * row, 20 * row] = value

    def results(isa: str) -> list[NDArray[Any]]:
        previous = _cpu.active_isa()
        _cpu.set_isa(isa)
        try:
            tame, _ = recurrent.rnn(x, *weights, nonlinearity="relu")
            grads = recurrent.rnn_backward(grad, x, *weights, nonlinearity="relu")
            wild = recurrent.rnn_backward(odd_grad, odd_x, *weights, nonlinearity="relu")
            y, _ = recurrent.rnn(odd_x, *weights, nonlinearity="relu")
            return [tame, *grads[:3], *wild[:3], y]
        finally:
            _cpu.set_isa(previous)

    tiles, plain = results("avx512_amx"), results("avx512_bf16")
    for found, expected in zip(tiles[:4], plain[:4], strict=True):
        assert (found != expected).any(), "the tiles did not run"
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6 * scale)
    for found, expected in zip(tiles, plain, strict=True):
        usual = np.abs(expected) < 1e6
        np.testing.assert_allclose(found[usual], expected[usual], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found[~usual], expected[~usual], rtol=1e-5)


large_cells = pytest.mark.parametrize(
    ("kind", "options"), [("lstm", {"peephole": True}), ("gru", {}), ("rnn", {})], ids=str
)


@large_cells
@pytest.mark.usefixtures("tiles")
class TestLargeBatchesAndLayers:
    """From 32 sequences of one length and 256 units on, tiles multiply the states too."""

    def test_are_the_equations(self, kind: str, options: Any, rng: np.random.Generator) -> None:
        arrays, options = inputs(kind, options, (9, 37, 33, 261), np.float32, rng)
        check(kind, arrays, options | {"reverse": True})
        check(kind, arrays, options | {"lengths": [1, 9, 0, 4, *([9] * 33)]})

    def test_their_gradients(self, kind: str, options: Any, rng: np.random.Generator) -> None:
        arrays, options = inputs(kind, options, (5, 32, 33, 256), np.float32, rng)
        grad = rng.standard_normal((5, 32, 256)).astype(np.float32)
        backward = getattr(recurrent, kind + "_backward")
        found = backward(grad, *arrays, **options, checkpoints=2)
        exact = {k: v.astype(np.float64) for k, v in options.items()}
        expected = backward(*(a.astype(np.float64) for a in (grad, *arrays)), **exact)
        for a, b in zip(every_array(found), every_array(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())

    def test_depend_on_nothing_but_the_sequence(
        self, kind: str, options: Any, rng: np.random.Generator
    ) -> None:
        """Neither on the rest of a large batch, nor on its place, threads or chunks."""
        (x, *weights), options = inputs(kind, options, (6, 83, 9, 261), np.float32, rng)
        run = getattr(recurrent, kind)
        y = run(x, *weights, **options)[0]
        with config.threads(1):
            np.testing.assert_array_equal(run(x, *weights, **options)[0], y)
        rows = slice(3, 38)
        some = {k: v[rows] if k in ("h0", "c0") else v for k, v in options.items()}
        start, *state = flat(run(x[:2, rows], *weights, **some))
        some |= dict(zip(("h0", "c0"), state, strict=False))
        rest = run(x[2:, rows], *weights, **some)[0]
        np.testing.assert_array_equal(np.concatenate([start, rest]), y[:, rows])

    def test_take_what_multiply_adds_take(
        self, kind: str, options: Any, rng: np.random.Generator
    ) -> None:
        """States that are infinite or NaN spoil their own sequences alone."""
        (x, *weights), options = inputs(kind, options, (4, 40, 9, 256), np.float32, rng)
        run = getattr(recurrent, kind)
        y = run(x, *weights, **options)[0]
        odd = options | {"h0": options["h0"].copy()}
        odd["h0"][3, 7], odd["h0"][20, 250] = np.inf, np.nan
        found = run(x, *weights, **odd)[0]
        others = np.delete(np.arange(40), (3, 20))
        np.testing.assert_array_equal(found[:, others], y[:, others])
        _cpu.set_isa("avx512_bf16")
        expected = run(x, *weights, **odd)[0]
        assert (found != expected)[:, others].any(), "the tiles did not run"
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_bad_shapes_are_named() -> None:
    x, w, u = np.ones((3, 2, 5)), np.ones((8, 5)), np.ones((8, 2))
    with pytest.raises(ValueError, match=r"\[marey\.lstm\] x: expected shape \(T, N, 5\)"):
        recurrent.lstm(x[..., :4], w, u)
    with pytest.raises(
        ValueError, match=r"\[marey\.lstm\] weight_hh: expected shape \(4 \* H, H\)"
    ):
        recurrent.lstm(x, w, u[:7])
    with pytest.raises(TypeError, match=r"\[marey\.lstm\] x: expected float64; found float32"):
        recurrent.lstm(x.astype(np.float32), w, u)
    with pytest.raises(ValueError, match=r"\[marey\.lstm\] lengths: expected 0 to 3; found 4"):
        recurrent.lstm(x, w, u, lengths=[4, 1])
