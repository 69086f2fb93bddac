"""marey.torch: layers of networks, by the same checks as the filters and pyramids."""

from collections.abc import Callable, Sequence
from typing import Any

import marey
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

from marey import torch as mt  # noqa: E402
from marey.torch import _pool  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.library import opcheck  # noqa: E402

A, C, R = mt.attention, mt.conv, mt.recurrent
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
CU = [0, 3, 3, 7]  # sequences of 3, 0 and 4


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def double(*shape: int) -> Any:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def plain(value: Any) -> Any:
    """What marey's own functions take and give: arrays."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy()
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def leaves(value: Any) -> list[Any]:
    return (
        [leaf for item in value for leaf in leaves(item)]
        if isinstance(value, (tuple, list))
        else [value]
    )


def block(decoder: bool = False) -> dict[str, Any]:
    weights = {
        "linear1.weight": double(6, 4),
        "linear1.bias": double(6),
        "linear2.weight": double(4, 6),
        "norm1.weight": double(4),
        "norm2.weight": double(4),
        "norm2.bias": double(4),
    }
    for part in ("self_attn", "multihead_attn")[: 1 + decoder]:
        weights |= {
            f"{part}.in_proj_weight": double(12, 4),
            f"{part}.out_proj.weight": double(4, 4),
        }
    return weights | ({"norm3.weight": double(4)} if decoder else {})


def cell(name: str, **options: Any) -> tuple[Callable[..., Any], Callable[..., Any], list[Any]]:
    """A sequence of a cell: with torch, with NumPy, and the tensors."""
    gates = GATES[name]
    tensors = {
        "x": double(3, 2, 3),
        "weight_ih": double(gates * 4, 3),
        "weight_hh": double(gates * 4, 4),
        "bias_ih": double(gates * 4),
        "bias_hh": double(gates * 4),
        "h0": double(3 if options.get("batch_first") else 2, 4),
    }
    if name == "lstm":
        tensors["c0"] = double(*tensors["h0"].shape)
        if options.pop("peephole", False):
            tensors["peephole"] = double(3, 4)
        if options.pop("weight_hr", False):
            tensors |= {"weight_hh": double(16, 2), "weight_hr": double(2, 4), "h0": double(2, 2)}
    if options.pop("layer_norm", False):
        tensors |= {"norm 0": double(16), "norm 1": double(16), "norm 2": double(2, 4)}
    names = list(tensors)

    def run(function: Callable[..., Any], values: Sequence[Any]) -> Any:
        given = dict(zip(names, values, strict=True))
        norms = tuple(given.pop(name) for name in names if name.startswith("norm"))
        return function(**given, **options, **({"layer_norm": norms} if norms else {}))

    return (
        lambda *a: run(getattr(R, name), a),
        lambda *a: run(getattr(marey.recurrent, name), a),
        list(tensors.values()),
    )


def pooling(name: str, **options: Any) -> tuple[Callable[..., Any], Callable[..., Any], list[Any]]:
    shape = (1, 4, 5, 6, 2) if options.get("layout") == "NTHWC" else (1, 2, 4, 5, 6)
    return (
        lambda x: getattr(C, name)(x, 2, **options),
        lambda x: getattr(marey.conv, name)(x, 2, **options),
        [double(*shape)],
    )


def step(name: str) -> tuple[Callable[..., Any], Callable[..., Any], list[Any]]:
    gates = GATES[name]
    state = [double(2, 4) for _ in range(2 if name == "lstm" else 1)]
    weights = [double(gates * 4, 3), double(gates * 4, 4), double(gates * 4), double(gates * 4)]
    function = f"{name}_step"
    return (
        getattr(R, function),
        getattr(marey.recurrent, function),
        [double(2, 3), *state, *weights],
    )


# What torch computes, what marey itself does, and the tensors.
Case = tuple[Callable[..., Any], Callable[..., Any], list[Any]]
CASES: dict[str, Callable[[], Case]] = {
    "linear": lambda: (
        lambda *a: A.linear(*a[:3], residual=a[3]),
        lambda *a: marey.attention.linear(*a[:3], residual=a[3]),
        [double(2, 3, 5), double(4, 5), double(4), double(2, 3, 4)],
    ),
    "linear gelu": lambda: (
        lambda *a: A.linear(*a[:3], activation="gelu", residual=a[3]),
        lambda *a: marey.attention.linear(*a[:3], activation="gelu", residual=a[3]),
        [double(3, 5), double(4, 5), double(4), double(3, 4)],
    ),
    "layer_norm": lambda: (
        A.layer_norm,
        marey.attention.layer_norm,
        [double(2, 7), double(7), double(7)],
    ),
    "rotary": lambda: (
        lambda x: A.rotary(x, np.indices((2, 3)).reshape(2, -1).T, sections=(4, 2)),
        lambda x: marey.attention.rotary(x, np.indices((2, 3)).reshape(2, -1).T, sections=(4, 2)),
        [double(2, 6, 6)],
    ),
    "varlen": lambda: (
        lambda *a: A.attention_varlen(*a, CU, CU, causal=True),
        lambda *a: marey.attention.attention_varlen(*a, CU, CU, causal=True),
        [double(7, 4, 4), double(7, 2, 4), double(7, 2, 3)],
    ),
    "multi_head_attention": lambda: (
        lambda *a: A.multi_head_attention(
            a[0],
            num_heads=2,
            in_proj_weight=a[1],
            in_proj_bias=a[2],
            out_proj_weight=a[3],
            positions=range(3),
        ),
        lambda *a: marey.attention.multi_head_attention(
            a[0],
            num_heads=2,
            in_proj_weight=a[1],
            in_proj_bias=a[2],
            out_proj_weight=a[3],
            positions=range(3),
        ),
        [double(2, 3, 4), double(12, 4), double(12), double(4, 4)],
    ),
    **{
        f"conv3d {layout}": lambda layout=layout: (
            lambda *a: C.conv3d(*a, stride=(1, 2, 1), padding=1, groups=2, layout=layout),
            lambda *a: marey.conv.conv3d(*a, stride=(1, 2, 1), padding=1, groups=2, layout=layout),
            [
                double(*((1, 4, 2, 3, 2) if layout == "NCTHW" else (1, 2, 3, 2, 4))),
                double(2, 2, 2, 3, 2),
                double(2),
            ],
        )
        for layout in ("NCTHW", "NTHWC")
    },
    "max_pool3d": lambda: pooling("max_pool3d", dilation=(1, 1, 2), ceil_mode=True),
    "max_pool3d NTHWC": lambda: pooling("max_pool3d", layout="NTHWC", padding=(1, (0, 1), 0)),
    "avg_pool3d": lambda: pooling("avg_pool3d", padding=1, count_include_pad=False),
    "avg_pool3d ceil": lambda: pooling("avg_pool3d", stride=3, padding=(1, 1, 0), ceil_mode=True),
    "global_avg_pool3d": lambda: (
        lambda x: C.global_avg_pool3d(x, layout="NTHWC"),
        lambda x: marey.conv.global_avg_pool3d(x, layout="NTHWC"),
        [double(2, 3, 2, 2, 3)],
    ),
    "separable_conv3d": lambda: (
        lambda *a: C.separable_conv3d(*a, padding=1, stride=(1, 2, 1), activation="gelu"),
        lambda *a: marey.conv.separable_conv3d(*a, padding=1, stride=(1, 2, 1), activation="gelu"),
        [double(1, 2, 3, 4, 3), double(3, 2, 1, 3, 2), double(2, 3, 3, 1, 1), double(3), double(2)],
    ),
    "causal_conv3d": lambda: (
        lambda *a: C.causal_conv3d(*a[:3], state=a[3], padding=(0, 1, 0), dilation=(2, 1, 1)),
        lambda *a: marey.conv.causal_conv3d(
            *a[:3], state=a[3], padding=(0, 1, 0), dilation=(2, 1, 1)
        ),
        [double(1, 2, 3, 3, 3), double(2, 2, 2, 3, 1), double(2), double(1, 2, 2, 3, 3)],
    ),
    "inflate": lambda: (
        lambda w: (C.inflate(w, 3), C.inflate(w, 4, "centre")),
        lambda w: (marey.conv.inflate(w, 3), marey.conv.inflate(w, 4, "centre")),
        [double(2, 2, 3, 1)],
    ),
    "lstm": lambda: cell("lstm"),
    "lstm lengths": lambda: cell("lstm", lengths=[1, 3], peephole=True),
    "lstm projected": lambda: cell("lstm", weight_hr=True, reverse=True),
    "lstm layer_norm": lambda: cell("lstm", layer_norm=True, lengths=[2, 3]),
    "lstm of all": lambda: cell("lstm", weight_hr=True, layer_norm=True, peephole=True),
    "gru after": lambda: cell("gru", reverse=True),
    "gru before": lambda: cell("gru", reset="before", batch_first=True, lengths=[2, 0, 1]),
    "rnn": lambda: cell("rnn", nonlinearity="tanh", lengths=[3, 2]),
    **{f"{name}_step": lambda name=name: step(name) for name in GATES},
}
SECOND = {"linear", "rotary", "conv3d NCTHW", "conv3d NTHWC"}  # have second derivatives


@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients(name: str) -> None:
    ours, own, tensors = CASES[name]()
    expected = leaves(own(*plain(tensors)))
    for wanted in (True, False):
        with torch.set_grad_enabled(wanted):
            found = leaves(ours(*tensors))
        assert all(a.requires_grad == wanted for a in found)
        for a, b in zip(plain(found), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)

    def flat(*tensors: Any) -> tuple[Any, ...]:
        return tuple(leaves(ours(*tensors)))

    assert gradcheck(flat, tensors, fast_mode=True)
    if name in SECOND:
        assert gradgradcheck(flat, tensors, fast_mode=True)


@pytest.mark.parametrize("decoder", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_block(decoder: bool, norm_first: bool) -> None:
    weights = block(decoder)
    names = list(weights)
    x, memory = double(2, 3, 4), double(2, 2, 4) if decoder else None
    options = {"norm_first": norm_first, "causal": True}

    def run(x: Any, *values: Any) -> Any:
        return A.transformer_block(x, dict(zip(names, values, strict=True)), 2, memory, **options)

    expected = marey.attention.transformer_block(
        plain(x), plain(weights), 2, plain(memory), **options
    )
    np.testing.assert_allclose(plain(run(x, *weights.values())), expected, rtol=1e-12, atol=1e-12)
    assert gradcheck(run, (x, *weights.values()), fast_mode=True)


def operations() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Every operation of torch.ops.marey that is defined here, with arguments of it."""
    begins = torch.tensor(CU)
    # What is kept for the way back has room for multiples of 32 units, of which none is idle here.
    sequence = {
        name: [double(3, 2, 3), double(g * 32, 3), double(g * 32, 32), None, double(g * 32)]
        for name, g in GATES.items()
    }
    windows = ([1, 2, 2, 1, 2, 1, 0, 0, 1, 0, 0, 1, 1, 1, 1], True, False, "NCTHW")
    shapes = ((1, 1, 2, 3, 4), (2, 1, 1, 2, 2), (2, 2, 2, 1, 1))
    separable = [double(*shape).detach() for shape in shapes]
    # Steps are for where no gradient is wanted.
    one = {
        name: [t if t is None else t.detach() for t in (s[0][0], double(2, 32), *s[1:])]
        for name, s in sequence.items()
    }
    return {
        "linear": (A._linear._linear, (double(2, 3), double(4, 3), double(4), double(2, 4), None)),
        "layer_norm": (A._linear._layer_norm, (double(2, 3), double(3), None, 1e-5)),
        "rotary": (A._linear._rotary, (double(3, 4), torch.arange(3.0), None, 1e4, False)),
        "attention_varlen": (
            A._varlen._attention_varlen,
            (
                double(7, 2, 4),
                double(7, 2, 4),
                double(7, 2, 4),
                begins,
                begins,
                "no",
                None,
                None,
                None,
                None,
            ),
        ),
        "conv3d": (
            C._conv3d,
            (
                double(1, 2, 2, 3, 3),
                double(2, 2, 1, 2, 2),
                None,
                [1] * 3 + [0] * 6 + [1] * 4,
                "NCTHW",
                None,
            ),
        ),
        "max_pool3d": (_pool._max, (double(1, 1, 2, 3, 4), *windows)),
        "avg_pool3d": (_pool._avg, (double(1, 1, 2, 3, 4), *windows)),
        "global_avg_pool3d": (_pool._global, (double(1, 2, 2, 3, 4), "NCTHW")),
        "separable_conv3d": (
            C._separable,
            (*separable, None, None, [1] * 3 + [0] * 6, "NCTHW", "relu"),
        ),
        "lstm": (
            R._lstm,
            (
                *(*sequence["lstm"], None, None, None, None, None, double(2, 32), double(2, 32)),
                *(None, False, False, True),
            ),
        ),
        "gru": (
            R._gru,
            (*sequence["gru"], None, torch.tensor([3, 1]), False, False, "after", False),
        ),
        "rnn": (R._rnn, (*sequence["rnn"], double(2, 32), None, True, False, "relu", False)),
        "lstm_step": (
            R._lstm_step,
            (*one["lstm"][:2], double(2, 32).detach(), *one["lstm"][2:], None),
        ),
        "gru_step": (R._gru_step, (*one["gru"], "before")),
        "rnn_step": (R._rnn_step, (*one["rnn"], "tanh")),
    }


