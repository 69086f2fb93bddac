"""The one place that knows arrays on CUDA devices: CuPy's, and torch's CUDA tensors.

Pointers, shapes and strides are read without a copy and without waiting for the device. Results
and workspace come from the library whose arrays came in, and kernels go on its current stream.
`Kernels` has the functions of the module `marey._cpu` that run on a device too, with the same
arguments.
"""

from __future__ import annotations

import importlib
from typing import Any

from marey._device._adapters import BFLOAT16, Library, _libraries, library_of
from marey._device._arrays import DeviceArray, take
from marey._device._attention import AttentionKernels
from marey._device._conv import Conv3d, ConvKernels
from marey._device._magnification import LinearMagnifier
from marey._device._pyramid import PyramidKernels
from marey._device._recurrent import CellWeights, RecurrentKernels
from marey._device._temporal import TemporalKernels

__all__ = [
    "BFLOAT16",
    "KERNELS_LAST_RUN",
    "DeviceArray",
    "Library",
    "LinearMagnifier",
    "_libraries",
    "build_info",
    "cuda_module",
    "kernels",
    "library_of",
    "take",
]

_COMPILED = "compiled, not yet run"
# When each kernel last passed bench/gpu_gate.py: device, date, commit. Nobody claims what no device
# has shown.
KERNELS_LAST_RUN = dict.fromkeys(
    (
        "sosfilt",
        "sosfiltfilt",
        "convolve",
        "median_filter",
        "median",
        "down",
        "up",
        "laplacian",
        "collapse",
        "LinearMagnifier",
        "attention (generic)",
        "attention (sm90)",
        "attention_varlen",
        "attention_backward, attention_varlen_backward (generic)",
        "attention_backward (sm90)",
        "conv3d, causal_conv3d (generic)",
        "conv3d, causal_conv3d (sm90)",
        "conv3d_backward",
        "CellWeights (LSTM, GRU, RNN, a launch for each step)",
        "CellWeights (LSTM, GRU, RNN, a sequence in one launch)",
        "recurrent_backward (a launch for each step)",
        "recurrent_backward (a sequence in one launch)",
    ),
    _COMPILED,
)


def _import_cuda() -> Any:
    try:
        return importlib.import_module("marey._cuda")
    except ImportError:
        return None


_module: Any = _import_cuda()


def cuda_module() -> Any:
    """Return the compiled module of CUDA kernels; None where it is not built."""
    return _module


def build_info() -> dict[str, Any] | None:
    """Describe the module of CUDA kernels and what it finds; None where it is not built."""
    if _module is None:
        return None
    info = _module.build_info() if hasattr(_module, "build_info") else {}
    why = _module.why_no_device()
    return {**info, "devices": _module.device_count(), "why_no_device": why or None}


def kernels(function: str) -> Kernels:
    """Return the functions that run on a device, or say why there are none."""
    if _module is None:
        raise RuntimeError(
            f"[{function}] expected a build of marey with CUDA kernels for an array on a CUDA "
            "device; found one without (build where nvcc is on the PATH, or with "
            "-C cmake.define.MAREY_CUDA=ON to see why it is not found)"
        )
    return Kernels(_module)


class Kernels(TemporalKernels, PyramidKernels, AttentionKernels, ConvKernels, RecurrentKernels):
    """The functions and classes of `marey._cpu`, for arrays on a device."""

    def __init__(self, module: Any) -> None:
        self._cuda = module

    def CellWeights(self, *arguments: Any) -> CellWeights:  # noqa: N802 (the name in marey._cpu)
        return CellWeights(self._cuda, *arguments)

    def Conv3d(self, *arguments: Any) -> Conv3d:  # noqa: N802
        return Conv3d(self._cuda, *arguments)

    def LinearMagnifier(self, like: DeviceArray, **options: Any) -> LinearMagnifier:  # noqa: N802
        return LinearMagnifier(self._cuda, like, **options)
