"""The one place that knows arrays on CUDA devices: CuPy's, and torch's CUDA tensors.

Pointers, shapes and strides are read without a copy and without waiting for the device. Results
and workspace come from the library whose arrays came in, and kernels go on its current stream.
`Kernels` has the functions of the module `marey._cpu` that run on a device too, with the same
arguments.
"""

from __future__ import annotations

import importlib
import math
import sys
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["BFLOAT16", "DeviceArray", "Library", "cuda_module", "kernels", "library_of", "take"]

Shape = tuple[int, ...]


class _BFloat16:
    """What stands for the type where NumPy has none."""

    name = "bfloat16"
    itemsize = 2
    kind = "V"

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__


BFLOAT16 = _BFloat16()


class Library(Protocol):
    """What marey needs of a library whose arrays lie on CUDA devices."""

    def owns(self, array: Any) -> bool:
        """Whether `array` is this library's, and on a CUDA device."""

    def describe(self, array: Any) -> tuple[int, Any, Shape, Shape, int]:
        """Return the pointer, dtype, shape, strides in bytes and device of `array`."""

    def empty(self, shape: Shape, dtype: Any, device: int) -> Any:
        """Return a new C-ordered array."""

    def zeros(self, shape: Shape, dtype: Any, device: int) -> Any:
        """Return a new C-ordered array of zeros."""

    def copy(self, array: Any) -> Any:
        """Return a C-ordered copy."""

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any:
        """Join arrays along an axis."""

    def broadcast(self, array: Any, shape: Shape) -> Any:
        """Return a view of this shape."""

    def put(self, array: np.ndarray[Any, Any], device: int) -> Any:
        """Copy a NumPy array to a device."""

    def stream(self, device: int) -> int:
        """Return the current stream of a device."""


class _Torch:
    def __init__(self, torch: ModuleType) -> None:
        self._torch: Any = torch
        self._dtypes = {
            torch.uint8: np.dtype(np.uint8),
            torch.float32: np.dtype(np.float32),
            torch.float64: np.dtype(np.float64),
            torch.bool: np.dtype(np.bool_),
            torch.bfloat16: BFLOAT16,
        }
        self._of = {dtype: ours for ours, dtype in self._dtypes.items()}

    def owns(self, array: Any) -> bool:
        return isinstance(array, self._torch.Tensor) and array.is_cuda

    def describe(self, array: Any) -> tuple[int, Any, Shape, Shape, int]:
        if array.requires_grad and self._torch.is_grad_enabled():
            raise TypeError("a tensor that requires grad (detach it)")
        if array.dtype not in self._dtypes or array.is_neg():
            raise TypeError(str(array.dtype))
        item = array.element_size()
        strides = tuple(item * stride for stride in array.stride())
        shape = tuple(array.shape)
        return array.data_ptr(), self._dtypes[array.dtype], shape, strides, array.device.index

    def empty(self, shape: Shape, dtype: Any, device: int) -> Any:
        return self._torch.empty(shape, dtype=self._of[dtype], device=f"cuda:{device}")

    def zeros(self, shape: Shape, dtype: Any, device: int) -> Any:
        return self._torch.zeros(shape, dtype=self._of[dtype], device=f"cuda:{device}")

    def copy(self, array: Any) -> Any:
        return array.clone(memory_format=self._torch.contiguous_format)

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any:
        return self._torch.cat(list(arrays), axis)

    def broadcast(self, array: Any, shape: Shape) -> Any:
        return self._torch.broadcast_to(array, shape)

    def put(self, array: np.ndarray[Any, Any], device: int) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).to(f"cuda:{device}")

    def stream(self, device: int) -> int:
        return int(self._torch.cuda.current_stream(device).cuda_stream)


