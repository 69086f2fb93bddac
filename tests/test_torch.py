"""marey.torch: operations that torch's own checks pass, with exact gradients."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import marey
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

from marey import torch as mt  # noqa: E402
from marey.torch import _steerable, nn  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.library import opcheck  # noqa: E402

SOS = marey.temporal.butter_bandpass(0.4, 3, fs=30, order=2)
DECAY = np.array([[0.4, 0, 0, 1, -0.6, 0]])
T, P, A = mt.temporal, mt.pyramid, mt.attention
Pad = ("odd", "even", "constant", None)
TAPS = (((1.0, -2.0, 0.5), 0), ((1.0, 2.0, 3.0, 4.0), -2), ((0.5,) * 17, 3))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def double(*shape: int) -> Any:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


# Functions of one signal (9, 5, 3), and marey's own.
SIGNALS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sosfilt": (lambda x: T.sosfilt(SOS, x), lambda x: marey.temporal.sosfilt(SOS, x)),
    "sosfilt axis": (
        lambda x: T.sosfilt(SOS, x, -2),
        lambda x: marey.temporal.sosfilt(SOS, x, -2),
    ),
    "sosfiltfilt": (
        lambda x: T.sosfiltfilt(DECAY, x),
        lambda x: marey.temporal.sosfiltfilt(DECAY, x),
    ),
    **{
        f"sosfiltfilt {pad}": (
            lambda x, pad=pad: T.sosfiltfilt(SOS, x, 0, pad, 5),
            lambda x, pad=pad: marey.temporal.sosfiltfilt(SOS, x, 0, pad, 5),
        )
        for pad in Pad
    },
    "ideal_bandpass": (
        lambda x: T.ideal_bandpass(x, 3, 9, 30),
        lambda x: marey.temporal.ideal_bandpass(x, 3, 9, 30),
    ),
    **{
        f"convolve {mode} {len(taps)}": (
            lambda x, a=(taps, 0, mode, origin): T.convolve(x, *a),
            lambda x, a=(taps, 0, mode, origin): marey.temporal.convolve(x, *a),
        )
        for mode in ("reflect", "nearest", "mirror", "wrap", "constant")
        for taps, origin in TAPS
    },
    "convolve an array": (
        lambda x: T.convolve(x, np.array([1.0, 2.0, 4.0])),
        lambda x: marey.temporal.convolve(x, np.array([1.0, 2.0, 4.0])),
    ),
    "gaussian": (
        lambda x: T.gaussian(x, 1.5, 1),
        lambda x: marey.temporal.gaussian(x, 1.5, 1),
    ),
    "derivative": (lambda x: T.derivative(x, 30), lambda x: marey.temporal.derivative(x, 30)),
    "median": (T.median, marey.temporal.median),
    "median even": (lambda x: T.median(x[:8]), lambda x: marey.temporal.median(x[:8])),
    "down": (P.down, marey.pyramid.down),
    "down planes": (
        lambda x: P.down(x, channel_axis=None),
        lambda x: marey.pyramid.down(x, channel_axis=None),
    ),
    "up": (lambda x: P.up(x, (19, 9)), lambda x: marey.pyramid.up(x, (19, 9))),
    "gaussian levels": (lambda x: P.gaussian(x, 2), lambda x: marey.pyramid.gaussian(x, 2)),
    "laplacian": (lambda x: P.laplacian(x, 2), lambda x: marey.pyramid.laplacian(x, 2)),
    "collapse": (
        lambda x: P.collapse(P.laplacian(x, 2)),
        lambda x: marey.pyramid.collapse(marey.pyramid.laplacian(x, 2)),
    ),
}
SECOND = {"median", "median even"}  # have a first derivative only
every_signal = pytest.mark.parametrize("name", SIGNALS)


def listed(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (list, tuple)) else [result]


@every_signal
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_are_mareys(name: str, dtype: Any) -> None:
    ours, plain = SIGNALS[name]
    x = torch.randn(9, 5, 3, dtype=dtype)
    for found, expected in zip(listed(ours(x)), listed(plain(x.numpy())), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected, strict=True)


@every_signal
def test_gradients(name: str) -> None:
    x = double(9, 5, 3)
    assert gradcheck(SIGNALS[name][0], (x,))
    if name not in SECOND:
        assert gradgradcheck(SIGNALS[name][0], (x,))


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_through_the_state(steps: int, axis: int) -> None:
    shape = (steps, 3) if axis == 0 else (3, steps)
    state = (2, 2, 3) if axis == 0 else (2, 3, 2)
    assert gradcheck(lambda x, z: T.sosfilt(SOS, x, axis, z), (double(*shape), double(*state)))
    assert gradgradcheck(lambda x, z: T.sosfilt(SOS, x, axis, z), (double(*shape), double(*state)))


@pytest.mark.parametrize("channels", [None, 1, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adjoints_of_pyramids(isa: str, channels: int | None, dtype: Any) -> None:
    """<down(x), y> = <x, down_adjoint(y)>, and the same for up, at every size and border."""
    axis = None if channels is None else 2
    tail = () if channels is None else (channels,)
    eps = float(torch.finfo(dtype).eps)
    for height, width in itertools.product((1, 2, 3, 4, 5, 8, 17), (1, 2, 3, 6, 7, 97)):
        x = torch.randn(height, width, *tail, dtype=dtype, requires_grad=True)
        sizes = [(2 * height + a, 2 * width + b) for a, b in ((-1, 0), (0, 1), (1, -1))]
        for y in (P.down(x, channel_axis=axis), *(P.up(x, s, channel_axis=axis) for s in sizes)):
            g = torch.randn_like(y)
            (back,) = torch.autograd.grad(y, x, g)
            products = y.detach().double() * g.double()
            left, right = float(products.sum()), float((x.detach().double() * back.double()).sum())
            assert abs(left - right) <= 8 * eps * max(float(products.abs().sum()), 1)


def energy(coefficients: Any) -> Any:
    """A number in which each coefficient's real and imaginary part counts in its own way."""
    total = 0.0
    for k, part in enumerate(
        [coefficients.highpass, *coefficients.bands, coefficients.lowpass], start=1
    ):
        real = torch.view_as_real(part) if part.is_complex() else part
        weights = torch.linspace(0.5, k, real.numel(), dtype=real.dtype).reshape(real.shape)
        total = total + (weights * real).sin().sum()
    return total


