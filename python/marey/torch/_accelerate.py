"""Putting marey's kernels into a model that exists."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import torch

from marey.torch import attention as ops
from marey.torch import nn
from marey.torch._packed import linear_is_faster, on_cpu

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor

_CLASSES: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Conv3d: nn.Conv3d,
    torch.nn.LSTM: nn.LSTM,
    torch.nn.GRU: nn.GRU,
    torch.nn.RNN: nn.RNN,
    torch.nn.LSTMCell: nn.LSTMCell,
    torch.nn.GRUCell: nn.GRUCell,
    torch.nn.RNNCell: nn.RNNCell,
    torch.nn.MultiheadAttention: nn.MultiheadAttention,
    torch.nn.TransformerEncoderLayer: nn.TransformerEncoderLayer,
}

# Calls of so few multiply-adds are over in torch before they are here.
_LEAST_WORK = 1 << 17

_torch_attention = torch.nn.functional.scaled_dot_product_attention


class _Inside(threading.local):
    """The accelerated models that run in this thread, by their counters, the innermost last."""

    def __init__(self) -> None:
        self.counters: list[list[int]] = []


_inside = _Inside()
_lock = threading.RLock()  # the collector may finalize a model within `_install`
_installed = 0


def _takes(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool, gqa: bool
) -> bool:
    """Return whether a call is marey's: of those that fit; torch says what does not."""
    if query.is_nested or query.dim() < 3 or not query.dim() == key.dim() == value.dim():
        return False
    if query.numel() * key.shape[-2] < _LEAST_WORK or not on_cpu(query):
        return False
    if not query.dtype == key.dtype == value.dtype or query.shape[-1] != key.shape[-1]:
        return False
    if key.shape[-3:-1] != value.shape[-3:-1]:
        return False
    heads, of_keys = query.shape[-3], key.shape[-3]
    if heads != of_keys and of_keys != 1 and not (gqa and heads % of_keys == 0):
        return False
    if attn_mask is None:
        return True
    types = (torch.bool, query.dtype, torch.float32 if query.dtype is torch.bfloat16 else None)
    return not is_causal and attn_mask.dim() >= 2 and attn_mask.dtype in types


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Stand in for `torch.nn.functional.scaled_dot_product_attention`."""
    if (
        not _inside.counters
        or dropout_p != 0.0
        or not _takes(query, key, value, attn_mask, is_causal, enable_gqa)
    ):
        return _torch_attention(
            query,
            key,
            value,
            attn_mask=attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            **({"enable_gqa": True} if enable_gqa else {}),
        )
    _inside.counters[-1][0] += 1
    mask = bias = None
    if attn_mask is not None:
        if attn_mask.dtype is torch.bool:
            mask = attn_mask
        else:
            wide = query.dtype is torch.float64
            bias = attn_mask.to(torch.float64 if wide else torch.float32)
    batch = torch.broadcast_shapes(query.shape[:-3], key.shape[:-3], value.shape[:-3])
    q, k, v = (x.expand(*batch, *x.shape[-3:]) for x in (query, key, value))
    causal: Any = "top_left" if is_causal else False
    return ops.attention(q, k, v, mask=mask, bias=bias, causal=causal, scale=scale)


def _of_torch(module: torch.nn.Module) -> bool:
    return type(module).__module__.startswith(("torch.nn.", "marey.torch.nn."))


class Acceleration:
    """What `accelerate` did to a model, and how to undo it.

    Attributes
    ----------
    model : torch.nn.Module
        The model.
    replaced : dict of str to str
        The modules that marey runs now, by name, with their class.
    attention_calls : int
        How many calls of ``scaled_dot_product_attention`` went to marey so far; those within a part
        that is accelerated by itself count there.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.replaced: dict[str, str] = {}
        self._classes: list[tuple[torch.nn.Module, type[torch.nn.Module], Any]] = []
        self._counter = [0]
        for name, module in model.named_modules():
            ours = _CLASSES.get(type(module))
            if type(module) is torch.nn.Linear and on_cpu(module.weight):
                ours = nn.Linear if linear_is_faster(module.weight.dtype) else None
            if ours is not None:
                self._classes.append((module, type(module), ours))
                module.__class__ = ours
                self.replaced[name or "(the model)"] = ours.__name__
        # The model, and those of its parts that may call attention: torch's checkpoints run parts
        # by themselves, on the way back, and must find what they found on the way there.
        watched = [part for part in model.modules() if part is model or not _of_torch(part)]
        self._hooks = [
            hook
            for part in watched
            for hook in (
                part.register_forward_pre_hook(self._enter),
                part.register_forward_hook(self._leave, always_call=True),
            )
        ]
        self._active = True
        self._install()

    def _install(self) -> None:
        """Put our attention in place until `restore`, or until nobody has the model any more."""
        _install(1)
        self._uninstall = weakref.finalize(self, _install, -1)
        self._uninstall.atexit = False

    def _enter(self, module: torch.nn.Module, arguments: Any) -> None:  # noqa: ARG002
        _inside.counters.append(self._counter)

    def _leave(self, module: torch.nn.Module, arguments: Any, output: Any) -> None:  # noqa: ARG002
        if _inside.counters:  # none if somebody else's hook failed before `_enter`
            _inside.counters.pop()

    # Copies of the model, and models from a file, are as accelerated as it was.

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_uninstall"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._active:
            self._install()

    @property
    def attention_calls(self) -> int:
        """How many calls of ``scaled_dot_product_attention`` went to marey so far."""
        return self._counter[0]

    def restore(self) -> torch.nn.Module:
        """Give the model its own modules back, with the parameters that they have now.

        A module that got another class since, as `torch.nn.utils.parametrize` gives, keeps it.

        Returns
        -------
        torch.nn.Module
            The model.
        """
        if self._active:
            self._active = False
            for module, kind, ours in self._classes:
                if type(module) is ours:  # else it has been given a class since, made of ours
                    module.__class__ = kind
                module.__dict__.pop("_packed", None)
            for hook in self._hooks:
                hook.remove()
            self._uninstall()
        return self.model

    def __enter__(self) -> Acceleration:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.restore()

    def __str__(self) -> str:
        lines = [f"{name}: {kind}" for name, kind in self.replaced.items()]
        lines.append(f"scaled_dot_product_attention: {self.attention_calls} calls so far")
        return "\n".join(["marey runs", *lines])


