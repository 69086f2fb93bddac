"""The complex steerable pyramid of a 540x960 image: four octaves, eight orientations."""

from typing import Any

import numpy as np
from marey.pyramid import SteerableCoefficients, SteerablePyramid
from numpy.typing import NDArray

from bench.harness import Program, Workload

SHAPE = (540, 960)
LEVELS, ORIENTATIONS = 4, 8
# marey computes in float32, pyrtools in float64 with masks from tables. Coefficients of the
# coarsest octave are the largest.
TOLERANCE = {"build": 2e-3, "collapse": 1e-4}

Image = NDArray[Any]


def image() -> tuple[Image]:
    return (np.random.default_rng(0).random(SHAPE),)


def flat(coefficients: SteerableCoefficients) -> list[Image]:
    """As float64 and complex128, to be compared."""
    bands = [band.astype(np.complex128) for band in coefficients.bands]
    residuals = [
        array.astype(np.float64) for array in (coefficients.highpass, coefficients.lowpass)
    ]
    return [part for band in bands for part in (band.real, band.imag)] + residuals


def build(double: Image) -> Program:
    pyramid = SteerablePyramid(SHAPE, ORIENTATIONS, LEVELS)
    single = double.astype(np.float32)
    return Program(lambda: pyramid.build(single), result=lambda: flat(pyramid.build(single)))


def build_into(double: Image) -> Program:
    pyramid = SteerablePyramid(SHAPE, ORIENTATIONS, LEVELS)
    single = double.astype(np.float32)
    out = pyramid.build(single)
    return Program(
        lambda: pyramid.build(single, out=out), result=lambda: flat(pyramid.build(single, out=out))
    )


def collapse(double: Image) -> Program:
    pyramid = SteerablePyramid(SHAPE, ORIENTATIONS, LEVELS)
    coefficients = pyramid.build(double.astype(np.float32))
    return Program(
        lambda: pyramid.collapse(coefficients),
        result=lambda: pyramid.collapse(coefficients).astype(np.float64),
    )


# Complex coefficients written, or read; the image read, or written.
_MOVED = sum(8 * ORIENTATIONS * (SHAPE[0] >> k) * (SHAPE[1] >> k) for k in range(LEVELS))
_MOVED += 4 * 2 * SHAPE[0] * SHAPE[1]

WORKLOADS = [
    Workload(
        f"steerable {name}, float32",
        f"steerable_{operation}",
        image,
        ours,
        amount=float(_MOVED),
        unit="GB/s",
        tolerance=TOLERANCE[operation],
    )
    for name, operation, ours in (
        ("build", "build", build),
        ("build, out given", "build", build_into),
        ("collapse", "collapse", collapse),
    )
]