class _Cupy:
    def __init__(self, cupy: ModuleType) -> None:
        self._cupy: Any = cupy

    def owns(self, array: Any) -> bool:
        return isinstance(array, self._cupy.ndarray)

    def describe(self, array: Any) -> tuple[int, Any, Shape, Shape, int]:
        dtype = BFLOAT16 if array.dtype.name == "bfloat16" else array.dtype
        return int(array.data.ptr), dtype, array.shape, array.strides, int(array.device.id)

    def _numpy_dtype(self, dtype: Any) -> Any:
        if dtype is not BFLOAT16:
            return dtype
        import ml_dtypes  # that of the arrays that came in

        return np.dtype(ml_dtypes.bfloat16)

    def empty(self, shape: Shape, dtype: Any, device: int) -> Any:
        with self._cupy.cuda.Device(device):
            return self._cupy.empty(shape, self._numpy_dtype(dtype))

    def zeros(self, shape: Shape, dtype: Any, device: int) -> Any:
        with self._cupy.cuda.Device(device):
            return self._cupy.zeros(shape, self._numpy_dtype(dtype))

    def copy(self, array: Any) -> Any:
        with array.device:
            return array.copy(order="C")

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any:
        with arrays[0].device:
            return self._cupy.concatenate(list(arrays), axis)

    def broadcast(self, array: Any, shape: Shape) -> Any:
        return self._cupy.broadcast_to(array, shape)

    def put(self, array: np.ndarray[Any, Any], device: int) -> Any:
        with self._cupy.cuda.Device(device):
            return self._cupy.asarray(array)

    def stream(self, device: int) -> int:
        with self._cupy.cuda.Device(device):
            return int(self._cupy.cuda.get_current_stream().ptr)


_ADAPTERS: dict[str, tuple[Any, str]] = {"torch": (_Torch, "Tensor"), "cupy": (_Cupy, "ndarray")}
_libraries: dict[str, Library] = {}


def library_of(array: Any) -> Library | None:
    """Return the library of an array on a CUDA device; None for anything else."""
    for kind in type(array).__mro__:
        name = kind.__module__.partition(".")[0]
        if name not in _libraries and name in _ADAPTERS:
            adapter, attribute = _ADAPTERS[name]
            module = sys.modules.get(name)
            if module is None or not hasattr(module, attribute):
                continue
            _libraries[name] = adapter(module)
        if name in _libraries:
            library = _libraries[name]
            return library if library.owns(array) else None
    return None


class DeviceArray:
    """An array on a device, and what the compiled module needs to know of it.

    Attributes
    ----------
    array
        The library's own array: what is returned to the caller.
    view : (pointer, dtype name, shape, strides)
        For the compiled module.
    """

    __slots__ = ("array", "device", "dtype", "library", "shape", "view")

    def __init__(self, library: Library, array: Any) -> None:
        pointer, self.dtype, self.shape, strides, self.device = library.describe(array)
        self.array = array
        self.library = library
        self.view = (pointer, self.dtype.name, self.shape, strides)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def queue(self) -> tuple[int, int]:
        """The device and its current stream."""
        return self.device, self.library.stream(self.device)

    def empty(self, shape: Shape, dtype: Any = None) -> DeviceArray:
        """Return a new array beside this one."""
        made = self.library.empty(shape, self.dtype if dtype is None else dtype, self.device)
        return DeviceArray(self.library, made)

    def zeros(self, shape: Shape, dtype: Any) -> DeviceArray:
        """Return a new array of zeros beside this one."""
        return DeviceArray(self.library, self.library.zeros(shape, dtype, self.device))

    def workspace(self, nbytes: int) -> tuple[Any, int]:
        """Return memory, which must be held until the kernel is launched, and its address.

        Freed memory is handed out again in the order of the stream, so that need be no longer.
        """
        if nbytes == 0:
            return None, 0
        held = self.empty((nbytes,), np.dtype(np.uint8))
        return held, held.view[0]

    def swapaxes(self, first: int, second: int) -> DeviceArray:
        """Return a view."""
        return DeviceArray(self.library, self.array.swapaxes(first, second))

    def __getitem__(self, index: tuple[slice, ...]) -> DeviceArray:
        """Return a view."""
        return DeviceArray(self.library, self.array[index])

    def broadcast(self, shape: Shape) -> DeviceArray:
        """Return a view of this shape; a ValueError if there is none."""
        try:
            return DeviceArray(self.library, self.library.broadcast(self.array, shape))
        except RuntimeError as error:  # torch's
            raise ValueError(str(error)) from None

    def copy(self) -> DeviceArray:
        """Return a C-ordered copy."""
        return DeviceArray(self.library, self.library.copy(self.array))


