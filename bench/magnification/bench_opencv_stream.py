"""OpenCV frame by frame, in constant memory: the fastest program we could write with it.

The result is the same, for it leaves out only what does not reach it: the finest band is neither
made nor filtered, the colours are transformed at half size (the transform and the pyramid commute),
alpha and chroma ride on coefficients, and the filter is its recursion in four calls a band.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import scipy.signal

from bench.harness import Peer, Workload
from bench.magnification import opencv, workloads
from bench.magnification.workloads import LEVELS, WORKLOADS, Video

cv2 = pytest.importorskip("cv2")

RGB_FROM_CHANGE = opencv.RGB_FROM_YIQ @ opencv.ATTENUATE_CHROMA


class BandFilter:
    """The band-pass of one band times its gain: one section, in direct form II transposed."""

    def __init__(self, first: Video, gain: float) -> None:
        b0, b1, b2, _, self.a1, self.a2 = opencv.SOS[0].tolist()
        self.b0, self.b1, self.b2 = gain * b0, gain * b1, gain * b2
        zi = scipy.signal.sosfilt_zi(opencv.SOS)[0].astype(np.float32)
        self.s0, self.s1 = first * (zi[0] * gain), first * (zi[1] * gain)
        self.y = np.empty_like(first)

    def __call__(self, x: Video) -> Video:
        cv2.scaleAdd(x, self.b0, self.s0, dst=self.y)
        cv2.addWeighted(x, self.b1, self.y, -self.a1, 0, dst=self.s0)
        cv2.add(self.s0, self.s1, dst=self.s0)
        cv2.addWeighted(x, self.b2, self.y, -self.a2, 0, dst=self.s1)
        return self.y


def magnify(chunks: Iterable[Video]) -> Iterator[Video]:
    filters: list[BandFilter] = []
    for chunk in chunks:
        out = np.empty_like(chunk)
        for frame, result in zip(chunk, out, strict=True):
            image = frame.astype(np.float32)
            bands = laplacian(cv2.transform(cv2.pyrDown(image), opencv.YIQ_FROM_RGB))
            if not filters:
                filters = [
                    BandFilter(*each) for each in zip(bands, opencv.gains()[1:], strict=True)
                ]
            filtered = [f(band) for f, band in zip(filters, bands, strict=True)]
            change = cv2.transform(collapse(filtered), RGB_FROM_CHANGE)
            change = cv2.pyrUp(change, dstsize=opencv.size(image))
            cv2.add(image, change, dst=result, dtype=cv2.CV_8U)
        yield out


def laplacian(fine: Video) -> list[Video]:
    """Bands 1 to LEVELS - 1 of a frame, from Gaussian level 1."""
    bands = []
    for _ in range(1, LEVELS):
        coarse = cv2.pyrDown(fine)
        expanded = cv2.pyrUp(coarse, dstsize=opencv.size(fine))
        bands.append(cv2.subtract(fine, expanded, dst=expanded))
        fine = coarse
    return bands


def collapse(bands: list[Video]) -> Video:
    image = bands[-1]
    for band in reversed(bands[:-1]):
        image = cv2.pyrUp(image, dstsize=opencv.size(band))
        cv2.add(image, band, dst=image)
    return image


def consume_synthetic(frames: int) -> None:
    """For measuring memory."""
    workloads.consume(magnify(workloads.synthetic(frames)))


OPENCV_STREAM = Peer(
    name="OpenCV, frame by frame",
    version=cv2.__version__,
    set_threads=cv2.setNumThreads,
    programs={"magnify": workloads.stream(magnify)},
)


@pytest.mark.parametrize("workload", OPENCV_STREAM.among(WORKLOADS), ids=str)
def bench_opencv_stream(race: Callable[..., None], workload: Workload) -> None:
    race(workload, OPENCV_STREAM)


def bench_opencv_stream_memory(record_peer_memory: Callable[[str, str, int], None]) -> None:
    record_peer_memory(OPENCV_STREAM.name, f"{__name__}:consume_synthetic", workloads.FRAMES)
