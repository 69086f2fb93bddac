"""marey.torch.nn and accelerate: torch's modules, results and state, by other kernels."""

import copy
import gc
from pathlib import Path
from typing import Any

import marey
import pytest

torch = pytest.importorskip("torch", reason="the extra 'torch' is not installed")

from marey import torch as mt  # noqa: E402
from marey.torch import _accelerate, nn  # noqa: E402
from marey.torch.nn import _transformer  # noqa: E402


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def pair(name: str, *arguments: Any, dtype: Any = torch.float64, **options: Any) -> tuple[Any, Any]:
    """Torch's module and ours with its state."""
    theirs = getattr(torch.nn, name)(*arguments, **options).to(dtype).eval()
    ours = getattr(nn, name)(*arguments, **options).to(dtype).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def same(found: Any, expected: Any, **limits: float) -> None:
    torch.testing.assert_close(found, expected, **(limits or {"rtol": 1e-11, "atol": 1e-11}))


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"stride": (1, 2, 2), "padding": (0, 1, 2), "bias": False},
        {"groups": 2, "dilation": (1, 2, 1)},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "replicate"},
        {"padding": "same", "padding_mode": "circular"},
    ],
    ids=str,
)
def test_conv3d(options: dict[str, Any]) -> None:
    theirs, ours = pair("Conv3d", 4, 6, 3, **options)
    x = torch.randn(2, 4, 5, 8, 9, dtype=torch.float64)
    with torch.no_grad():
        same(ours(x), theirs(x))
        same(ours(x[0]), theirs(x[0]))
        last = x.to(memory_format=torch.channels_last_3d)
        y = ours(last)
        same(y, theirs(x))
        if options.get("padding_mode") is None:
            assert y.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bias": False}],
    ids=str,
)
def test_recurrent_layers(name: str, options: dict[str, Any]) -> None:
    theirs, ours = pair(name, 5, 7, **options)
    x = torch.randn(6, 4, 5, dtype=torch.float64)
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    batch = 6 if options.get("batch_first") else 4
    h = torch.randn(count, batch, 7, dtype=torch.float64)
    state = (h, torch.randn_like(h)) if name == "LSTM" else h
    with torch.no_grad():
        same(ours(x), theirs(x))
        same(ours(x, state), theirs(x, state))
        one = tuple(s[:, 0] for s in state) if name == "LSTM" else state[:, 0]
        same(ours(x[:, 0], one), theirs(x[:, 0], one))
    grads = []
    for module in (theirs, ours):
        leaf = x.clone().requires_grad_()
        y, last = module(leaf, state)
        single, _ = module(leaf[:, 0], one)
        ends = last if isinstance(last, tuple) else (last,)
        loss = y.sin().sum() + single.cos().sum() + sum(end.square().sum() for end in ends)
        grads.append(torch.autograd.grad(loss, [leaf, *module.parameters()]))
    same(grads[1], grads[0])
    assert "marey" in ours(x)[0].grad_fn.name() or options.get("bidirectional")


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_are_traced(name: str) -> None:
    """What arrays do, a trace would not see: it would keep the result of one input for all."""
    _, layer = pair(name, 4, 3)
    x, other = torch.randn(2, 5, 2, 4, dtype=torch.float64)
    with torch.no_grad():
        graph = torch.fx.experimental.proxy_tensor.make_fx(lambda x: layer(x)[0])(x)
        same(graph(other), layer(other)[0])
        with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as fake:
            found, _ = layer(fake.from_tensor(x))
        assert type(found) is torch._subclasses.FakeTensor
        assert found.shape == (5, 2, 3)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_projections(bidirectional: bool) -> None:
    theirs, ours = pair("LSTM", 5, 7, proj_size=3, num_layers=2, bidirectional=bidirectional)
    x = torch.randn(6, 4, 5, dtype=torch.float64)
    count = 4 if bidirectional else 2
    h = torch.randn(count, 4, 3, dtype=torch.float64)
    state = (h, torch.randn(count, 4, 7, dtype=torch.float64))
    with torch.no_grad():
        same(ours(x, state), theirs(x, state))
        one = tuple(s[:, 0] for s in state)
        same(ours(x[:, 0], one), theirs(x[:, 0], one))
    grads = []
    for module in (theirs, ours):
        y, last = module(x, state)
        loss = y.sin().sum() + sum(end.square().sum() for end in last)
        grads.append(torch.autograd.grad(loss, list(module.parameters())))
    same(grads[1], grads[0])


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
@pytest.mark.parametrize("bias", [True, False])
def test_recurrent_cells(name: str, bias: bool) -> None:
    theirs, ours = pair(name, 5, 7, bias=bias)
    x, h = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 7, dtype=torch.float64)
    state = (h, torch.randn_like(h)) if name == "LSTMCell" else h
    with torch.no_grad():
        same(ours(x), theirs(x))
        same(ours(x, state), theirs(x, state))
        one = tuple(s[0] for s in state) if name == "LSTMCell" else state[0]
        same(ours(x[0], one), theirs(x[0], one))


