"""Products of bfloat16 by the tiles of AMX, where the processor has them."""

import multiprocessing
import threading

import ml_dtypes
import numpy as np
import pytest
from marey import _cpu, attention, config, recurrent
from marey.reference import attention as reference

pytestmark = pytest.mark.usefixtures("tiles")


def matrix(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Small integers, whose products and sums are exact in float32 whatever their order."""
    return rng.integers(-8, 9, (rows, columns)).astype(ml_dtypes.bfloat16)


def product(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The exact one, rounded."""
    exact = x.astype(np.float64) @ weight.astype(np.float64).T
    return exact.astype(np.float32).astype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("depth", [1, 2, 7, 31, 32, 33, 63, 64, 65, 97, 800])
def test_any_rows_and_any_depth(depth: int, rng: np.random.Generator) -> None:
    weight = matrix(rng, 65, depth)
    layer = attention.Linear(weight)
    for rows in range(1, 34):
        x = matrix(rng, rows, depth)
        np.testing.assert_array_equal(layer(x), product(x, weight))


@pytest.mark.parametrize("depth", [33, 64, 97])
def test_transposed_operands(depth: int, rng: np.random.Generator) -> None:
    """What a layer's gradients read: columns of both."""
    grad, x = matrix(rng, depth, 45), matrix(rng, depth, 17)
    weight = matrix(rng, 45, 17)
    _, found, _ = attention.linear_backward(grad, x, weight)
    np.testing.assert_array_equal(found, product(grad.T, x.T))


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
@pytest.mark.parametrize("size", [3, 45, 128])
def test_a_sequence_alone_gives_the_same_bits(
    kind: str, gates: int, size: int, rng: np.random.Generator
) -> None:
    """Its steps are no tiles, but vectors that sum as tiles do."""
    x = rng.standard_normal((9, 3, size)).astype(ml_dtypes.bfloat16)
    weights = [
        rng.uniform(-1, 1, (gates * size, size)).astype(ml_dtypes.bfloat16) for _ in range(2)
    ]
    run = getattr(recurrent, kind)
    together = run(x, *weights)[0]
    for row in range(3):
        np.testing.assert_array_equal(run(x[:, row : row + 1], *weights)[0][:, 0], together[:, row])


def test_a_row_does_not_depend_on_its_neighbours(rng: np.random.Generator) -> None:
    x = rng.standard_normal((70, 150)).astype(ml_dtypes.bfloat16)
    layer = attention.Linear(rng.standard_normal((40, 150)).astype(ml_dtypes.bfloat16))
    together = layer(x)
    for rows in (1, 15, 16, 33):
        for first in (0, 1, 37):
            np.testing.assert_array_equal(
                layer(x[first : first + rows]), together[first : first + rows]
            )


def test_zeros_beside_a_short_depth_meet_no_number_of_the_caller(rng: np.random.Generator) -> None:
    """Zero times NaN is no zero: what pads a tile is zero on both sides."""
    storage = np.full((40, 64), np.nan, ml_dtypes.bfloat16)
    storage[:, :34] = matrix(rng, 40, 34)
    weight = np.full((33, 64), np.inf, ml_dtypes.bfloat16)
    weight[:, :34] = matrix(rng, 33, 34)
    found = attention.linear(storage[:19, :34], weight[:, :34])
    np.testing.assert_array_equal(found, product(storage[:19, :34], weight[:, :34]))


def _in_child(queue: object, x: np.ndarray, weight: np.ndarray) -> None:
    queue.put((_cpu.probe()["isa"], attention.linear(x, weight)))  # type: ignore[attr-defined]


def test_a_forked_child_may_use_them(rng: np.random.Generator) -> None:
    x, weight = matrix(rng, 50, 70), matrix(rng, 50, 70)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue, x, weight))
    child.start()
    isa, found = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert isa == "avx512_amx"
    np.testing.assert_array_equal(found, product(x, weight))


def test_threads_of_python_and_of_a_call(rng: np.random.Generator) -> None:
    x, weight = matrix(rng, 400, 70), matrix(rng, 90, 70)
    expected = product(x, weight)
    right = []

    def work() -> None:
        with config.threads(3):
            right.append(
                all(np.array_equal(attention.linear(x, weight), expected) for _ in range(20))
            )

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert right == [True] * 4


