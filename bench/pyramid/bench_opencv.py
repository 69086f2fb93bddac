"""OpenCV: pyrDown, pyrUp, and the Laplacian pyramid that is made of them."""

from collections.abc import Callable

import numpy as np
import pytest

from bench.harness import Peer, Program, Workload
from bench.pyramid import riesz
from bench.pyramid.workloads import COARSE, FINE, LEVELS, WORKLOADS, Image

cv2 = pytest.importorskip("cv2")


def size(image: Image) -> tuple[int, int]:
    """As OpenCV wants it: width first."""
    return image.shape[1], image.shape[0]


def down(fine: Image) -> Program:
    return Program(lambda: cv2.pyrDown(fine))


def down_into(fine: Image) -> Program:
    out = np.empty(COARSE, fine.dtype)
    return Program(lambda: cv2.pyrDown(fine, dst=out))


def up(coarse: Image) -> Program:
    return Program(lambda: cv2.pyrUp(coarse))


def up_into(coarse: Image) -> Program:
    out = np.empty(FINE, coarse.dtype)
    return Program(lambda: cv2.pyrUp(coarse, dst=out))


def laplacian(fine: Image) -> Program:
    def build() -> list[Image]:
        bands, image = [], fine
        for _ in range(LEVELS):
            coarse = cv2.pyrDown(image)
            expanded = cv2.pyrUp(coarse, dstsize=size(image))
            bands.append(cv2.subtract(image, expanded, dst=expanded))
            image = coarse
        return [*bands, image]

    return Program(build)


def laplacian_into(fine: Image) -> Program:
    coarser = [fine]
    for _ in range(LEVELS):
        coarser.append(cv2.pyrDown(coarser[-1]))
    bands = [np.empty_like(image) for image in coarser[:-1]]

    def build() -> list[Image]:
        for image, coarse, band in zip(coarser, coarser[1:], bands, strict=False):
            cv2.pyrDown(image, dst=coarse)
            cv2.pyrUp(coarse, dst=band, dstsize=size(image))
            cv2.subtract(image, band, dst=band)
        return [*bands, coarser[-1]]

    return Program(build)


def collapse(bands: list[Image]) -> Program:
    def rebuild() -> Image:
        image = bands[-1]
        for band in reversed(bands[:-1]):
            expanded = cv2.pyrUp(image, dstsize=size(band))
            image = cv2.add(expanded, band, dst=expanded)
        return image

    return Program(rebuild)


def collapse_into(bands: list[Image]) -> Program:
    outs = [np.empty_like(band) for band in bands[:-1]]

    def rebuild() -> Image:
        image = bands[-1]
        for band, out in zip(reversed(bands[:-1]), reversed(outs), strict=True):
            cv2.pyrUp(image, dst=out, dstsize=size(band))
            image = cv2.add(out, band, dst=out)
        return image

    return Program(rebuild)


def riesz_build(image: Image) -> Program:
    """The Laplacian pyramid, and differences of three taps with reflected borders."""
    taps = np.float32(0.5**0.5) * np.array([1, 0, -1], np.float32)
    none = np.ones(1, np.float32)

    def build() -> list[Image]:
        *bands, residual = laplacian(image).call()
        border = cv2.BORDER_REFLECT_101
        x = [cv2.sepFilter2D(band, -1, taps, none, borderType=border) for band in bands]
        y = [cv2.sepFilter2D(band, -1, none, taps, borderType=border) for band in bands]
        return [*bands, residual, *x, *y]

    return Program(build)


OPENCV = Peer(
    name="OpenCV",
    version=cv2.__version__,
    set_threads=cv2.setNumThreads,
    programs={
        "down": down,
        "down_into": down_into,
        "up": up,
        "up_into": up_into,
        "laplacian": laplacian,
        "laplacian_into": laplacian_into,
        "collapse": collapse,
        "collapse_into": collapse_into,
        "riesz_build": riesz_build,
    },
)


@pytest.mark.parametrize("workload", OPENCV.among([*WORKLOADS, *riesz.WORKLOADS]), ids=str)
def bench_opencv(race: Callable[..., None], workload: Workload) -> None:
    race(workload, OPENCV)
