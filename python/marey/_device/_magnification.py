"""The magnifier on a device."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from marey._device._adapters import library_of
from marey._device._arrays import DeviceArray, beside, result, take


class LinearMagnifier:
    """The class of `marey._cpu`, for frames on a device: made for those that come first."""

    def __init__(self, module: Any, like: DeviceArray, **options: Any) -> None:
        self._like = like.empty((0,))
        self._channels = options["channels"]
        self._base = options["base_level"]
        self._gaussian = options["gaussian"]
        self._sections = len(options["sos"]) // 6
        self._magnifier = module.LinearMagnifier(**options)
        self._state: DeviceArray | None = None
        self.workspace_bytes = 0

    def feed(self, frames: DeviceArray, out: DeviceArray | None) -> Any:
        function = "marey.Magnifier"
        beside(function, "frames", frames, self._like)
        self._magnifier.check(frames.view)
        y = result(function, out, frames)
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
        self._state = beside(function, "state", given, self._like).copy()
