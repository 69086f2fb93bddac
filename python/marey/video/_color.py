"""Between 8-bit RGB and the YUV of files, without bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

from marey.video._stream import FULL, MATRICES, ColorTags, Frames, Orientation

if TYPE_CHECKING:
    from numpy.typing import NDArray

# swscale's default (fast) paths are 1 to 1.5 levels too dark; these flags make it unbiased. By
# value, as PyAV 17 has no names for them: SWS_BICUBIC, SWS_ACCURATE_RND,
# SWS_FULL_CHR_H_INT, SWS_FULL_CHR_H_INP.
_SCALER = 0x4 | 0x40000 | 0x2000 | 0x4000


def pixels_of(plane: Any, dtype: type[np.generic] = np.uint8) -> NDArray[Any]:
    """A plane's pixels, (H, W), without the padding of its rows."""
    flat: NDArray[Any] = np.frombuffer(plane, dtype)
    return flat.reshape(plane.height, -1)[:, : plane.width]


class ToRgb:
    """Any decoded frame to 8-bit RGB."""

    def __init__(self, color: ColorTags, height: int, orientation: Orientation) -> None:
        self._matrix = MATRICES[color.resolved(height).matrix]
        self._range = ColorRange.JPEG if color.range == FULL else ColorRange.MPEG
        self._orientation = orientation
        self._scaler = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, out: Frames) -> None:
        # Planar RGB has a vectorised path in swscale that packed RGB lacks.
        planar = self._scaler.reformat(
            frame,
            format="gbrp",
            src_colorspace=self._matrix,
            src_color_range=self._range,
            dst_color_range=ColorRange.JPEG,
            interpolation=_SCALER,
            threads=1,
        )
        for plane, channel in zip(planar.planes, (1, 2, 0), strict=True):
            out[..., channel] = self._orientation.apply(pixels_of(plane))


class FromRgb:
    """8-bit RGB to a yuv420p frame."""

    def __init__(self, color: ColorTags, height: int) -> None:
        self._code = color.resolved(height).matrix
        self._full = color.range == FULL
        self._scaler = VideoReformatter()

    def __call__(self, rgb: Frames) -> av.VideoFrame:
        # swscale's own RGB to full-range chroma is half a level too low (up to FFmpeg 8.1):
        # so it converts to limited range in 16 bits, and the range is expanded here.
        source = av.VideoFrame.from_numpy_buffer(rgb, "rgb24")
        source.colorspace = self._code  # PyAV 17 takes BT.2020 from here only
        converted = self._scaler.reformat(
            source,
            format="yuv420p16le" if self._full else "yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_colorspace=MATRICES[self._code],
            dst_color_range=ColorRange.MPEG,
            interpolation=_SCALER,
            threads=1,
        )
        if not self._full:
            return converted
        frame = av.VideoFrame(converted.width, converted.height, "yuv420p")
        for index, (narrow, wide) in enumerate(zip(frame.planes, converted.planes, strict=True)):
            span, black, level = (219.0, 16.0, 0.0) if index == 0 else (224.0, 128.0, 128.0)
            codes = pixels_of(wide, np.uint16).astype(np.float32)
            codes *= 255.0 / span / 256.0
            codes += level - black * 255.0 / span + 0.5
            pixels_of(narrow)[...] = np.clip(codes, 0.0, 255.0, out=codes)
        return frame
