"""Convolution on a device."""

from __future__ import annotations

from typing import Any

from marey._device._arrays import DeviceArray, beside, result


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
        by_frames: bool = False,
    ) -> None:
        self._cuda = module
        self._function = function
        # Copies, as on the CPU: what becomes of the caller's arrays does not matter.
        self._weight = weight.copy()
        self._bias = None if bias is None else beside(function, "bias", bias, weight).copy()
        self._options = (stride, padding, dilation, groups, channels_last, activation)
        del algorithm, by_frames  # there is one algorithm

    def __call__(self, x: DeviceArray, past: DeviceArray | None, out: DeviceArray | None) -> Any:
        function = self._function
        beside(function, "x", x, self._weight)
        arguments = (
            function,
            x.view,
            None if past is None else beside(function, "state", past, x).view,
            self._weight.view,
            None if self._bias is None else self._bias.view,
            *self._options,
        )
        shape = tuple(self._cuda.conv3d_shape(*arguments))
        y = result(function, out, x, shape)
        held, memory = x.workspace(self._workspace())
        self._cuda.conv3d(*arguments, y.view, memory, x.queue)
        del held
        return y.array

    def stream(
        self, x: DeviceArray, past: DeviceArray, out: DeviceArray | None, backwards: bool
    ) -> Any:
        """Return the result, and the last frames seen, as many as `past` has."""
        del backwards  # they are in order
        time = 1 if self._options[4] else 2
        frames, kept = x.shape[time], past.shape[time]
        y = self(x, past if frames else None, out)
        fresh = min(frames, kept)
        ahead = (slice(None),) * time
        parts = [past[(*ahead, slice(fresh, None))], x[(*ahead, slice(frames - fresh, None))]]
        return y, x.library.concatenate([part.array for part in parts], time)

    def packed_bytes(self) -> int:
        return int(self._weight.size * self._weight.dtype.itemsize)

    def workspace(self, shape: list[int]) -> int:
        del shape
        return self._workspace()

    def _workspace(self) -> int:
        """Return how many bytes the weights take once more, in another order."""
        return self.packed_bytes() if self._weight.dtype.name == "bfloat16" else 0


class ConvKernels:
    """Convolution on a device, under the names of `marey._cpu`."""

    _cuda: Any

    def conv3d_backward(
        self,
        grad: DeviceArray,
        x: DeviceArray,
        weight: DeviceArray,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        channels_last: bool,
        algorithm: int,
        needs: list[bool],
    ) -> Any:
        del algorithm  # there is one
        function = "marey.conv3d_backward"
        options = (stride, padding, dilation, groups, channels_last)
        views = (
            function,
            beside(function, "grad", grad, x).view,
            x.view,
            beside(function, "weight", weight, x).view,
            *options,
        )
        size = self._cuda.conv3d_backward_workspace(*views)
        held, memory = x.workspace(size)
        shapes = (x.shape, weight.shape, weight.shape[:1])
        made = [x.empty(shape) if need else None for shape, need in zip(shapes, needs, strict=True)]
        self._cuda.conv3d_backward(
            *views, *(None if g is None else g.view for g in made), memory, x.queue
        )
        del held
        return tuple(None if g is None else g.array for g in made)
