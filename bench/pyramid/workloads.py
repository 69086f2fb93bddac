"""Pyramids of one full-HD colour frame of white noise, the hardest case for rounding."""

from typing import Any

import numpy as np
from marey import pyramid
from numpy.typing import NDArray

from bench.harness import Program, Workload

FINE, COARSE = (1080, 1920, 3), (540, 960, 3)
LEVELS = 4
# OpenCV adds in another order; uint8 is exact integers in both.
TOLERANCE = {"float32": 2e-6, "uint8": 0}

Image = NDArray[Any]


def image(shape: tuple[int, ...], dtype: str) -> Image:
    rng = np.random.default_rng(0)
    if dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.random(shape, np.float32)


def bands() -> list[Image]:
    return pyramid.laplacian(image(FINE, "float32"), LEVELS)


def down(fine: Image) -> Program:
    return Program(lambda: pyramid.down(fine))


def down_into(fine: Image) -> Program:
    out = np.empty(COARSE, fine.dtype)
    return Program(lambda: pyramid.down(fine, out=out))


def up(coarse: Image) -> Program:
    return Program(lambda: pyramid.up(coarse))


def up_into(coarse: Image) -> Program:
    out = np.empty(FINE, coarse.dtype)
    return Program(lambda: pyramid.up(coarse, out=out))


def laplacian(fine: Image) -> Program:
    return Program(lambda: pyramid.laplacian(fine, LEVELS))


def laplacian_into(fine: Image) -> Program:
    out = pyramid.laplacian(fine, LEVELS)
    return Program(lambda: pyramid.laplacian(fine, LEVELS, out=out))


def collapse(bands: list[Image]) -> Program:
    return Program(lambda: pyramid.collapse(bands))


def collapse_into(bands: list[Image]) -> Program:
    out = np.empty(FINE, np.float32)
    return Program(lambda: pyramid.collapse(bands, out=out))


def _resampling(dtype: str) -> list[Workload]:
    moved = (np.prod(FINE) + np.prod(COARSE)) * np.dtype(dtype).itemsize
    rest: dict[str, Any] = {"amount": float(moved), "unit": "GB/s", "tolerance": TOLERANCE[dtype]}
    fine, coarse = (lambda: (image(FINE, dtype),)), (lambda: (image(COARSE, dtype),))
    return [
        Workload(f"down {dtype}", "down", fine, down, **rest),
        Workload(f"down {dtype}, out given", "down_into", fine, down_into, **rest),
        Workload(f"up {dtype}", "up", coarse, up, **rest),
        Workload(f"up {dtype}, out given", "up_into", coarse, up_into, **rest),
    ]


def _laplacian() -> list[Workload]:
    sizes = [(-(-FINE[0] // 2**level)) * (-(-FINE[1] // 2**level)) for level in range(LEVELS + 1)]
    moved = (sizes[0] + sum(sizes)) * FINE[2] * 4
    rest: dict[str, Any] = {
        "amount": float(moved),
        "unit": "GB/s",
        "tolerance": TOLERANCE["float32"],
    }
    build, rebuild = (lambda: (image(FINE, "float32"),)), (lambda: (bands(),))
    return [
        Workload("laplacian float32", "laplacian", build, laplacian, **rest),
        Workload("laplacian float32, out given", "laplacian_into", build, laplacian_into, **rest),
        Workload("collapse float32", "collapse", rebuild, collapse, **rest),
        Workload("collapse float32, out given", "collapse_into", rebuild, collapse_into, **rest),
    ]


WORKLOADS = [*_resampling("float32"), *_resampling("uint8"), *_laplacian()]
