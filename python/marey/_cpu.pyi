"""
The compiled kernels of marey. Private: use the functions of the marey package.
"""

from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing

__all__: list[str] = [
    "CellWeights",
    "Conv3d",
    "Linear",
    "LinearMagnifier",
    "Mixture",
    "PhaseMagnifier",
    "RieszMagnifier",
    "SortedWindow",
    "SteerablePyramidF32",
    "SteerablePyramidF64",
    "active_isa",
    "attention",
    "attention_backward",
    "attention_varlen",
    "attention_varlen_backward",
    "available_isas",
    "background_difference",
    "background_majority",
    "build_info",
    "c_api",
    "collapse",
    "compiled_isas",
    "conv3d_backward",
    "convolve",
    "derivative",
    "down",
    "down_adjoint",
    "empty_like",
    "gaussian",
    "global_avg_pool3d",
    "ideal_bandpass",
    "ideal_bandpass_cost",
    "ideal_bandpass_result",
    "kernels",
    "laplacian",
    "layer_norm",
    "layer_norm_backward",
    "linear",
    "linear_backward",
    "median",
    "median_filter",
    "num_threads",
    "patch_means",
    "pool3d",
    "pool3d_backward",
    "probe",
    "probe_team",
    "recurrent_backward",
    "recurrent_step",
    "riesz_transform",
    "rotary",
    "set_cache_limit",
    "set_isa",
    "set_num_threads",
    "set_thread_num_threads",
    "sosfilt",
    "sosfilt_zi",
    "sosfiltfilt",
    "trajectory_mean",
    "up",
    "up_adjoint",
    "vector_math",
]

class SteerablePyramidF32:
    def __init__(
        self, height: int, width: int, orientations: int, octaves: int, scales_per_octave: int
    ) -> None: ...
    def build(
        self, image: typing.Any, highpass: typing.Any, bands: list[typing.Any], lowpass: typing.Any
    ) -> None: ...
    def collapse(
        self, highpass: typing.Any, bands: list[typing.Any], lowpass: typing.Any, image: typing.Any
    ) -> None: ...
    @property
    def extents(self) -> list[tuple[int, int]]: ...

class SteerablePyramidF64:
    def __init__(
        self, height: int, width: int, orientations: int, octaves: int, scales_per_octave: int
    ) -> None: ...
    def build(
        self, image: typing.Any, highpass: typing.Any, bands: list[typing.Any], lowpass: typing.Any
    ) -> None: ...
    def collapse(
        self, highpass: typing.Any, bands: list[typing.Any], lowpass: typing.Any, image: typing.Any
    ) -> None: ...
    @property
    def extents(self) -> list[tuple[int, int]]: ...

class Conv3d:
    def __call__(
        self, x: typing.Any, past: typing.Any, out: typing.Any
    ) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
    def __init__(
        self,
        function: str,
        weight: typing.Any,
        bias: typing.Any,
        stride: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
        padding: typing.Annotated[collections.abc.Sequence[int], "FixedSize(6)"],
        dilation: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
        groups: int,
        channels_last: bool,
        activation: int,
        algorithm: int,
        by_frames: bool = False,
    ) -> None: ...
    def algorithm(self, shape: collections.abc.Sequence[int]) -> str: ...
    def packed_bytes(self) -> int: ...
    def separable(
        self, temporal: Conv3d, x: typing.Any, out: typing.Any
    ) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
    def stream(
        self, x: typing.Any, past: typing.Any, out: typing.Any, backwards: bool
    ) -> tuple[typing.Any, ...]: ...
    def workspace(self, shape: collections.abc.Sequence[int]) -> int: ...

class CellWeights:
    def __init__(
        self,
        function: str,
        cell: int,
        weight_ih: typing.Any,
        weight_hh: typing.Any,
        bias_ih: typing.Any,
        bias_hh: typing.Any,
        peephole: typing.Any,
        weight_hr: typing.Any = None,
        layer_norm: typing.Any = None,
    ) -> None: ...
    def run(
        self,
        function: str,
        x: typing.Any,
        h0: typing.Any,
        c0: typing.Any,
        lengths: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None,
        reverse: bool,
        keep: bool,
        out: typing.Any,
    ) -> tuple[typing.Any, ...]: ...
    @property
    def hidden(self) -> int: ...
    @property
    def input(self) -> int: ...
    @property
    def state(self) -> int: ...

class Linear:
    def __call__(
        self, x: typing.Any, activation: str | None, residual: typing.Any, out: typing.Any
    ) -> typing.Any: ...
    def __init__(self, weight: typing.Any, bias: typing.Any) -> None: ...

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