def take(function: str, argument: str, array: Any, library: Library) -> DeviceArray:
    """Return a library's array as a `DeviceArray`."""
    try:
        return DeviceArray(library, array)
    except TypeError as error:
        raise TypeError(
            f"[{function}] {argument}: expected an array of uint8, float32, float64 or bfloat16; "
            f"found {error}"
        ) from None


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
        "conv3d",
        "CellWeights (LSTM, GRU, RNN, forward)",
        "attention (sm90)",
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


def _float_type(x: DeviceArray) -> Any:
    return np.dtype(np.float32) if x.dtype == np.uint8 else x.dtype


def _host(array: np.ndarray[Any, Any]) -> tuple[int, str, Shape, Shape]:
    """Return few numbers on the host, which the compiled module reads at the launch."""
    return array.ctypes.data, array.dtype.name, array.shape, array.strides


def _beside(function: str, argument: str, array: Any, x: DeviceArray) -> DeviceArray:
    """Return an argument that must lie on the device of `x`."""
    if not isinstance(array, DeviceArray) or array.device != x.device:
        where = f"on CUDA device {array.device}" if isinstance(array, DeviceArray) else "on the CPU"
        raise TypeError(
            f"[{function}] {argument}: expected an array on CUDA device {x.device}, as the others; "
            f"found one {where}"
        )
    return array


def _result(
    function: str, out: Any, x: DeviceArray, shape: Shape | None = None, dtype: Any = None
) -> DeviceArray:
    """Return `out`, which the compiled module checks, or a new array."""
    if out is None:
        return x.empty(x.shape if shape is None else shape, dtype)
    return _beside(function, "out", out, x)


