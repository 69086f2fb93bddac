"""Putting marey's kernels into a model that exists."""

from __future__ import annotations

import threading
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
_inside = threading.local()
_lock = threading.Lock()
_installed = 0


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
    depth = getattr(_inside, "depth", 0)
    work = query.numel() * (key.shape[-2] if key.dim() > 1 else 0)
    ours = depth > 0 and dropout_p == 0.0 and work >= _LEAST_WORK and on_cpu(query)
    if not ours or query.dim() < 3 or query.is_nested or key.dim() != query.dim():
        _calls(0)
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
    _calls(1)
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


def _calls(count: int) -> None:
    counter = getattr(_inside, "counter", None)
    if counter is not None:
        counter[0] += count


class Acceleration:
    """What `accelerate` did to a model, and how to undo it.

    Attributes
    ----------
    model : torch.nn.Module
        The model.
    replaced : dict of str to str
        The modules that marey runs now, by name, with their class.
    attention_calls : int
        How many calls of ``scaled_dot_product_attention`` went to marey so far.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.replaced: dict[str, str] = {}
        self._classes: list[tuple[torch.nn.Module, type[torch.nn.Module]]] = []
        self._counter = [0]
        for name, module in model.named_modules():
            ours = _CLASSES.get(type(module))
            if type(module) is torch.nn.Linear and on_cpu(module.weight):
                ours = nn.Linear if linear_is_faster(module.weight.dtype) else None
            if ours is not None:
                self._classes.append((module, type(module)))
                module.__class__ = ours
                self.replaced[name or "(the model)"] = ours.__name__
        self._hooks = [
            model.register_forward_pre_hook(self._enter),
            model.register_forward_hook(self._leave, always_call=True),
        ]
        self._active = True
        _install(1)

    def _enter(self, module: torch.nn.Module, arguments: Any) -> None:  # noqa: ARG002
        _inside.depth = getattr(_inside, "depth", 0) + 1
        _inside.counter = self._counter

    def _leave(self, module: torch.nn.Module, arguments: Any, output: Any) -> None:  # noqa: ARG002
        _inside.depth -= 1

    @property
    def attention_calls(self) -> int:
        """How many calls of ``scaled_dot_product_attention`` went to marey so far."""
        return self._counter[0]

    def restore(self) -> torch.nn.Module:
        """Give the model its own modules back, with the parameters that they have now.

        Returns
        -------
        torch.nn.Module
            The model.
        """
        if self._active:
            self._active = False
            for module, kind in self._classes:
                module.__class__ = kind
                module.__dict__.pop("_packed", None)
            for hook in self._hooks:
                hook.remove()
            _install(-1)
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
    packed once, and again when they change.

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
