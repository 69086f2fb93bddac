"""Infinite items of keys that a row sees, and of those that it does not, on a CUDA device.

A row does not depend on the keys that it does not see. Of those that it sees each counts, also
where its weight is 0 in the type of the computation: 0 times infinity is NaN, as in the reference.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest
from cuda_devices import Device, Recorder
from marey import _device
from marey import attention as ours
from marey.reference import attention as reference
from numpy.typing import NDArray

ml_dtypes = pytest.importorskip("ml_dtypes")
BF16 = ml_dtypes.bfloat16


class Kernel(NamedTuple):
    """What makes a kernel run."""

    name: str
    dtype: Any
    depth: int
    queries: int
    keys: int


GENERIC = Kernel("generic", np.float32, 24, 70, 80)
GENERIC_BF16 = Kernel("generic", BF16, 24, 70, 80)
IN_PARTS = Kernel("generic", np.float32, 24, 2, 600)
HOPPER = [Kernel("sm90", BF16, depth, 140, 150) for depth in (64, 128, 256)]

SEEN = 5  # the key with an infinite item that rows see
ONE = slice(SEEN, SEEN + 1)
# What hides the last key from all rows, and which kernels take it.
HIDING = [
    *((kernel, "causal") for kernel in (GENERIC, GENERIC_BF16, *HOPPER)),
    *((kernel, how) for kernel in (GENERIC, IN_PARTS) for how in ("mask", "bias")),
]
BACKWARD = [(kernel, how) for kernel, how in HIDING if kernel is not IN_PARTS]


def hiding(kernel: Kernel, how: str) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Return the options that hide the last key, and which query sees which key."""
    shape = kernel.queries, kernel.keys
    scale = {"scale": 1.0}
    if how == "causal":
        return scale | {"causal": "top_left"}, reference.allowed_keys(*shape, "top_left")
    allowed = np.ones(shape, bool)
    allowed[:, -1] = False
    if how == "mask":
        return scale | {"mask": allowed}, allowed
    return scale | {"bias": np.where(allowed, 0, -np.inf).astype(np.float32)}, allowed


def operands(rng: Any, kernel: Kernel, low: slice) -> list[NDArray[Any]]:
    """Return q, k, v and a gradient; the keys `low` have the weight 0 beside others."""
    L, S, D = kernel.queries, kernel.keys, kernel.depth
    q, k, v, grad = (rng.standard_normal((1, n, D)) / 4 for n in (L, S, S, L))
    q[..., 0] = 16.0
    k[..., 0] = 4.0
    k[:, low, 0] = -4.0  # 128 below: exp(-128) is 0 in float32
    q[..., 1] = 1.0
    return [x.astype(kernel.dtype) for x in (q, k, v, grad)]


def with_hidden(cuda: Device, x: NDArray[Any], item: float) -> Any:
    """Return keys or values on the device whose last row is `item`."""
    x = x.copy()
    x[:, -1] = item
    return cuda.put(x)


def assert_alike(result: Any, expected: NDArray[Any], dtype: Any) -> None:
    result = result.astype(np.float32)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(result), finite)
    largest = max(float(np.abs(expected[finite]).max(initial=0)), 1)
    error = np.abs(result[finite] - expected[finite]).max(initial=0)
    # Scores are large, and so are their roundings.
    assert error <= (2**-5 if dtype is BF16 else 1e-4) * largest


@pytest.fixture
def kernels(monkeypatch: Any) -> Any:
    """Return what ran, by the name of the compiled function."""

    def record(cuda: Device, function: str, expected: str) -> Any:
        recorder = Recorder(_device.cuda_module(), function)
        monkeypatch.setattr(_device, "_module", recorder)
        if cuda.has_hopper:
            return lambda: recorder.kernels and set(recorder.kernels) == {expected}
        return lambda: True

    return record