class Kernels:
    """The functions of `marey._cpu`, for arrays on a device."""

    def __init__(self, module: Any) -> None:
        self._cuda = module

    def sosfilt(
        self,
        sos: np.ndarray[Any, Any],
        x: DeviceArray,
        axis: int,
        zi: DeviceArray | None,
        out: DeviceArray | None,
        zf: DeviceArray | None,
    ) -> Any:
        function = "marey.sosfilt"
        y = _result(function, out, x, dtype=_float_type(x))
        if zi is None:
            self._cuda.sosfilt(_host(sos), x.view, axis, y.view, None, None, x.queue)
            return y.array
        zi = _beside(function, "zi", zi, x)
        zf = zi.empty(zi.shape) if zf is None else _beside(function, "zf", zf, x)
        self._cuda.sosfilt(_host(sos), x.view, axis, y.view, zi.view, zf.view, x.queue)
        return y.array, zf.array

    def sosfiltfilt(
        self,
        sos: np.ndarray[Any, Any],
        x: DeviceArray,
        axis: int,
        padtype: str,
        padlen: int,
        zi: np.ndarray[Any, Any],
        out: DeviceArray | None,
    ) -> Any:
        y = _result("marey.sosfiltfilt", out, x, dtype=_float_type(x))
        steady = np.ascontiguousarray(zi, np.float64)
        size = self._cuda.sosfiltfilt_workspace(x.view, axis, padlen, len(sos))
        held, memory = x.workspace(size)
        self._cuda.sosfiltfilt(
            _host(sos), x.view, axis, y.view, padtype, padlen, _host(steady), memory, x.queue
        )
        del held
        return y.array

    def convolve(
        self,
        function: str,
        x: DeviceArray,
        axis: int,
        taps: np.ndarray[Any, Any],
        before: int,
        mode: str,
        cval: float,
        history: DeviceArray | None,
        out: DeviceArray | None,
    ) -> Any:
        y = _result(function, out, x, dtype=_float_type(x))
        past = None if history is None else _beside(function, "state", history, x).view
        self._cuda.convolve(
            function, x.view, axis, _host(taps), before, mode, cval, past, y.view, x.queue
        )
        return y.array

    def median_filter(
        self,
        function: str,
        x: DeviceArray,
        axis: int,
        size: int,
        before: int,
        mode: str,
        cval: float,
        history: DeviceArray | None,
        out: DeviceArray | None,
    ) -> Any:
        y = _result(function, out, x)
        past = None if history is None else _beside(function, "state", history, x).view
        self._cuda.median_filter(
            function, x.view, axis, size, before, mode, cval, past, y.view, x.queue
        )
        return y.array

    def median(self, x: DeviceArray, axis: int, out: DeviceArray | None) -> Any:
        axis %= x.ndim
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        y = _result("marey.median", out, x, shape, _float_type(x))
        self._cuda.median(x.view, axis, y.view, x.queue)
        return y.array

    def down(self, image: DeviceArray, channel_axis: int | None, out: DeviceArray | None) -> Any:
        function = "marey.down"
        shape = self._cuda.pyramid_shapes(function, image.view, 1, channel_axis)[1]
        y = _result(function, out, image, shape)
        self._cuda.down(function, image.view, channel_axis, y.view, image.queue)
        return y.array

    def up(
        self,
        image: DeviceArray,
        height: int | None,
        width: int | None,
        channel_axis: int | None,
        out: DeviceArray | None,
    ) -> Any:
        (shape,) = self._cuda.up_shape(image.view, height, width, channel_axis)
        y = _result("marey.up", out, image, shape)
        self._cuda.up(image.view, height, width, channel_axis, y.view, image.queue)
        return y.array

    def _levels(
        self,
        function: str,
        image: DeviceArray,
        shapes: Sequence[Shape],
        dtype: Any,
        out: Sequence[DeviceArray] | None,
    ) -> list[DeviceArray]:
        if out is None:
            return [image.empty(shape, dtype) for shape in shapes]
        if len(out) != len(shapes):
            raise ValueError(f"[{function}] out: expected {len(shapes)} arrays; found {len(out)}")
        return [_beside(function, "out", array, image) for array in out]

    def gaussian(
        self,
        image: DeviceArray,
        levels: int,
        channel_axis: int | None,
        out: Sequence[DeviceArray] | None,
    ) -> list[Any]:
        function = "marey.gaussian"
        shapes = self._cuda.pyramid_shapes(function, image.view, levels, channel_axis)
        pyramid = self._levels(function, image, shapes, image.dtype, out)
        pyramid[0].array[...] = image.array
        for fine, coarse in zip([image, *pyramid[1:-1]], pyramid[1:], strict=False):
            self._cuda.down(function, fine.view, channel_axis, coarse.view, image.queue)
        return [level.array for level in pyramid]

    def laplacian(
        self,
        image: DeviceArray,
        levels: int,
        channel_axis: int | None,
        out: Sequence[DeviceArray] | None,
    ) -> list[Any]:
        function = "marey.laplacian"
        shapes = self._cuda.pyramid_shapes(function, image.view, levels, channel_axis)
        dtype = _float_type(image)
        bands = self._levels(function, image, shapes, dtype, out)
        if levels == 0:
            bands[0].array[...] = image.array
            return [bands[0].array]
        between = [image.empty(shape, dtype) for shape in shapes[1:-1]]
        self._cuda.laplacian(
            image.view,
            channel_axis,
            [band.view for band in bands],
            [level.view for level in between],
            image.queue,
        )
        return [band.array for band in bands]

    def collapse(
        self, bands: Sequence[DeviceArray], channel_axis: int | None, out: DeviceArray | None
    ) -> Any:
        function = "marey.collapse"
        first = bands[0]
        for k, band in enumerate(bands):
            _beside(function, f"bands[{k}]", band, first)
        y = _result(function, out, first)
        if len(bands) == 1:
            y.array[...] = first.array
            return y.array
        between = [first.empty(band.shape) for band in bands[1:-1]]
        self._cuda.collapse(
            [band.view for band in bands],
            channel_axis,
            [level.view for level in between],
            y.view,
            first.queue,
        )
        return y.array

    def attention(
        self,
        q: DeviceArray,
        k: DeviceArray,
        v: DeviceArray,
        mask: DeviceArray | None,
        bias: DeviceArray | None,
        scale: float,
        softcap: float,
        left: int | None,
        right: int | None,
        alignment: int,
        return_lse: bool,
        out: DeviceArray | None,
    ) -> Any:
        function = "marey.attention"
        if q.ndim < 3 or v.ndim < 1:
            raise ValueError(f"[{function}] q: expected shape (..., h, L, D); found {q.shape}")
        others = {"k": k, "v": v, "mask": mask, "bias": bias}
        views = {
            argument: None if array is None else _beside(function, argument, array, q).view
            for argument, array in others.items()
        }
        y = _result(function, out, q, (*q.shape[:-1], v.shape[-1]))
        double = q.dtype == np.float64
        lse = None
        if return_lse:
            lse = q.empty(q.shape[:-1], np.dtype(np.float64 if double else np.float32))
        self.last_kernel = self._cuda.attention(
            q.view,
            **views,
            scale=scale,
            softcap=softcap,
            left=left,
            right=right,
            alignment=alignment,
            out=y.view,
            lse=None if lse is None else lse.view,
            queue=q.queue,
        )
        return y.array if lse is None else (y.array, lse.array)

    def CellWeights(self, *arguments: Any) -> CellWeights:  # noqa: N802
        return CellWeights(self._cuda, *arguments)

    def Conv3d(self, *arguments: Any) -> Conv3d:  # noqa: N802 (the name in marey._cpu)
        return Conv3d(self._cuda, *arguments)