@pytest.mark.parametrize("shape", [(16, 18), (17, 13)])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_steerable_pyramid(shape: tuple[int, int], fraction: float) -> None:
    pyramid = P.SteerablePyramid(shape, 3, None, fraction)
    own = marey.pyramid.SteerablePyramid(shape, 3, None, fraction)
    image = double(2, *shape)
    found, expected = pyramid.build(image), own.build(image.detach().numpy())
    for a, b in zip(found.bands, expected.bands, strict=True):
        np.testing.assert_array_equal(a.detach().numpy(), b, strict=True)
    torch.testing.assert_close(pyramid.collapse(found), image)
    assert gradcheck(lambda x: energy(pyramid.build(x)), (image,), fast_mode=True)

    def changed(x: Any) -> Any:
        c = pyramid.build(x)
        c.bands = [band * band.abs() for band in c.bands]
        return pyramid.collapse(c)

    assert gradcheck(changed, (image,), fast_mode=True)


def test_riesz_pyramid() -> None:
    pyramid, own = P.RieszPyramid((17, 18), 2), marey.pyramid.RieszPyramid((17, 18), 2)
    image = double(2, 17, 18)
    found, expected = pyramid.build(image), own.build(image.detach().numpy())
    for name in ("bands", "x", "y"):
        for a, b in zip(getattr(found, name), getattr(expected, name), strict=True):
            np.testing.assert_allclose(a.detach().numpy(), b, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(pyramid.collapse(found), image)

    def amplitudes(x: Any) -> Any:
        c = pyramid.build(x)
        return [(b**2 + x**2 + y**2) for b, x, y in zip(c.bands, c.x, c.y, strict=True)]

    assert gradcheck(amplitudes, (image,), fast_mode=True)
    assert gradgradcheck(amplitudes, (image,), fast_mode=True)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "window": {"window": (2, 1)},
    "softcap": {"softcap": 3.0, "scale": 0.7},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_attention(options: dict[str, Any]) -> None:
    q, k, v = double(1, 4, 5, 8), double(1, 2, 5, 8), double(1, 2, 5, 6)
    expected = marey.attention.attention(*[x.detach().numpy() for x in (q, k, v)], **options)
    np.testing.assert_array_equal(A.attention(q, k, v, **options).detach().numpy(), expected)
    assert gradcheck(lambda *a: A.attention(*a, **options), (q, k, v))


def test_gradient_of_a_bias_that_is_broadcast() -> None:
    q, k, v = double(2, 3, 4, 8), double(2, 3, 5, 8), double(2, 3, 5, 8)
    mask = torch.rand(4, 5) > 0.3
    assert gradcheck(
        lambda *a: A.attention(*a[:3], mask=mask, bias=a[3]), (q, k, v, double(3, 1, 5))
    )


@pytest.mark.parametrize("axis", ["time", "space", "joint"])
def test_space_time_attention(axis: Any) -> None:
    q, k, v = (torch.randn(1, 3, 2, 4, 2, 8, dtype=torch.float64) for _ in range(3))
    expected = marey.attention.space_time_attention(q.numpy(), k.numpy(), v.numpy(), axis)
    np.testing.assert_allclose(A.space_time_attention(q, k, v, axis).numpy(), expected, atol=1e-14)


CHECKED: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {
    "sosfilt": lambda: (T._sosfilt, (torch.tensor(SOS), double(9, 3), 0)),
    "sosfilt_from": lambda: (
        T._sosfilt_from,
        (torch.tensor(SOS), double(9, 3), double(2, 2, 3), 0),
    ),
    "sosfiltfilt": lambda: (T._sosfiltfilt, (torch.tensor(SOS), double(16, 3), 0, "odd", None)),
    "ideal_bandpass": lambda: (T._ideal_bandpass, (double(9, 3), 3.0, 9.0, 30.0, 0)),
    "convolve": lambda: (
        T._convolve,
        (double(9, 3), torch.tensor([1.0, 2.0]).double(), 0, "reflect", 0, 0.0),
    ),
    "gaussian_in_time": lambda: (T._gaussian, (double(9, 3), 1.5, 0, "reflect", 0.0, 4.0)),
    "derivative": lambda: (T._derivative, (double(9, 3), 30.0, 0)),
    "median": lambda: (T._median, (double(9, 3), 0)),
    "median_filter": lambda: (
        T._median_filter,
        (double(9, 3).detach(), 3, 0, "reflect", 0, 0.0),
    ),
    "along_motion": lambda: (
        T._along_motion,
        (double(9, 4, 5).detach(), 1.0, 0.5, 1.0, "reflect", 0.0, 4.0),
    ),
    "down": lambda: (P._down, (double(9, 5, 3), 2)),
    "up": lambda: (P._up, (double(9, 5, 3), 18, 10, 2)),
    "gaussian": lambda: (P._gaussian, (double(9, 5, 3), 2, 2)),
    "laplacian": lambda: (P._laplacian, (double(9, 5, 3), 2, 2)),
    "collapse": lambda: (P._collapse, ([double(9, 5), double(5, 3)], None)),
    "steerable": lambda: (_steerable._build, (double(9, 8), 9, 8, 2, 1, 1.0)),
    "attention": lambda: (
        A._softmax._attention,
        (*[double(1, 2, 4, 8) for _ in range(3)], None, None, "no", None, None, None, None),
    ),
}


@pytest.mark.parametrize("name", CHECKED)
def test_torchs_own_checks(name: str) -> None:
    op, arguments = CHECKED[name]()
    opcheck(op.definition, arguments)


# torch's compiler warns of torch's own past.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_whole() -> None:
    x = torch.randn(12, 3, 16, 18, requires_grad=True)
    bandpass, pyramid = nn.SosFilter(SOS), nn.LaplacianPyramid(2)

    def loss(x: Any) -> Any:
        bands = pyramid(bandpass(x.sin()))
        return sum(band.square().sum() for band in bands) + T.convolve(x, [1.0, 2.0, 1.0]).sum()

    (expected,) = torch.autograd.grad(loss(x), x)
    compiled = torch.compile(loss, fullgraph=True)
    (found,) = torch.autograd.grad(compiled(x), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", SIGNALS)
def test_each_compiled_whole_for_any_size(name: str) -> None:
    ours, _ = SIGNALS[name]

    def loss(x: Any) -> Any:
        return sum(y.square().sum() for y in listed(ours(x)))

    torch.compiler.reset()  # or it counts the tests as one function that is compiled too often
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for frames in (9, 10) if name != "up" else (9,):
        x = double(frames, 5, 3)
        (expected,) = torch.autograd.grad(loss(x), x)
        (found,) = torch.autograd.grad(compiled(x), x)
        torch.testing.assert_close(found, expected)


class Seen(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]
    """The names of the operations that torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(op))
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["sosfilt", "down", "layer_norm", "collapse"])
def test_torchs_dispatcher_where_someone_listens(name: str) -> None:
    call, schema = {
        "sosfilt": (lambda x: T.sosfilt(SOS, x), "temporal_sosfilt"),
        "down": (lambda x: P.down(x, channel_axis=None), "pyramid_down"),
        "layer_norm": (lambda x: A.layer_norm(x), "layer_norm"),
        "collapse": (lambda x: P.collapse([x, x[:4, :2]], channel_axis=None), "pyramid_collapse"),
    }[name]
    x = torch.randn(8, 4)
    expected = call(x)
    with Seen() as seen:
        assert torch.equal(call(x), expected)
    assert f"marey.{schema}.default" in seen.names
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        assert torch.equal(call(x), expected)
    assert f"marey::{schema}" in {event.key for event in profile.key_averages()}
    graph = torch.fx.experimental.proxy_tensor.make_fx(call)(x)
    assert f"marey.{schema}" in graph.code
    assert torch.equal(graph(x), expected)
    fake = torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True)
    found = call(fake.from_tensor(x))
    assert type(found) is torch._subclasses.FakeTensor
    assert found.shape == expected.shape
    gradients = []
    for listener in (contextlib.nullcontext(), Seen()):
        given = x.clone().requires_grad_()
        with listener:
            call(given).square().sum().backward()
        gradients.append(given.grad)
    assert torch.equal(*gradients)


def test_lists_of_tensors_go_straight_to_the_kernel_too() -> None:
    bands = [torch.randn(8, 4, requires_grad=True), torch.randn(4, 2)]
    image = P.collapse(bands, channel_axis=None)
    assert type(image.grad_fn).__name__ == "marey_pyramid_collapseBackward"
    image.square().sum().backward()
    assert bands[0].grad is not None
    assert bands[1].grad is None


def test_a_tensor_that_outlived_a_transform_has_a_gradient() -> None:
    outlived = []

    def keep(x: torch.Tensor) -> torch.Tensor:
        outlived.append(x)
        return x.sum()

    x = torch.randn(8, 4, requires_grad=True)
    torch.func.grad(keep)(x)
    T.derivative(outlived[0]).square().sum().backward()
    (expected,) = torch.autograd.grad(T.derivative(x).square().sum(), x)
    torch.testing.assert_close(x.grad, expected)


# There is no rule for batches: torch takes one after the other, and warns.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_vmap() -> None:
    x = torch.randn(3, 8, 4)
    found = torch.vmap(lambda x: T.convolve(x, [1.0, 2.0]))(x)
    torch.testing.assert_close(found, T.convolve(x, [1.0, 2.0], 1))


def test_no_grad_and_uint8() -> None:
    frames = torch.randint(0, 256, (9, 8, 7), dtype=torch.uint8)
    assert T.sosfilt(SOS, frames).dtype is torch.float32
    assert P.down(frames, channel_axis=None).dtype is torch.uint8
    x = double(9, 4)
    with torch.no_grad():
        assert not T.sosfilt(SOS, x).requires_grad


def test_autocast() -> None:
    x = torch.randn(9, 8, 7, requires_grad=True)
    q = torch.randn(1, 2, 9, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert T.sosfilt(SOS, x.bfloat16()).dtype is torch.float32
        y = A.attention(q, q, q)
        assert y.dtype is torch.bfloat16
    y.float().sum().backward()
    assert q.grad.dtype is torch.float32


class Clips(torch.utils.data.Dataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 6

    def __getitem__(self, k: int) -> Any:
        x = torch.arange(20.0)[:, None, None] * torch.ones(64, 64) * k
        return T.sosfilt(SOS, x), P.laplacian(x, 2, channel_axis=None)[1]


# JAX warns of any fork once another test has imported it.
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
def test_forked_workers_of_a_data_loader() -> None:
    clips = Clips()
    expected = [clips[k] for k in range(6)]  # starts this process' threads first
    loader = torch.utils.data.DataLoader(
        clips, batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    for found, wanted in zip(loader, expected, strict=True):
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: T.median_filter(x, 3), "a sliding median"),
        (lambda x: T.gaussian(x, 1, velocity=(1, 0)), "a mean along a motion"),
        (lambda x: T.sosfilt(torch.tensor(SOS, requires_grad=True), x), "sos: .*need no gradient"),
        (lambda x: T.convolve(x, double(3)), "taps: .*need no gradient"),
    ],
)
def test_what_has_no_gradient_says_so(call: Any, words: str) -> None:
    with pytest.raises(NotImplementedError, match=words):
        call(double(9, 5, 4)).sum().backward()


def test_wrong_arguments_are_named() -> None:
    x = double(5, 4)
    with pytest.raises(ValueError, match=r"axis: expected an axis of shape \(5, 4\); found 2"):
        T.sosfilt(SOS, x, 2)
    with pytest.raises(ValueError, match=r"\[marey.down\] image: expected"):
        P.down(x[0], channel_axis=None)
    with pytest.raises(TypeError, match="uint8, float32 or float64"):
        P.down(torch.ones(5, 4, dtype=torch.int32), channel_axis=None)