def test_beside_another_library_with_tiles(rng: np.random.Generator) -> None:
    """Torch configures the same tiles as it likes, in the same threads."""
    torch = pytest.importorskip("torch")
    x, weight = matrix(rng, 130, 70), matrix(rng, 90, 70)
    theirs = torch.from_numpy(x.astype(np.float32)).bfloat16()
    their_weight = torch.from_numpy(weight.astype(np.float32)).bfloat16()
    for _ in range(3):
        found = torch.nn.functional.linear(theirs, their_weight).float().numpy()
        np.testing.assert_array_equal(found.astype(ml_dtypes.bfloat16), product(x, weight))
        np.testing.assert_array_equal(attention.linear(x, weight), product(x, weight))


def test_a_window_sums_alike_whatever_stands_beside_it(rng: np.random.Generator) -> None:
    """Where a panel's first key lies depends on its queries; the parts of a sum do not."""
    q, k, v = (rng.standard_normal((1, 2, 300, 24)).astype(ml_dtypes.bfloat16) for _ in range(3))
    options = {"causal": "bottom_right", "window": (50, 0)}
    whole = attention.attention(q, k, v, **options)
    for first in (41, 130, 263):
        last = first + 37
        some = q[..., first:last, :], k[..., :last, :], v[..., :last, :]
        part = attention.attention(*some, **options)
        np.testing.assert_array_equal(part, whole[..., first:last, :])


@pytest.mark.parametrize("size", [1, 6, 40, 4000])
def test_attention_of_scores_of_any_size(size: float, rng: np.random.Generator) -> None:
    """Small ones need no maximum; of large ones it moves; the largest are far from zero."""
    q, k, v = (rng.standard_normal((1, 2, 150, 64)) for _ in range(3))
    # The largest scores come last.
    q, k = q * size, k * np.linspace(0.1, 1, 600).reshape(2, 300, 1)[:, -150:]
    q, k, v = (x.astype(ml_dtypes.bfloat16) for x in (q, k, v))
    k, v = (np.concatenate([x] * 4, axis=2) for x in (k, v))
    out, lse = attention.attention(q, k, v, return_lse=True)
    exact, exact_lse = reference.attention(q, k, v, return_lse=True)
    # Products of two numbers of eight bits are exact, and their sums off by some units of float32.
    scores = (
        np.linalg.norm(q.astype(float), axis=-1).max()
        * np.linalg.norm(k.astype(float), axis=-1).max()
    )
    error = 8 * 2**-24 * scores / 8
    np.testing.assert_allclose(lse, exact_lse, rtol=1e-6, atol=1e-6 + error)
    weights = reference.attention(q, k, np.abs(v))
    np.testing.assert_array_less(
        np.abs(out.astype(float) - exact), (2**-7 + 4 * error) * (weights + np.abs(exact)) + 1e-6
    )


def test_a_query_does_not_depend_on_the_size_of_its_neighbours(rng: np.random.Generator) -> None:
    """Nor do its bits on what was subtracted from its scores: that is a whole number."""
    q, k, v = (rng.standard_normal((1, 1, 300, 64)) for _ in range(3))
    alone = q.astype(ml_dtypes.bfloat16)
    sizes = np.ones((300, 1))
    sizes[::7] = 2.0**6
    sizes[3::7] = 2.0**20
    together = (q * sizes).astype(ml_dtypes.bfloat16)
    together[..., 5, :] = np.nan
    k, v = k.astype(ml_dtypes.bfloat16), v.astype(ml_dtypes.bfloat16)
    expected = attention.attention(alone, k, v)
    found = attention.attention(together, k, v)
    same = (sizes[:, 0] == 1) & (np.arange(300) != 5)
    np.testing.assert_array_equal(found[..., same, :], expected[..., same, :])
    assert np.isnan(found[..., 5, :].astype(float)).all()
    # The largest scores decide alone, and their weight is rounded, but not its sum.
    best = np.argmax(together[0, 0].astype(float) @ k[0, 0].astype(float).T, axis=-1)
    np.testing.assert_allclose(
        found[0, 0, 3::7].astype(float), v[0, 0, best[3::7]].astype(float), rtol=2**-7
    )


@pytest.mark.parametrize("L", [7, 16, 17, 33, 1100])
def test_no_bit_depends_on_threads_or_on_queries_beside(L: int, rng: np.random.Generator) -> None:
    q, k, v = (rng.standard_normal((1, 2, 1100, 40)).astype(ml_dtypes.bfloat16) for _ in range(3))
    q = q[..., :L, :]
    whole = attention.attention(q, k, v)
    with config.threads(1):
        np.testing.assert_array_equal(attention.attention(q, k, v), whole)
    for rows in (slice(0, 5), slice(L // 2 - 2, L // 2 + 3), slice(L - 5, L)):
        np.testing.assert_array_equal(
            attention.attention(q[..., rows, :], k, v), whole[..., rows, :]
        )
