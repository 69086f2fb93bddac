"""marey.jax: the same results under jit, with gradients that agree with finite differences."""

from collections.abc import Callable
from typing import Any

import marey
import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="the extra 'jax' is not installed")
jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

try:
    from marey import jax as mjax
except ImportError as missing:
    pytest.skip(str(missing), allow_module_level=True)

SOS = marey.temporal.butter_bandpass(0.4, 3, fs=30, order=2)
P, T = marey.pyramid, marey.temporal

# Name, ours, marey's own, and whether there is a gradient.
SIGNALS: list[tuple[str, Callable[..., Any], Callable[..., Any], bool]] = [
    ("sosfilt", lambda x: mjax.sosfilt(SOS, x), lambda x: T.sosfilt(SOS, x), True),
    ("sosfilt axis 1", lambda x: mjax.sosfilt(SOS, x, 1), lambda x: T.sosfilt(SOS, x, 1), True),
    *[
        (
            f"sosfiltfilt {pad}",
            lambda x, pad=pad: mjax.sosfiltfilt(SOS, x, 0, pad, 5),
            lambda x, pad=pad: T.sosfiltfilt(SOS, x, 0, pad, 5),
            True,
        )
        for pad in ("odd", "even", "constant", None)
    ],
    (
        "ideal_bandpass",
        lambda x: mjax.ideal_bandpass(x, 2, 6, 30),
        lambda x: T.ideal_bandpass(x, 2, 6, 30),
        True,
    ),
    *[
        (
            f"convolve {mode} {len(taps)} {origin}",
            lambda x, taps=taps, mode=mode, origin=origin: mjax.convolve(x, taps, 0, mode, origin),
            lambda x, taps=taps, mode=mode, origin=origin: T.convolve(x, taps, 0, mode, origin),
            True,
        )
        for mode in ("reflect", "nearest", "mirror", "wrap", "constant")
        for taps, origin in (((1.0, -2.0, 0.5), 0), ((1.0, 2.0, 3.0, 4.0), -2), ((0.5,) * 17, 3))
    ],
    ("gaussian", lambda x: mjax.temporal_gaussian(x, 1.5), lambda x: T.gaussian(x, 1.5), True),
    ("derivative", lambda x: mjax.derivative(x, 30), lambda x: T.derivative(x, 30), True),
    ("median", mjax.median, T.median, True),
    ("median_filter", lambda x: mjax.median_filter(x, 5), lambda x: T.median_filter(x, 5), False),
    ("down", mjax.down, P.down, True),
    (
        "down planes",
        lambda x: mjax.down(x, channel_axis=None),
        lambda x: P.down(x, channel_axis=None),
        True,
    ),
    ("up", lambda x: mjax.up(x, (25, 11)), lambda x: P.up(x, (25, 11)), True),
    ("laplacian", lambda x: mjax.laplacian(x, 2), lambda x: P.laplacian(x, 2), True),
    ("gaussian levels", lambda x: mjax.gaussian(x, 2), lambda x: P.gaussian(x, 2), True),
    (
        "collapse",
        lambda x: mjax.collapse(mjax.laplacian(x, 2)),
        lambda x: P.collapse(P.laplacian(x, 2)),
        True,
    ),
]


def parametrize(differentiable: bool) -> Any:
    cases = [c for c in SIGNALS if c[3] or not differentiable]
    return pytest.mark.parametrize(
        ("ours", "plain"), [c[1:3] for c in cases], ids=[c[0] for c in cases]
    )


def close(found: Any, expected: Any, **limits: float) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a), b, **limits)


@parametrize(differentiable=False)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_are_mareys_under_jit(
    ours: Any, plain: Any, dtype: Any, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((12, 5, 3)).astype(dtype)
    eps = float(np.finfo(dtype).eps)
    close(jax.jit(ours)(x), plain(x), rtol=200 * eps, atol=200 * eps)


@parametrize(differentiable=True)
def test_gradients_agree_with_finite_differences(
    ours: Any, plain: Any, rng: np.random.Generator
) -> None:
    x = jnp.asarray(rng.standard_normal((12, 5, 3)))
    check_grads(ours, (x,), order=1, modes=["rev"], atol=1e-7, rtol=1e-7)


@parametrize(differentiable=False)
def test_vmap_is_a_loop(ours: Any, plain: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 12, 5, 3))
    found = jax.vmap(ours)(x)
    for k in range(2):
        close(jax.tree.map(lambda y, k=k: y[k], found), plain(x[k]), rtol=1e-13, atol=1e-13)


def test_vmap_of_a_gradient(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 12, 6, 7))

    def loss(x: Any) -> Any:
        bands = mjax.laplacian(mjax.sosfilt(SOS, x), 1, channel_axis=None)
        return sum(jnp.sum(band**3) for band in bands)

    found = jax.jit(jax.vmap(jax.grad(loss)))(x)
    for k in range(3):
        np.testing.assert_allclose(found[k], jax.grad(loss)(x[k]), rtol=1e-12)


def test_state_goes_through(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.standard_normal((12, 5, 3)))
    zi = jnp.asarray(rng.standard_normal((2, 12, 2, 3)))
    close(
        jax.jit(lambda x, z: mjax.sosfilt(SOS, x, 1, z))(x, zi),
        T.sosfilt(SOS, np.asarray(x), 1, np.asarray(zi)),
        rtol=1e-14,
    )
    check_grads(lambda x, z: mjax.sosfilt(SOS, x, 1, z), (x, zi), order=1, modes=["rev"])


def test_second_derivatives(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.standard_normal((8, 5, 3)))
    check_grads(lambda x: mjax.down(x) ** 3, (x,), order=2, modes=["rev"])


def test_uint8(rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (9, 8, 7), np.uint8)
    close(mjax.sosfilt(SOS, frames), T.sosfilt(SOS, frames), rtol=1e-6)
    close(mjax.down(frames, channel_axis=None), P.down(frames, channel_axis=None))


def test_errors_say_what_was_expected() -> None:
    x = jnp.ones((5, 4))
    with pytest.raises(ValueError, match=r"axis: expected an axis of shape \(5, 4\)"):
        mjax.sosfilt(SOS, x, 2)
    with pytest.raises(ValueError, match="mode: expected 'reflect'"):
        mjax.convolve(x, [1, 2], mode="upwards")
    with pytest.raises(Exception, match=r"\[marey.sosfiltfilt\]"):
        jax.block_until_ready(mjax.sosfiltfilt(SOS, x, padlen=9))
