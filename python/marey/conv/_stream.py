"""Causal convolution, of streams too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from marey._arrays import from_numpy_like, plain, to_array_like, zeros_like
from marey.conv._conv3d import _optional, _Packed

if TYPE_CHECKING:
    from marey.conv._options import Activation, Layout, Numbers, Options, Padding


class CausalConv3d(_Packed):
    """A causal convolution whose weights are packed once, to be called chunk by chunk.

    Parameters
    ----------
    weight, bias, stride, padding, dilation, groups, layout, activation
        As for `causal_conv3d`.
    algorithm
        As for `conv3d`.

    Raises
    ------
    TypeError, ValueError
        As `causal_conv3d`.

    Notes
    -----
    The object keeps nothing of a stream: several may be fed by turns, or by several threads at
    once. The frames of a state of NumPy may lie in the reverse order in memory (a negative stride).
    In float32 `conv3d` may take tiles of AMX where this takes multiply-adds; the two then differ by
    rounding.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> weight = rng.standard_normal((16, 8, 3, 3, 3), dtype=np.float32)
    >>> conv = marey.conv.CausalConv3d(weight, padding=(0, 1, 1))
    >>> state = None
    >>> for frame in rng.standard_normal((5, 1, 8, 1, 28, 28), dtype=np.float32):
    ...     y, state = conv(frame, state)
    >>> y.shape, state.shape
    ((1, 16, 1, 28, 28), (1, 8, 2, 28, 28))
    """

    _name = "marey.CausalConv3d"
    _by_frames = True

    def _checked(self, checked: Options, _filters: Any, _padding: Padding) -> Options:
        if checked.stride[0] != 1:
            raise ValueError(
                f"[{self._name}] stride: expected 1 along time, so that any chunking gives the "
                f"same result; found {checked.stride}"
            )
        if _padding not in ("same", "valid") and checked.padding[:2] != (0, 0):
            raise ValueError(
                f"[{self._name}] padding: expected 0 along time, where the frames before x stand; "
                f"found {_padding!r}"
            )
        self._kept = (_filters.shape[2] - 1) * checked.dilation[0]
        self._time = 1 if checked.channels_last else 2
        return checked._replace(padding=(0, 0, *checked.padding[2:]))

    def __call__(self, x: Any, state: Any = None, *, out: Any = None) -> tuple[Any, Any]:
        """Convolve the next frames of a stream.

        Parameters
        ----------
        x : array
            As for `causal_conv3d`; may be one frame, or none.
        state : array, optional
            What the call for the frames before returned; None at the start.
        out : array, optional
            As for `conv3d`.

        Returns
        -------
        y, state
            As from `causal_conv3d`.
        """
        source = to_array_like(self._name, "x", x, self._like)
        if source.ndim != 5:
            raise ValueError(f"[{self._name}] x: expected five axes; found shape {source.shape}")
        past = _optional(self._name, "state", state, source)
        shape = list(source.shape)
        shape[self._time] = self._kept
        if past is not None and past.shape != tuple(shape):
            raise ValueError(
                f"[{self._name}] state: expected shape {tuple(shape)} for x of shape "
                f"{source.shape}; found {past.shape}"
            )
        if past is None:
            past = zeros_like(source, tuple(shape), source.dtype)
        target = _optional(self._name, "out", out, source)
        # Few libraries but NumPy take arrays whose items lie in the reverse order.
        y, kept = self._packed.stream(source, past, target, isinstance(x, np.ndarray))
        convert = from_numpy_like(x)
        following = convert(plain(kept))
        if isinstance(following, np.ndarray):
            following.flags.writeable = False  # other states have its frames too
        return (convert(y) if out is None else out), following


class _CausalCall(CausalConv3d):
    """The same, for one call of the function."""

    _name = "marey.causal_conv3d"


def causal_conv3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    state: Any = None,
    stride: Numbers = 1,
    padding: Padding = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    layout: Layout = "NCTHW",
    activation: Activation = None,
) -> tuple[Any, Any]:
    """Convolve so that no result sees a later frame, chunk by chunk if need be.

    The frames before `x` are read where they lie, in `state`: nothing is concatenated. Any chunking
    gives the result of one call.

    Parameters
    ----------
    x : array, (N, C, T, H, W) or (N, T, H, W, C)
        By `layout`, as for `conv3d`.
    weight, bias, dilation, groups, layout, activation
        As for `conv3d`.
    state : array, optional
        The ``(kT - 1) * dilation`` frames before `x`, in its layout and type. Default zeros.
    stride : int or (int, int, int)
        1 along time.
    padding : (int, int, int), three pairs, int 0, "same" or "valid"
        Of H and W, as for `conv3d`; 0 along time. ``"same"`` keeps H and W.

    Returns
    -------
    y : array
        With as many frames as `x`.
    state : array
        For the next call: the last frames seen, copied from `x`. States may share frames, so that
        one frame more copies one frame: none is written to while a state has it. Any may be kept
        and be gone on from again. NumPy's are read-only, and their frames may lie the other way
        round in memory, by a negative stride; copy another library's before writing.

    Raises
    ------
    TypeError, ValueError
        As `conv3d`; and for a stride or padding along time.

    Notes
    -----
    The weights are packed at each call; `CausalConv3d` packs them once.

    Examples
    --------
    >>> import marey, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> clip = rng.standard_normal((1, 8, 6, 28, 28), dtype=np.float32)
    >>> weight = rng.standard_normal((16, 8, 3, 3, 3), dtype=np.float32)
    >>> first, state = marey.conv.causal_conv3d(clip[:, :, :4], weight, padding=(0, 1, 1))
    >>> rest, state = marey.conv.causal_conv3d(
    ...     clip[:, :, 4:], weight, state=state, padding=(0, 1, 1)
    ... )
    >>> first.shape, rest.shape
    ((1, 16, 4, 28, 28), (1, 16, 2, 28, 28))
    """
    conv = _CausalCall(
        weight,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        layout=layout,
        activation=activation,
    )
    return conv(x, state)
