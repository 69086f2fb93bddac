"""Products of bfloat16 by the tiles of AMX, where the processor has them."""

import multiprocessing
import threading

import ml_dtypes
import numpy as np
import pytest
from marey import _cpu, attention, config, recurrent

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