def masks(kind: str) -> dict[str, Any]:
    forbidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    added = torch.zeros(6, 6, dtype=torch.float64).masked_fill(forbidden, float("-inf"))
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[1, 4:] = True
    return {
        "none": {},
        "bool": {"mask": forbidden},
        "float": {"mask": added},
        "padding": {"padding": padding},
        "both": {"mask": forbidden, "padding": padding},
    }[kind]


@pytest.mark.parametrize("kind", ["none", "bool", "float", "padding", "both"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention(kind: str, batch_first: bool) -> None:
    theirs, ours = pair("MultiheadAttention", 16, 4, batch_first=batch_first)
    given = masks(kind)
    options = {
        "attn_mask": given.get("mask"),
        "key_padding_mask": given.get("padding"),
        "need_weights": False,
    }
    x, y = (torch.randn(3, 6, 16, dtype=torch.float64) for _ in range(2))
    if not batch_first:
        x, y = x.transpose(0, 1), y.transpose(0, 1)
    same(ours(x, x, x, **options)[0], theirs(x, x, x, **options)[0])
    same(ours(x, y, y, **options)[0], theirs(x, y, y, **options)[0])
    same(ours(x, x, x)[1], theirs(x, x, x)[1])


@pytest.mark.parametrize(
    "options",
    [
        {"is_causal": True},
        {"attn_mask": torch.zeros(6, 5)},
        {"attn_mask": torch.zeros(1, 6, dtype=torch.bool)},
        {"attn_mask": torch.zeros(3, 6, 6)},
        {"attn_mask": torch.zeros(6, 6, dtype=torch.int64)},
        {"key_padding_mask": torch.zeros(6, dtype=torch.bool)},
        {"key_padding_mask": torch.zeros(1, 6, dtype=torch.bool)},
    ],
    ids=str,
)
def test_masks_that_do_not_fit_are_torchs_to_refuse(options: dict[str, Any]) -> None:
    theirs, ours = pair("MultiheadAttention", 16, 4, batch_first=True, dtype=torch.float32)
    x = torch.randn(3, 6, 16)
    with pytest.raises((RuntimeError, AssertionError)) as refused:
        theirs(x, x, x, need_weights=False, **options)
    with pytest.raises(refused.type) as again:
        ours(x, x, x, need_weights=False, **options)
    assert str(again.value) == str(refused.value)


@pytest.mark.parametrize("kind", ["none", "bool", "padding"])
@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_encoder_layer(kind: str, norm_first: bool) -> None:
    theirs, ours = pair(
        "TransformerEncoderLayer",
        16,
        4,
        32,
        batch_first=True,
        norm_first=norm_first,
        activation="gelu",
    )
    given = masks(kind)
    options = {"src_mask": given.get("mask"), "src_key_padding_mask": given.get("padding")}
    x = torch.randn(3, 6, 16, dtype=torch.float64)
    with torch.no_grad():
        same(ours(x, **options), theirs(x, **options))
    for module in (theirs, ours):
        module.zero_grad()
        module(x, **options).square().sum().backward()
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        same(a.grad, b.grad), name


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias: bool) -> None:
    theirs, ours = pair("Linear", 5, 7, bias=bias)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    for wanted in (True, False):
        with torch.set_grad_enabled(wanted):
            same(ours(x), theirs(x))
    weight = list(ours.parameters())
    grads = torch.autograd.grad(ours(x).sin().sum(), [x, *weight])
    for a, b in zip(
        grads, torch.autograd.grad(theirs(x).sin().sum(), [x, *theirs.parameters()]), strict=True
    ):
        same(a, b)
    with torch.no_grad():
        ours.weight.zero_()
        same(ours(x), theirs.bias.expand(2, 3, 7) if bias else torch.zeros_like(ours(x)))


def test_hooks_keep_what_they_saw() -> None:
    """A layer writes where it stands only what nobody else holds."""
    _, ours = pair("TransformerEncoderLayer", 16, 4, 32, batch_first=True, activation="gelu")
    x = torch.randn(3, 6, 16, dtype=torch.float64)
    seen: list[Any] = []
    for module in (ours.self_attn, ours.linear1, ours.linear2):
        module.register_forward_hook(lambda *a: seen.append((first(a[-1]), first(a[-1]).clone())))
    before = x.clone()
    with torch.no_grad():
        ours(x)
    assert len(seen) == 3
    for kept, copied in [*seen, (x, before)]:
        same(kept, copied, rtol=0, atol=0)


def first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def test_filters_keep_their_precision() -> None:
    sos = marey.temporal.butter_bandpass(0.4, 3, fs=30)
    module = nn.SosFilter(sos).to(torch.float32).half()
    assert module.sos.dtype is torch.float64
    assert module.state_dict()["sos"].tolist() == sos.tolist()


def test_weights_are_packed_again_when_they_change() -> None:
    module = nn.Conv3d(2, 3, 1)
    x = torch.randn(1, 2, 3, 4, 5)
    with torch.no_grad():
        first = module(x)
        assert module._packed.get is not None
        module.weight.mul_(2)
        same(
            module(x) - module.bias.view(1, 3, 1, 1, 1),
            2 * (first - module.bias.view(1, 3, 1, 1, 1)),
            rtol=1e-5,
            atol=1e-6,
        )
        module.weight = torch.nn.Parameter(torch.zeros_like(module.weight))
        same(module(x), module.bias.view(1, 3, 1, 1, 1).expand_as(first).contiguous())
        copied = copy.deepcopy(module)
        copied.bias.add_(1)
        same(copied(x), module(x) + 1, rtol=1e-6, atol=1e-6)


def doubled(parameter: Any) -> None:
    parameter.data.mul_(2)


def doubled_as_array(parameter: Any) -> None:
    array = parameter.detach().numpy()
    array *= 2


def replaced_in_its_place(parameter: Any) -> None:
    """Twice: what the first one frees, the second one may get."""
    for _ in range(2):
        parameter.data = 2 * parameter.data


@pytest.mark.parametrize("change", [doubled, doubled_as_array, replaced_in_its_place])
@pytest.mark.parametrize("name", ["Conv3d", "GRU", "LSTMCell", "Linear"])
def test_changes_that_tensors_do_not_count(name: str, change: Any) -> None:
    module = nn.Conv3d(6, 7, 1) if name == "Conv3d" else getattr(nn, name)(6, 7)
    x = torch.randn(4, 6, 3, 2, 5) if name == "Conv3d" else torch.randn(4, 6)
    with torch.no_grad():
        module(x)
        for parameter in module.parameters():
            change(parameter)
        fresh = copy.deepcopy(module)
        same(first(module(x)), first(fresh(x)), rtol=0, atol=0)


def test_weights_of_inference_mode_have_no_count_of_changes() -> None:
    with torch.inference_mode():
        module, x = nn.Conv3d(2, 3, 1), torch.randn(1, 2, 3, 4, 5)
        module(x)
        module.weight.mul_(2)
        same(module(x), copy.deepcopy(module)(x), rtol=0, atol=0)


class Video(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(
            torch.nn.Conv3d(3, 16, 3, padding=1), torch.nn.BatchNorm3d(16), torch.nn.ReLU()
        )
        self.gru = torch.nn.GRU(16, 24, num_layers=2, batch_first=True)
        self.layer = torch.nn.TransformerEncoderLayer(24, 4, 48, batch_first=True)
        self.head = torch.nn.Linear(24, 5)

    def forward(self, clip: Any) -> Any:
        x = self.stem(clip).mean((3, 4)).transpose(1, 2)
        x = self.layer(self.gru(x)[0])
        q = x.unflatten(2, (4, 6)).transpose(1, 2).repeat(1, 1, 16, 1)
        x = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        return self.head(x.transpose(1, 2).flatten(2).mean(1))


@pytest.mark.parametrize("faster", [True, False])
def test_accelerate_and_restore(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Video().eval()
    clip = torch.randn(2, 3, 16, 12, 12)
    with torch.no_grad():
        expected = model(clip)
        monkeypatch.setattr(_accelerate, "linear_is_faster", lambda _: faster)
        monkeypatch.setattr(_transformer, "linear_is_faster", lambda _: faster)
        acceleration = mt.accelerate(model)
        found = model(clip)
        linear = {name: "Linear" for name in ("layer.linear1", "layer.linear2", "head") if faster}
        assert acceleration.replaced == {
            "stem.0": "Conv3d",
            "gru": "GRU",
            "layer": "TransformerEncoderLayer",
            "layer.self_attn": "MultiheadAttention",
            **linear,
        }
        assert acceleration.attention_calls == 1
        assert "stem.0: Conv3d" in str(acceleration)
        same(found, expected, rtol=1e-4, atol=1e-5)
        assert acceleration.restore() is model
        assert type(model.gru) is torch.nn.GRU
        for module in (model.gru, model.layer.self_attn, model.head):
            assert "_packed" not in module.__dict__
        same(model(clip), expected, rtol=0, atol=0)
        assert acceleration.attention_calls == 1


def test_an_error_in_the_model_leaves_no_trace() -> None:
    model = Video().eval()
    original = torch.nn.functional.scaled_dot_product_attention
    with mt.accelerate(model):
        assert torch.nn.functional.scaled_dot_product_attention is not original
        with pytest.raises(ValueError, match="expected 3 channels"), torch.no_grad():
            model(torch.zeros(2, 4, 8, 12, 12))
        q = torch.randn(1, 4, 128, 16)
        acceleration = mt.accelerate(torch.nn.Linear(2, 2))
        original(q, q, q)
        assert acceleration.attention_calls == 0
        acceleration.restore()
    assert torch.nn.functional.scaled_dot_product_attention is original


class Attend(torch.nn.Module):
    def __init__(self, inner: Any = None) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, q: Any, *arguments: Any, **options: Any) -> Any:
        if self.inner is not None:
            q = self.inner(q)
        arguments = arguments or (q, q)
        return torch.nn.functional.scaled_dot_product_attention(q, *arguments, **options)


def attended(heads: int = 4, size: int = 32, dtype: Any = torch.float32) -> Any:
    return torch.randn(1, heads, 128, size, dtype=dtype)


ATTENDED: dict[str, tuple[Any, ...]] = {
    "one head of keys": (attended(1), attended(1)),
    "another batch": (attended().repeat(3, 1, 1, 1), attended()),
    "fewer values a head": (attended(), attended(size=16)),
}
NOT_ATTENDED: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "two heads of keys": ((attended(2), attended(2)), {}),
    "keys of another size": ((attended(size=16), attended()), {}),
    "keys of another type": ((attended(dtype=torch.float64), attended()), {}),
    "a mask of numbers": ((), {"attn_mask": torch.ones(128, 128, dtype=torch.int64)}),
    "a mask of another type": ((), {"attn_mask": torch.ones(128, 128, dtype=torch.float64)}),
    "a mask of one axis": ((), {"attn_mask": torch.zeros(128)}),
}


@pytest.mark.parametrize("kind", ATTENDED)
def test_attention_of_other_shapes(kind: str) -> None:
    model, q = Attend(), attended()
    expected = model(q, *ATTENDED[kind])
    with mt.accelerate(model) as acceleration:
        same(model(q, *ATTENDED[kind]), expected, rtol=1e-4, atol=1e-5)
    assert acceleration.attention_calls == 1


@pytest.mark.parametrize("kind", NOT_ATTENDED)
def test_torch_says_what_does_not_fit(kind: str) -> None:
    model, q = Attend(), attended()
    arguments, options = NOT_ATTENDED[kind]
    with pytest.raises((RuntimeError, IndexError)) as refused:
        model(q, *arguments, **options)
    with mt.accelerate(model) as acceleration:
        with pytest.raises(refused.type) as again:
            model(q, *arguments, **options)
        assert str(again.value) == str(refused.value)
        few = torch.randn(1, 1, 128, 32)  # heads of queries are broadcast, which ours are not
        assert model(few, q, q).shape == q.shape
    assert acceleration.attention_calls == 0


def test_calls_count_where_they_are_made() -> None:
    model = Attend(Attend())
    with mt.accelerate(model) as outer:
        with mt.accelerate(model.inner) as inner:
            model(attended())
        model(attended())
    assert (outer.attention_calls, inner.attention_calls) == (3, 1)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_find_what_they_left(reentrant: bool) -> None:
    class Checkpointed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Attend()

        def forward(self, q: Any) -> Any:
            return torch.utils.checkpoint.checkpoint(self.part, 2 * q, use_reentrant=reentrant)

    model, q = Checkpointed(), attended(dtype=torch.float64).requires_grad_()
    model(q).square().sum().backward()
    expected, q.grad = q.grad, None
    with mt.accelerate(model) as acceleration:
        model(q).square().sum().backward()
        assert acceleration.attention_calls == 2
    same(q.grad, expected)


def test_a_model_that_is_dropped_leaves_no_trace() -> None:
    original = torch.nn.functional.scaled_dot_product_attention
    mt.accelerate(Attend())
    gc.collect()
    assert torch.nn.functional.scaled_dot_product_attention is original


@pytest.mark.parametrize("how", ["deepcopy", "file"])
def test_copies_are_accelerated_too(how: str, tmp_path: Path) -> None:
    original = torch.nn.functional.scaled_dot_product_attention
    model = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 1), torch.nn.Flatten(3), Attend())
    x = torch.randn(1, 3, 4, 16, 8)
    with torch.no_grad():
        expected = model(x)
        with mt.accelerate(model):
            model(x)
            if how == "deepcopy":
                copied = copy.deepcopy(model)
            else:
                torch.save(model, tmp_path / "model.pt")
                copied = torch.load(tmp_path / "model.pt", weights_only=False)
        assert type(model[0]) is torch.nn.Conv3d
        assert type(copied[0]) is nn.Conv3d
        assert torch.nn.functional.scaled_dot_product_attention is not original
        same(copied(x), expected, rtol=1e-4, atol=1e-5)
    del copied
    gc.collect()
    assert torch.nn.functional.scaled_dot_product_attention is original


