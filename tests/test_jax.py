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


# Layers of networks: ours, marey's own, and the shapes of their arrays.
Layer = tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]]]
C, R = marey.conv, marey.recurrent


def sequence(name: str, gates: int, **options: Any) -> Layer:
    def of(module: Any) -> Callable[..., Any]:
        def run(*arrays: Any) -> Any:
            x, w, u, b, d, h0, *c0 = arrays
            more = {"c0": c0[0]} if c0 else {}
            return getattr(module, name)(x, w, u, b, d, h0=h0, **more, **options)

        return run

    N, T = (2, 3) if options.get("batch_first") else (3, 2)
    shapes = [(T, N, 4), (5 * gates, 4), (5 * gates, 5), (5 * gates,), (5 * gates,)]
    batch = T if options.get("batch_first") else N
    return of(mjax), of(R), [*shapes, *[(batch, 5)] * (2 if name == "lstm" else 1)]


LAYERS: dict[str, Layer] = {
    "attention": (
        lambda *a: mjax.attention(*a, causal=True, softcap=3.0),
        lambda *a: marey.attention.attention(*a, causal=True, softcap=3.0),
        [(2, 4, 5, 8), (2, 2, 5, 8), (2, 2, 5, 6)],
    ),
    "attention window": (
        lambda *a: mjax.attention(*a, window=(1, 0), scale=0.3),
        lambda *a: marey.attention.attention(*a, window=(1, 0), scale=0.3),
        [(2, 3, 8), (2, 3, 8), (2, 3, 8)],
    ),
    "linear": (mjax.linear, marey.attention.linear, [(2, 3, 5), (4, 5), (4,)]),
    "linear without bias": (mjax.linear, marey.attention.linear, [(5,), (4, 5)]),
    "conv3d": (
        lambda *a: mjax.conv3d(*a, stride=(1, 2, 1), padding=(1, (0, 1), 1), groups=2),
        lambda *a: C.conv3d(*a, stride=(1, 2, 1), padding=(1, (0, 1), 1), groups=2),
        [(1, 4, 3, 5, 4), (6, 2, 2, 3, 3), (6,)],
    ),
    "conv3d NTHWC": (
        lambda *a: mjax.conv3d(*a, layout="NTHWC", padding="same", dilation=(1, 2, 1)),
        lambda *a: C.conv3d(*a, layout="NTHWC", padding="same", dilation=(1, 2, 1)),
        [(2, 3, 5, 4, 2), (3, 2, 2, 2, 1)],
    ),
    "lstm": sequence("lstm", 4),
    "gru": sequence("gru", 3, reverse=True),
    "gru before": sequence("gru", 3, reset="before", batch_first=True),
    "rnn": sequence("rnn", 1),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def arrays_of(name: str, rng: np.random.Generator, *batch: int) -> list[Any]:
    return [0.5 * rng.standard_normal((*batch, *shape)) for shape in LAYERS[name][2]]


@every_layer
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_are_mareys_under_jit(name: str, dtype: str, rng: np.random.Generator) -> None:
    ours, plain, _ = LAYERS[name]
    arrays = [jnp.asarray(x, dtype) for x in arrays_of(name, rng)]
    if name == "lstm" and dtype == "bfloat16":
        arrays[-1] = arrays[-1].astype(jnp.float32)
    found, expected = jax.jit(ours)(*arrays), plain(*map(np.asarray, arrays))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(np.asarray(a, np.float64), b.astype(np.float64), rtol=1e-6)


@every_layer
def test_gradients_of_layers(name: str, rng: np.random.Generator) -> None:
    arrays = [jnp.asarray(x) for x in arrays_of(name, rng)]
    check_grads(jax.jit(LAYERS[name][0]), arrays, order=1, modes=["rev"], atol=1e-6, rtol=1e-6)


@every_layer
def test_vmap_of_layers_and_their_gradients(name: str, rng: np.random.Generator) -> None:
    ours, plain, _ = LAYERS[name]
    arrays = arrays_of(name, rng, 2)
    found = jax.vmap(ours)(*arrays)
    for k in range(2):
        close(jax.tree.map(lambda y, k=k: y[k], found), plain(*[x[k] for x in arrays]), rtol=1e-12)

    def loss(*arrays: Any) -> Any:
        return sum(jnp.sum(y**2) for y in jax.tree.leaves(ours(*arrays)))

    every = tuple(range(len(arrays)))
    grads = jax.vmap(jax.grad(loss, every))(*arrays)
    for k in range(2):
        one = jax.grad(loss, every)(*[x[k] for x in arrays])
        for a, b in zip(grads, one, strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-12, atol=1e-12)


def test_gradients_in_bfloat16(rng: np.random.Generator) -> None:
    for name in ("attention", "linear", "conv3d", "gru"):
        exact = arrays_of(name, rng)
        rounded = [jnp.asarray(x, jnp.bfloat16) for x in exact]

        def loss(*arrays: Any, name: str = name) -> Any:
            leaves = jax.tree.leaves(LAYERS[name][0](*arrays))
            return sum(jnp.sum(y.astype(jnp.float32)) for y in leaves)

        every = tuple(range(len(exact)))
        found = jax.grad(loss, every)(*rounded)
        expected = jax.grad(loss, every)(*[x.astype(jnp.float64) for x in rounded])
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == jnp.bfloat16
            assert float(jnp.abs(a.astype(jnp.float64) - b).max()) <= 0.05 * float(jnp.abs(b).max())


def test_errors_say_what_was_expected() -> None:
    x = jnp.ones((5, 4))
    with pytest.raises(ValueError, match=r"axis: expected an axis of shape \(5, 4\)"):
        mjax.sosfilt(SOS, x, 2)
    with pytest.raises(ValueError, match="mode: expected 'reflect'"):
        mjax.convolve(x, [1, 2], mode="upwards")
    with pytest.raises(Exception, match=r"\[marey.sosfiltfilt\]"):
        jax.block_until_ready(mjax.sosfiltfilt(SOS, x, padlen=9))
    with pytest.raises(ValueError, match=r"\[marey.jax.linear\] x, weight: expected shapes"):
        mjax.linear(x, jnp.ones((3, 5)))
    with pytest.raises(ValueError, match=r"\[marey.jax.sosfilt\] sos: expected .*sections, 6"):
        mjax.sosfilt(SOS[:, :5], x)
    with pytest.raises(ValueError, match=r"\[marey.jax.conv3d\] x, weight: expected 5 axes"):
        mjax.conv3d(x, x)
    with pytest.raises(Exception, match=r"\[marey.recurrent\] weight_hh"):
        jax.block_until_ready(mjax.rnn(jnp.ones((2, 3, 4)), x, jnp.ones((5, 6))))
