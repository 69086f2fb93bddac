"""
The compiled kernels of marey. Private: use the functions of the marey package.
"""

from __future__ import annotations
import collections.abc
import numpy
import typing

__all__: list[str] = [
    "LinearMagnifier",
    "PhaseMagnifier",
    "RieszMagnifier",
    "SteerablePyramidF32",
    "SteerablePyramidF64",
    "active_isa",
    "available_isas",
    "build_info",
    "collapse",
    "compiled_isas",
    "down",
    "gaussian",
    "kernels",
    "laplacian",
    "num_threads",
    "probe",
    "riesz_transform",
    "set_cache_limit",
    "set_isa",
    "set_num_threads",
    "set_thread_num_threads",
    "sosfilt",
    "up",
]

class LinearMagnifier:
    state: typing.Any
    def __init__(
        self,
        *,
        height: int,
        width: int,
        channels: int,
        dtype: str,
        base_level: int,
        alphas: collections.abc.Sequence[float],
        gaussian: bool,
        chroma: float,
        sos: collections.abc.Sequence[float],
        steady_zi: collections.abc.Sequence[float],
    ) -> None: ...
    def feed(
        self, frames: typing.Any, out: typing.Any
    ) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
    @property
    def workspace_bytes(self) -> int: ...

class PhaseMagnifier:
    state: typing.Any
    def __init__(
        self,
        *,
        height: int,
        width: int,
        channels: int,
        dtype: str,
        orientations: int,
        octaves: int,
        scales_per_octave: int,
        band: collections.abc.Sequence[float],
        fast: collections.abc.Sequence[float],
        alpha: float,
        smoothing: collections.abc.Sequence[float],
    ) -> None: ...
    def feed(
        self, frames: typing.Any, out: typing.Any
    ) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
    @property
    def workspace_bytes(self) -> int: ...

class RieszMagnifier:
    state: typing.Any
    def __init__(
        self,
        *,
        height: int,
        width: int,
        channels: int,
        dtype: str,
        levels: int,
        band: collections.abc.Sequence[float],
        fast: collections.abc.Sequence[float],
        alpha: float,
        smoothing: collections.abc.Sequence[float],
    ) -> None: ...
    def feed(
        self, frames: typing.Any, out: typing.Any
    ) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
    @property
    def workspace_bytes(self) -> int: ...

class SteerablePyramidF32:
    def __init__(
        self, height: int, width: int, orientations: int, octaves: int, scales_per_octave: int
    ) -> None: ...
    def build(
        self,
        image: typing.Any,
        highpass: typing.Any,
        bands: list[typing.Any],
        lowpass: typing.Any,
    ) -> None: ...
    def collapse(
        self,
        highpass: typing.Any,
        bands: list[typing.Any],
        lowpass: typing.Any,
        image: typing.Any,
    ) -> None: ...
    @property
    def extents(self) -> list[tuple[int, int]]: ...

class SteerablePyramidF64:
    def __init__(
        self, height: int, width: int, orientations: int, octaves: int, scales_per_octave: int
    ) -> None: ...
    def build(
        self,
        image: typing.Any,
        highpass: typing.Any,
        bands: list[typing.Any],
        lowpass: typing.Any,
    ) -> None: ...
    def collapse(
        self,
        highpass: typing.Any,
        bands: list[typing.Any],
        lowpass: typing.Any,
        image: typing.Any,
    ) -> None: ...
    @property
    def extents(self) -> list[tuple[int, int]]: ...

def active_isa() -> str: ...
def available_isas() -> list[str]: ...
def build_info() -> dict[str, str]: ...
def collapse(
    bands: list[typing.Any], channel_axis: int | None, out: typing.Any
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def compiled_isas() -> list[str]: ...
def down(
    image: typing.Any, channel_axis: int | None, out: typing.Any
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def gaussian(
    image: typing.Any, levels: int, channel_axis: int | None, out: typing.Any
) -> list[numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]]: ...
def kernels() -> dict[str, str]: ...
def laplacian(
    image: typing.Any, levels: int, channel_axis: int | None, out: typing.Any
) -> list[numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]]: ...
def num_threads() -> int: ...
def probe() -> dict[str, typing.Any]: ...
def riesz_transform(band: typing.Any, x: typing.Any, y: typing.Any) -> None: ...
def set_cache_limit(bytes: int) -> None: ...
def set_isa(isa: str) -> None: ...
def set_num_threads(count: int) -> None: ...
def set_thread_num_threads(count: int) -> int: ...
def sosfilt(
    sos: typing.Any, x: typing.Any, axis: int, zi: typing.Any, out: typing.Any, zf: typing.Any
) -> typing.Any: ...
def up(
    image: typing.Any,
    height: int | None,
    width: int | None,
    channel_axis: int | None,
    out: typing.Any,
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
