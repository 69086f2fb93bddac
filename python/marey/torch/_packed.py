"""Weights in the order that kernels read them, kept until the tensors change."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

import torch

from marey import _cpu
from marey.attention import Linear
from marey.torch._operation import straight, to_array, to_tensor, wants_gradient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from torch import Tensor

    Array = np.ndarray[Any, Any]


class Packed:
    """What `make` made of some tensors; made again when one of them is changed or replaced.

    A tensor counts its changes, but not those by way of its ``data``, of an array that shares its
    memory, or under ``torch.inference_mode``. So some numbers of each are compared, too. They are
    views: what was packed stays in memory, whose address no other tensor can get meanwhile.
    """

    def __init__(self) -> None:
        self._kept: dict[Any, tuple[Any, list[Array], bytes, Any]] = {}

    def get(self, which: Any, tensors: Sequence[Tensor | None], make: Callable[[], Any]) -> Any:
        """Return what belongs to `which`, made of the tensors as they are now."""
        state = (_cpu.active_isa(), *[_state(tensor) for tensor in tensors])
        kept = self._kept.get(which)
        if kept is None or kept[0] != state or kept[2] != _numbers(kept[1]):
            samples = [_sample(tensor) for tensor in tensors if tensor is not None]
            kept = (state, samples, _numbers(samples), make())
            self._kept[which] = kept
        return kept[3]

    def __getstate__(self) -> dict[str, Any]:
        """Copies of a module, and modules from a file, pack their own."""
        return {"_kept": {}}

    def __deepcopy__(self, memo: Any) -> Packed:
        """Return one that holds nothing yet."""
        return Packed()


def _state(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.shape


_SAMPLES = 16


def _sample(tensor: Tensor) -> Array:
    """Return a view of some numbers from all over a tensor."""
    flat = to_array(tensor)
    if not tensor.is_contiguous():
        return flat[tuple([slice(None, None, max(n - 1, 1)) for n in flat.shape])]
    flat = flat.reshape(-1)
    return flat[:: max(-(-flat.size // _SAMPLES), 1)]


def _numbers(samples: Sequence[Array]) -> bytes:
    return b"".join([sample.tobytes() for sample in samples])


DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def on_cpu(tensor: Tensor) -> bool:
    """Return whether there are kernels for this tensor."""
    return tensor.device.type == "cpu" and tensor.dtype in DTYPES


def eager(*tensors: Tensor | None) -> bool:
    """Return whether a call may go `straight` to kernels, with tensors of one type."""
    given = [tensor for tensor in tensors if tensor is not None]
    return straight(given) and {tensor.dtype for tensor in given} == {given[0].dtype}


def without_gradient(*tensors: Tensor | None) -> bool:
    """Return whether kernels can be called at once: `eager`, and no gradient is wanted."""
    return not wants_gradient(*tensors) and eager(*tensors)


def packed_linear(
    module: torch.nn.Module,
    which: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    **options: Any,
) -> Tensor:
    """Compute a linear layer whose weight `module` keeps packed; where `without_gradient`."""
    layer = module.__dict__.setdefault("_packed", Packed()).get(
        which,
        (weight, bias),
        lambda: Linear(to_array(weight), None if bias is None else to_array(bias)),
    )
    return to_tensor(layer(to_array(x), **options))


@functools.cache
def linear_is_faster(dtype: torch.dtype) -> bool:
    """Return whether marey's linear layers beat torch's on this machine: measured once, in 30 ms.

    Which one wins depends on the processor and on the library that torch was built with.
    """
    rows, size = 512, 768
    x, weight = torch.ones(rows, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    layer = Linear(to_array(weight))
    array = to_array(x)
    with torch.no_grad():
        calls: tuple[Callable[[], Any], ...] = (
            lambda: layer(array),
            lambda: torch.nn.functional.linear(x, weight),
        )
        seconds = [[_seconds(call) for call in calls] for _ in range(5)]
    ours, theirs = (min(column) for column in zip(*seconds, strict=True))
    return ours < 0.95 * theirs


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
