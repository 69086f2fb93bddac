"""Filters along time on a device."""

from __future__ import annotations

from typing import Any

import numpy as np

from marey._device._arrays import DeviceArray, beside, float_type, host, result


class TemporalKernels:
    """Filters along time on a device, under the names of `marey._cpu`."""

    _cuda: Any

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
        y = result(function, out, x, dtype=float_type(x))
        if zi is None:
            self._cuda.sosfilt(host(sos), x.view, axis, y.view, None, None, x.queue)
            return y.array
        zi = beside(function, "zi", zi, x)
        zf = zi.empty(zi.shape) if zf is None else beside(function, "zf", zf, x)
        self._cuda.sosfilt(host(sos), x.view, axis, y.view, zi.view, zf.view, x.queue)
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
        y = result("marey.sosfiltfilt", out, x, dtype=float_type(x))
        steady = np.ascontiguousarray(zi, np.float64)
        size = self._cuda.sosfiltfilt_workspace(x.view, axis, padlen, len(sos))
        held, memory = x.workspace(size)
        self._cuda.sosfiltfilt(
            host(sos), x.view, axis, y.view, padtype, padlen, host(steady), memory, x.queue
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
        y = result(function, out, x, dtype=float_type(x))
        past = None if history is None else beside(function, "state", history, x).view
        self._cuda.convolve(
            function, x.view, axis, host(taps), before, mode, cval, past, y.view, x.queue
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
        y = result(function, out, x)
        past = None if history is None else beside(function, "state", history, x).view
        self._cuda.median_filter(
            function, x.view, axis, size, before, mode, cval, past, y.view, x.queue
        )
        return y.array

    def median(self, x: DeviceArray, axis: int, out: DeviceArray | None) -> Any:
        axis %= x.ndim
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        y = result("marey.median", out, x, shape, float_type(x))
        self._cuda.median(x.view, axis, y.view, x.queue)
        return y.array