class Mixture:
    def __init__(
        self,
        *,
        height: int,
        width: int,
        channels: int,
        dtype: str,
        modes: int,
        threshold: float,
        match_threshold: float,
        background_ratio: float,
        initial_variance: float,
        minimum_variance: float,
        maximum_variance: float,
        complexity: float,
        darkest: float,
        shadows: bool,
    ) -> None: ...
    def background(self) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
    def feed(
        self,
        frames: typing.Any,
        rates: collections.abc.Sequence[float],
        shadow: int,
        foreground: int,
    ) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
    @property
    def state(self) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
    @state.setter
    def state(self, arg1: typing.Any) -> None: ...

class SortedWindow:
    def __init__(self, items: int, length: int, dtype: str) -> None: ...
    def clear(self) -> None: ...
    def median(self, out: typing.Any) -> None: ...
    def replace(self, entering: typing.Any, leaving: typing.Any) -> None: ...
    @property
    def count(self) -> int: ...

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

def active_isa() -> str: ...
def attention(
    q: typing.Any,
    k: typing.Any,
    v: typing.Any,
    mask: typing.Any,
    bias: typing.Any,
    scale: float,
    softcap: float,
    left: int | None,
    right: int | None,
    alignment: int,
    return_lse: bool,
    out: typing.Any,
    more_k: typing.Any = None,
    more_v: typing.Any = None,
) -> typing.Any: ...
def attention_backward(
    grad: typing.Any,
    q: typing.Any,
    k: typing.Any,
    v: typing.Any,
    out: typing.Any,
    lse: typing.Any,
    mask: typing.Any,
    bias: typing.Any,
    grad_bias: typing.Any,
    scale: float,
    softcap: float,
    left: int | None,
    right: int | None,
    alignment: int,
) -> typing.Any: ...
def attention_varlen(
    q: typing.Any,
    k: typing.Any,
    v: typing.Any,
    cu_seqlens_q: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
    cu_seqlens_k: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
    scale: float,
    softcap: float,
    left: int | None,
    right: int | None,
    alignment: int,
    return_lse: bool,
    out: typing.Any,
) -> typing.Any: ...
def attention_varlen_backward(
    grad: typing.Any,
    q: typing.Any,
    k: typing.Any,
    v: typing.Any,
    out: typing.Any,
    lse: typing.Any,
    cu_seqlens_q: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
    cu_seqlens_k: typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
    scale: float,
    softcap: float,
    left: int | None,
    right: int | None,
    alignment: int,
) -> typing.Any: ...
def available_isas() -> list[str]: ...
def background_difference(
    frames: typing.Any, background: typing.Any, threshold: float, foreground: int
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def background_majority(
    mask: typing.Any, size: int
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def build_info() -> dict[str, str]: ...
def collapse(
    bands: list[typing.Any], channel_axis: int | None, out: typing.Any
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def compiled_isas() -> list[str]: ...
def conv3d_backward(
    grad: typing.Any,
    x: typing.Any,
    weight: typing.Any,
    stride: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
    padding: typing.Annotated[collections.abc.Sequence[int], "FixedSize(6)"],
    dilation: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
    groups: int,
    channels_last: bool,
    algorithm: int,
    needs: typing.Annotated[collections.abc.Sequence[bool], "FixedSize(3)"],
) -> tuple[typing.Any, ...]: ...
def convolve(
    function: str,
    x: typing.Any,
    axis: int,
    taps: typing.Any,
    before: int,
    mode: str,
    cval: float,
    history: typing.Any,
    out: typing.Any,
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def derivative(
    x: typing.Any, axis: int, rate: float, out: typing.Any
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def down(
    image: typing.Any, channel_axis: int | None, out: typing.Any
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def down_adjoint(
    grad: typing.Any,
    height: int,
    width: int,
    channel_axis: int | None,
    add: typing.Any = None,
    weight: float = 1.0,
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def empty_like(x: typing.Any) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def gaussian(
    image: typing.Any, levels: int, channel_axis: int | None, out: typing.Any
) -> list[numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]]: ...
def global_avg_pool3d(
    x: typing.Any, channels_last: bool, out: typing.Any
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def ideal_bandpass(
    x: typing.Any, axis: int, first: int, last: int, out: typing.Any
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def ideal_bandpass_cost(steps: int, first: int, last: int) -> int: ...
def ideal_bandpass_result(
    x: typing.Any, out: typing.Any
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def kernels() -> dict[str, str]: ...
def laplacian(
    image: typing.Any, levels: int, channel_axis: int | None, out: typing.Any
) -> list[numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]]: ...
def layer_norm(
    x: typing.Any, weight: typing.Any, bias: typing.Any, eps: float, out: typing.Any
) -> typing.Any: ...
def layer_norm_backward(
    grad: typing.Any, x: typing.Any, weight: typing.Any, eps: float
) -> tuple[typing.Any, ...]: ...
def linear(
    x: typing.Any,
    weight: typing.Any,
    bias: typing.Any,
    activation: str | None,
    residual: typing.Any,
    out: typing.Any,
) -> typing.Any: ...
def linear_backward(
    grad: typing.Any,
    x: typing.Any,
    weight: typing.Any,
    needs_x: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[typing.Any, ...]: ...
def median(
    x: typing.Any, axis: int, out: typing.Any
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def median_filter(
    function: str,
    x: typing.Any,
    axis: int,
    size: int,
    before: int,
    mode: str,
    cval: float,
    history: typing.Any,
    out: typing.Any,
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def num_threads() -> int: ...
def patch_means(
    frames: typing.Any,
    row_edges: collections.abc.Sequence[int],
    column_edges: collections.abc.Sequence[int],
    mask: typing.Any,
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def pool3d(
    function: str,
    x: typing.Any,
    average: bool,
    kernel: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
    stride: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
    dilation: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
    before: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
    after: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
    ceil_mode: bool,
    count_include_pad: bool,
    channels_last: bool,
    out: typing.Any,
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def pool3d_backward(
    function: str,
    grad: typing.Any,
    x: typing.Any,
    shape: collections.abc.Sequence[int],
    kernel: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
    stride: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
    dilation: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
    before: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
    after: typing.Annotated[collections.abc.Sequence[int], "FixedSize(3)"],
    ceil_mode: bool,
    count_include_pad: bool,
    channels_last: bool,
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def probe() -> dict[str, typing.Any]: ...
def probe_team(threads: int, passes: int, late_every: int = 0) -> tuple[int, int, int]: ...
def recurrent_backward(
    function: str,
    cell: int,
    weights: tuple[typing.Any, ...],
    x: typing.Any,
    y: typing.Any,
    h0: typing.Any,
    c0: typing.Any,
    lengths: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None,
    reverse: bool,
    grad: typing.Any,
    grad_h: typing.Any,
    grad_c: typing.Any,
    kept: numpy.ndarray[typing.Any, numpy.dtype[typing.Any]],
) -> tuple[typing.Any, ...]: ...
def recurrent_step(
    function: str,
    cell: int,
    x: typing.Any,
    h: typing.Any,
    c: typing.Any,
    weight_ih: typing.Any,
    weight_hh: typing.Any,
    bias_ih: typing.Any,
    bias_hh: typing.Any,
    peephole: typing.Any,
    h_out: typing.Any,
    c_out: typing.Any,
) -> typing.Any: ...
def riesz_transform(band: typing.Any, x: typing.Any, y: typing.Any) -> None: ...
def rotary(
    x: typing.Any,
    cosine: typing.Any,
    sine: typing.Any,
    sections: collections.abc.Sequence[int],
    interleaved: bool,
    out: typing.Any,
) -> typing.Any: ...
def set_cache_limit(bytes: int) -> None: ...
def set_isa(isa: str) -> None: ...
def set_num_threads(count: int) -> None: ...
def set_thread_num_threads(count: int) -> int: ...
def sosfilt(
    sos: typing.Any, x: typing.Any, axis: int, zi: typing.Any, out: typing.Any, zf: typing.Any
) -> typing.Any: ...
def sosfilt_zi(
    function: str, sos: typing.Any
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def sosfiltfilt(
    sos: typing.Any,
    x: typing.Any,
    axis: int,
    padtype: str,
    padlen: int,
    zi: typing.Any,
    out: typing.Any,
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def trajectory_mean(
    x: typing.Any,
    weights: collections.abc.Sequence[float],
    mode: str,
    cval: float,
    vy: float,
    vx: float,
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def up(
    image: typing.Any,
    height: int | None,
    width: int | None,
    channel_axis: int | None,
    out: typing.Any,
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def up_adjoint(
    grad: typing.Any,
    height: int,
    width: int,
    channel_axis: int | None,
    add: typing.Any = None,
    weight: float = 1.0,
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...
def vector_math(
    function: str, x: typing.Any
) -> numpy.ndarray[typing.Any, numpy.dtype[typing.Any]]: ...

c_api: typing.Any
