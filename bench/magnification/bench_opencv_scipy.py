"""OpenCV's pyramids and SciPy's sosfilt over whole arrays: the published steps, each written well.

Float32 throughout, the large arrays filled in place, a filter one call on a whole level, no Python
loop below a frame. As in the published code every band is filtered, and the finest then amplified
by zero.
"""

from collections.abc import Callable

import numpy as np
import pytest
import scipy
import scipy.signal

from bench.harness import Peer, Program, Workload
from bench.magnification import opencv, workloads
from bench.magnification.workloads import LEVELS, WORKLOADS, Video

cv2 = pytest.importorskip("cv2")


def magnify(video: Video) -> Video:
    bands, residual = build(video)
    for band, gain in zip(bands, opencv.gains(), strict=True):
        filtered, _ = scipy.signal.sosfilt(opencv.SOS, band, axis=0, zi=from_rest(band))
        filtered *= (gain * np.diag(opencv.ATTENUATE_CHROMA)).astype(np.float32)
        band += filtered
    return rebuild(bands, residual)


def build(video: Video) -> tuple[list[Video], list[Video]]:
    """The Laplacian bands, (T, H, W, 3) in YIQ for each level, and the residual of each frame."""
    frames, height, width, _ = video.shape
    shapes = [(-(-height // 2**level), -(-width // 2**level), 3) for level in range(LEVELS)]
    bands = [np.empty((frames, *shape), np.float32) for shape in shapes]
    residual = []
    for t, frame in enumerate(video):
        fine = cv2.transform(frame.astype(np.float32), opencv.YIQ_FROM_RGB)
        for band in bands:
            coarse = cv2.pyrDown(fine)
            cv2.pyrUp(coarse, dst=band[t], dstsize=opencv.size(fine))
            cv2.subtract(fine, band[t], dst=band[t])
            fine = coarse
        residual.append(fine)
    return bands, residual


def from_rest(band: Video) -> Video:
    """The filter's state as if the first frame had always been there."""
    zi = scipy.signal.sosfilt_zi(opencv.SOS).astype(np.float32)
    state: Video = np.multiply.outer(zi, band[0])
    return state


def rebuild(bands: list[Video], residual: list[Video]) -> Video:
    """Collapse, back to RGB, rounded and clipped to uint8."""
    video = np.empty(bands[0].shape, np.uint8)
    for t, image in enumerate(residual):
        for band in reversed(bands):
            image = cv2.pyrUp(image, dstsize=opencv.size(band[t]))
            cv2.add(image, band[t], dst=image)
        image = cv2.transform(image, opencv.RGB_FROM_YIQ)
        cv2.add(image, 0.0, dst=video[t], dtype=cv2.CV_8U)
    return video


def consume_synthetic(frames: int) -> None:
    """For measuring memory: this program needs the whole video at once."""
    magnify(np.concatenate(list(workloads.synthetic(frames))))


OPENCV_SCIPY = Peer(
    name="OpenCV + SciPy, whole arrays",
    version=f"{cv2.__version__}, {scipy.__version__}",
    set_threads=cv2.setNumThreads,
    programs={"magnify": lambda video: Program(lambda: workloads.chunks(magnify(video)))},
)


@pytest.mark.parametrize("workload", OPENCV_SCIPY.among(WORKLOADS), ids=str)
def bench_opencv_scipy(race: Callable[..., None], workload: Workload) -> None:
    race(workload, OPENCV_SCIPY)


def bench_opencv_scipy_memory(record_peer_memory: Callable[[str, str, int], None]) -> None:
    record_peer_memory(OPENCV_SCIPY.name, f"{__name__}:consume_synthetic", workloads.FRAMES)