@pytest.mark.filterwarnings("ignore:invalid value")
class TestForward:
    @pytest.mark.parametrize(("kernel", "how"), HIDING)
    @pytest.mark.parametrize("weights", ["one of 0", "a block of 0", "none"])
    def test_those_who_see_it_and_no_others(
        self, cuda: Device, rng: Any, kernels: Any, kernel: Kernel, how: str, weights: str
    ) -> None:
        ran = kernels(cuda, "attention", kernel.name)
        options, allowed = hiding(kernel, how)
        block = 320 if kernel is IN_PARTS else 128 if kernel.name == "sm90" else 40
        q, k, v, _ = operands(rng, kernel, slice(block) if weights == "a block of 0" else ONE)
        if weights == "none":
            k[..., 1] = -np.inf  # the score of every key
        infinite = v.copy()
        infinite[:, SEEN, :3] = np.inf

        def exact(v: Any) -> Any:
            parts = (x.astype(np.float32) for x in (q, k, v))
            return reference.attention(*parts, dtype=np.float32, **options)

        sees = allowed[:, SEEN, None]
        expected = np.where(sees, exact(infinite), exact(v))
        there = {n: cuda.put(x) if isinstance(x, np.ndarray) else x for n, x in options.items()}
        for item in (1.0, np.inf):
            y, lse = ours.attention(
                cuda.put(q),
                cuda.put(k),
                with_hidden(cuda, infinite, item),
                return_lse=True,
                **there,
            )
            assert_alike(cuda.get(y), expected, kernel.dtype)
            np.testing.assert_array_equal(
                np.isnan(cuda.get(y).astype(np.float32)), np.isnan(expected)
            )
            assert (cuda.get(lse) == -np.inf).all() == (weights == "none")
        assert ran()


@pytest.mark.filterwarnings("ignore:invalid value")
class TestBackward:
    @pytest.mark.parametrize(("kernel", "how"), BACKWARD)
    @pytest.mark.parametrize("which", ["key", "gradient", "neither"])
    def test_those_who_see_it_and_no_others(
        self, cuda: Device, rng: Any, kernels: Any, kernel: Kernel, how: str, which: str
    ) -> None:
        ran = kernels(cuda, "attention_backward", kernel.name)
        options, allowed = hiding(kernel, how)
        q, k, v, grad = operands(rng, kernel, ONE)
        infinite_k, infinite_grad = k.copy(), grad.copy()
        sees_key = np.zeros(kernel.queries, bool)
        seen_by = np.zeros(kernel.keys, bool)
        if which == "key":
            infinite_k[:, SEEN, 1] = -np.inf
            sees_key = allowed[:, SEEN]
        elif which == "gradient":
            infinite_grad[:, 9, 2] = np.inf
            seen_by = allowed[9]

        def exact(grad: Any, k: Any) -> Any:
            parts = (x.astype(np.float32) for x in (grad, q, k, v))
            return reference.attention_backward(*parts, dtype=np.float32, **options)

        # The reference multiplies hidden pairs too: with 0, which is NaN where one is infinite.
        changed, plain = exact(infinite_grad, infinite_k), exact(grad, k)
        of_query = sees_key | (which == "gradient") & (np.arange(kernel.queries) == 9)
        of_key = seen_by | (which == "key") & (np.arange(kernel.keys) == SEEN)
        expected = [
            np.where(rows[:, None], one, other)
            for rows, one, other in zip((of_query, of_key, of_key), changed, plain, strict=False)
        ]
        there = {n: cuda.put(x) if isinstance(x, np.ndarray) else x for n, x in options.items()}
        for item in (1.0, np.inf):
            held = [
                cuda.put(q),
                with_hidden(cuda, infinite_k, item),
                with_hidden(cuda, v, item),
            ]
            out, lse = ours.attention(*held, return_lse=True, **there)
            grads = ours.attention_backward(cuda.put(infinite_grad), *held, out, lse, **there)
            for got, wanted in zip(grads, expected, strict=True):
                assert_alike(cuda.get(got), wanted, kernel.dtype)
        assert ran()

    @pytest.mark.parametrize("kernel", [GENERIC, *HOPPER])
    def test_a_query_that_sees_nothing_gives_nothing(
        self, cuda: Device, rng: Any, kernel: Kernel
    ) -> None:
        """Infinite gradients of queries before the first key's place, and of no others."""
        q, k, v, grad = operands(rng, kernel, ONE)
        q, grad = q[:, : kernel.keys], grad[:, : kernel.keys]
        k, v = k[:, :60], v[:, :60]
        options: dict[str, Any] = {"causal": "bottom_right", "scale": 1.0}
        nothing = kernel.queries - 60
        exact = reference.attention_backward(
            *(x.astype(np.float64) for x in (grad, q, k, v)), **options
        )
        grad[:, :nothing] = np.inf
        held = [cuda.put(x) for x in (q, k, v)]
        out, lse = ours.attention(*held, return_lse=True, **options)
        grads = ours.attention_backward(cuda.put(grad), *held, out, lse, **options)
        for got, wanted in zip(grads, exact, strict=True):
            assert_alike(cuda.get(got), wanted, kernel.dtype)