class Conv3d:
    """The class of `marey._cpu`, for weights on a device: nothing is packed."""

    def __init__(
        self,
        module: Any,
        function: str,
        weight: DeviceArray,
        bias: DeviceArray | None,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        channels_last: bool,
        activation: int,
        algorithm: int,
    ) -> None:
        self._cuda = module
        self._function = function
        # Copies, as on the CPU: what becomes of the caller's arrays does not matter.
        self._weight = weight.copy()
        self._bias = None if bias is None else _beside(function, "bias", bias, weight).copy()
        self._options = (stride, padding, dilation, groups, channels_last, activation)
        del algorithm  # there is one

    def __call__(self, x: DeviceArray, past: DeviceArray | None, out: DeviceArray | None) -> Any:
        function = self._function
        _beside(function, "x", x, self._weight)
        arguments = (
            function,
            x.view,
            None if past is None else _beside(function, "state", past, x).view,
            self._weight.view,
            None if self._bias is None else self._bias.view,
            *self._options,
        )
        shape = tuple(self._cuda.conv3d_shape(*arguments))
        y = _result(function, out, x, shape)
        self._cuda.conv3d(*arguments, y.view, x.queue)
        return y.array

    def packed_bytes(self) -> int:
        return int(self._weight.size * self._weight.dtype.itemsize)

    def workspace(self, shape: list[int]) -> int:
        del shape
        return 0