@pytest.mark.parametrize("name", list(operations()))
def test_torchs_own_checks(name: str) -> None:
    op, arguments = operations()[name]
    opcheck(op.definition, arguments)


class Network(torch.nn.Module):  # type: ignore[misc]
    """One of each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.nn.Parameter(0.3 * torch.randn(4, 2, 1, 3, 3))
        # torch's compiler refuses modules of torch.nn.GRU, whoever computes.
        self.weight_ih = torch.nn.Parameter(0.3 * torch.randn(24, 4))
        self.weight_hh = torch.nn.Parameter(0.3 * torch.randn(24, 8))
        self.block = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, clip: Any) -> Any:
        x = C.conv3d(clip, self.kernel, padding=(0, 1, 1)).mean((3, 4)).permute(2, 0, 1)
        y, _ = R.gru(x, self.weight_ih, self.weight_hh)
        weights = dict(self.block.named_parameters())
        return A.transformer_block(y.transpose(0, 1), weights, 2, causal=True)


# torch's compiler warns of torch's own past.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_whole() -> None:
    model, clip = Network(), torch.randn(2, 2, 4, 6, 5)
    expected = model(clip)
    grads = torch.autograd.grad(
        expected.square().mean(), list(model.parameters()), allow_unused=True
    )
    compiled = torch.compile(model, fullgraph=True)
    found = compiled(clip)
    torch.testing.assert_close(found, expected)
    again = torch.autograd.grad(found.square().mean(), list(model.parameters()), allow_unused=True)
    for a, b in zip(again, grads, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b)


def test_autocast_computes_in_bfloat16() -> None:
    model, clip = Network(), torch.randn(2, 2, 4, 6, 5)
    expected = model(clip)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(clip)
    assert found.dtype is torch.bfloat16
    off = (found.detach().float() - expected.detach()).abs().max()
    assert off < 0.1 * expected.detach().abs().max()
    found.float().square().sum().backward()
    assert model.kernel.grad.dtype is torch.float32


class Layers(torch.utils.data.Dataset):  # type: ignore[misc]
    """What a worker of a data loader might compute."""

    def __init__(self) -> None:
        self.model = Network()

    def __len__(self) -> int:
        return 4

    def __getitem__(self, k: int) -> Any:
        with torch.no_grad():
            return self.model(torch.full((1, 2, 4, 6, 5), float(k)))


# JAX warns of any fork once another test has imported it.
@pytest.mark.filterwarnings(r"ignore:os\.fork\(\) was called:RuntimeWarning")
def test_forked_workers_of_a_data_loader() -> None:
    layers = Layers()
    expected = [layers[k] for k in range(4)]
    loader = torch.utils.data.DataLoader(
        layers, batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    for found, wanted in zip(loader, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"\[marey.torch.linear\] activation: expected None"):
        A.linear(double(2, 3), double(4, 3), activation="tanh")
    with pytest.raises(ValueError, match=r"in_proj_weight: expected shape \(3 E, C\)"):
        A.multi_head_attention(
            double(2, 4), num_heads=3, in_proj_weight=double(12, 4), out_proj_weight=double(4, 4)
        )
    with pytest.raises(ValueError, match="memory: expected None for an encoder's layer"):
        A.transformer_block(double(2, 4), block(), 2, double(2, 4))
    with pytest.raises(ValueError, match=r"\[marey.gru\] weight_hh"):
        R.gru(double(3, 2, 3), double(12, 3), double(12, 5))
    y, _ = R.rnn(double(3, 2, 3), w := double(4, 3), double(4, 4))
    (grad,) = torch.autograd.grad(y.sum(), w, create_graph=True)
    with pytest.raises(NotImplementedError, match="first derivatives only"):
        grad.sum().backward()