def _install(change: int) -> None:
    """Put our attention where models look for torch's, while any model is accelerated."""
    global _installed
    with _lock:
        _installed += change
        ours = _attention if _installed > 0 else _torch_attention
        torch.nn.functional.scaled_dot_product_attention = ours


def accelerate(model: torch.nn.Module) -> Acceleration:
    """Let marey run what it runs faster, in place.

    Modules keep their parameters, their hooks and their place: only their class changes, to one of
    `marey.torch.nn`. Calls of ``scaled_dot_product_attention`` within the model go to marey too.
    Results are equal to rounding, and gradients flow as before. Without gradients weights are
    packed once, and again when they change, as far as that can be seen (docs/torch.md).

    Linear layers become marey's on machines where those are faster, which is measured once, with
    the type of their weights. Normalisations stay torch's, which are as fast.

    Parameters
    ----------
    model : torch.nn.Module
        Any model; only modules whose class is exactly torch's are replaced.

    Returns
    -------
    Acceleration
        Says what was replaced (print it); its ``restore()`` undoes it, as leaving a ``with`` block
        does.

    Examples
    --------
    >>> import torch, marey.torch
    >>> model = torch.nn.Sequential(torch.nn.Conv3d(3, 8, 3), torch.nn.ReLU())
    >>> with marey.torch.accelerate(model) as acceleration:
    ...     y = model(torch.ones(1, 3, 5, 6, 7))
    >>> acceleration.replaced
    {'0': 'Conv3d'}
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"[marey.torch.accelerate] model: expected a torch.nn.Module; found "
            f"{type(model).__name__}"
        )
    return Acceleration(model)