class CellWeights:
    """The class of `marey._cpu`, for weights on a device: nothing is packed."""

    def __init__(
        self,
        module: Any,
        function: str,
        cell: int,
        weight_ih: DeviceArray,
        weight_hh: DeviceArray,
        bias_ih: DeviceArray | None,
        bias_hh: DeviceArray | None,
        peephole: DeviceArray | None,
        weight_hr: DeviceArray | None = None,
        layer_norm: Any = None,
    ) -> None:
        refused = {"peephole": peephole, "weight_hr": weight_hr, "layer_norm": layer_norm}
        for argument, given_one in refused.items():
            if given_one is not None:
                raise ValueError(
                    f"[{function}] {argument}: expected None on a CUDA device; found one"
                )
        self._cuda = module
        self._cell = cell
        named = {"weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
        given = {k: v for k, v in named.items() if v is not None}
        held = {k: _beside(function, k, v, weight_ih).copy() for k, v in given.items()}
        self._held = [weight_ih.copy(), *(held.get(k) for k in named)]
        self._views = [None if array is None else array.view for array in self._held]
        self.hidden = int(module.recurrent_check(function, cell, *self._views))
        self.state = self.hidden
        self.input = weight_ih.shape[1]

    def run(
        self,
        function: str,
        x: DeviceArray,
        h0: DeviceArray | None,
        c0: DeviceArray | None,
        lengths: np.ndarray[Any, Any] | None,
        reverse: bool,
        keep: bool,
        out: DeviceArray | None,
    ) -> Any:
        if keep:
            raise ValueError(
                f"[{function}] keep: expected False on a CUDA device, which has no gradients yet; "
                "found True"
            )
        weight = self._held[0]
        assert weight is not None
        _beside(function, "x", x, weight)
        size = self._cuda.recurrent_workspace(function, self._cell, *self._views[:2], x.view)
        steps, rows = x.shape[:2]
        y = _result(function, out, x, (steps, rows, self.hidden))
        double = x.dtype == np.float64
        dtype = {"h0": x.dtype, "c0": np.dtype(np.float64 if double else np.float32)}
        states = {}
        for argument, state in (("h0", h0), ("c0", c0)):
            if state is None:
                states[argument] = x.zeros((rows, self.hidden), dtype[argument])
                continue
            _beside(function, argument, state, x)
            if state.shape != (rows, self.hidden):
                raise ValueError(
                    f"[{function}] {argument}: expected shape {(rows, self.hidden)}; "
                    f"found {state.shape}"
                )
            if state.dtype != dtype[argument]:
                raise TypeError(
                    f"[{function}] {argument}: expected {dtype[argument]}; found {state.dtype}"
                )
            states[argument] = state.copy()
        other = x.empty((rows, self.hidden))
        held, gates = x.workspace(size)
        ends = None
        if lengths is not None:
            if lengths.shape != (rows,) or ((lengths < 0) | (lengths > steps)).any():
                raise ValueError(
                    f"[{function}] lengths: expected {rows} integers of 0 to {steps}; "
                    f"found {lengths}"
                )
            ends = x.library.put(np.ascontiguousarray(lengths).view(np.uint8), x.device)
        is_lstm = self._cell == 0
        self._cuda.recurrent(
            function,
            self._cell,
            *self._views,
            x.view,
            0 if ends is None else DeviceArray(x.library, ends).view[0],
            reverse,
            y.view,
            states["h0"].view[0],
            other.view[0],
            states["c0"].view[0] if is_lstm else 0,
            gates,
            x.queue,
        )
        del held, ends
        last = other if steps % 2 else states["h0"]
        return y.array, last.array, states["c0"].array if is_lstm else None, None


class LinearMagnifier:
    """The class of `marey._cpu`, for frames on a device: made for those that come first."""

    def __init__(self, like: DeviceArray, **options: Any) -> None:
        self._like = like.empty((0,))
        self._channels = options["channels"]
        self._base = options["base_level"]
        self._gaussian = options["gaussian"]
        self._sections = len(options["sos"]) // 6
        self._magnifier = _module.LinearMagnifier(**options)
        self._state: DeviceArray | None = None
        self.workspace_bytes = 0

    def feed(self, frames: DeviceArray, out: DeviceArray | None) -> Any:
        function = "marey.Magnifier"
        _beside(function, "frames", frames, self._like)
        self._magnifier.check(frames.view)
        y = _result(function, out, frames)
        if frames.size == 0:
            return y.array
        float32 = np.dtype(np.float32)
        _, *levels = self._magnifier.levels(frames.shape[0])
        filtered = [frames.empty(shape, float32) for shape in levels]
        top = self._base - 1 if self._gaussian else len(levels) - 1
        amplified = [frames.empty(shape, float32) for shape in levels[:top]]
        series = math.prod(levels[self._base - 1][1:])
        after = frames.empty((self._sections, 2, series), float32)
        self._magnifier.feed(
            frames.view,
            y.view,
            [level.view for level in filtered],
            [level.view for level in amplified],
            None if self._state is None else self._state.view,
            after.view,
            frames.queue,
        )
        self._state = after
        held = [*filtered, *amplified, after, after]
        self.workspace_bytes = sum(4 * array.size for array in held)
        return y.array

    @property
    def state(self) -> Any:
        return None if self._state is None else self._state.copy().array

    @state.setter
    def state(self, value: Any) -> None:
        if value is None:
            self._state = None
            return
        function = "marey.Magnifier"
        series = math.prod(self._magnifier.levels(1)[self._base][1:])
        shape = (self._sections, 2, series)
        if value.shape != shape:
            raise ValueError(
                f"[{function}] state: expected shape {shape}; found {tuple(value.shape)}"
            )
        library = library_of(value)
        if library is None:
            if value.dtype != np.float32 or not np.isfinite(value).all():
                raise ValueError(f"[{function}] state: expected finite float32 values")
            value = self._like.library.put(value, self._like.device)
            library = self._like.library
        given = take(function, "state", value, library)
        if given.dtype != np.float32:
            raise TypeError(f"[{function}] state: expected float32; found {given.dtype}")
        self._state = _beside(function, "state", given, self._like).copy()