def test_a_class_that_came_later_stays() -> None:
    model = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 1))
    x = torch.randn(1, 3, 2, 4, 5)
    with mt.accelerate(model):
        torch.nn.utils.parametrizations.weight_norm(model[0])
        expected = model(x)
    same(model(x), expected, rtol=1e-5, atol=1e-6)


def test_who_watches_comes_before_any_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilers and tracers would follow the measurement, or run it on tensors without numbers."""
    monkeypatch.setattr(_transformer, "linear_is_faster", lambda _: pytest.fail("measured"))
    layer = nn.MultiheadAttention(16, 2, batch_first=True)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x = torch.randn(2, 5, 16)
    assert compiled(x, x, x, need_weights=False)[0].shape == x.shape
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as fake:
        of_fake = fake.from_tensor(x)
        found, _ = layer(of_fake, of_fake, of_fake, need_weights=False)
    assert type(found) is torch._subclasses.FakeTensor


@pytest.mark.parametrize("faster", [True, False])
def test_training_is_unchanged(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty steps down the same curve, with convolution, attention and linear layers of ours."""
    monkeypatch.setattr(_accelerate, "linear_is_faster", lambda _: faster)
    monkeypatch.setattr(_transformer, "linear_is_faster", lambda _: faster)
    model = Video()
    model.layer.dropout1.p = model.layer.dropout2.p = model.layer.dropout.p = 0.0
    model.layer.self_attn.dropout = 0.0
    other = copy.deepcopy(model)
    acceleration = mt.accelerate(other)
    clip, label = torch.randn(2, 3, 16, 12, 12), torch.tensor([1, 3])
    curves: list[list[float]] = []
    for m in (model, other):
        optimizer = torch.optim.SGD(m.parameters(), lr=0.05)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(m(clip), label)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        curves.append(losses)
    acceleration.restore()
    assert curves[0][-1] < 0.5 * curves[0][0]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


def test_gradients_of_convolution_are_mareys() -> None:
    conv = nn.Conv3d(2, 3, 3, padding=1)
    y = conv(torch.randn(1, 2, 4, 5, 6))
    assert "marey_conv3d" in y.grad_fn.name()
