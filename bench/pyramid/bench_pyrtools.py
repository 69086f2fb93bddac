"""pyrtools: SteerablePyramidFreq. Building one makes its masks each time: it has no other way."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest

from bench.harness import Peer, Program, Workload
from bench.pyramid.steerable import LEVELS, ORIENTATIONS, WORKLOADS, Image

pyrtools = pytest.importorskip("pyrtools")


def _pyramid(image: Image):  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pyrtools.pyramids.SteerablePyramidFreq(
            image, LEVELS, ORIENTATIONS - 1, is_complex=True
        )


def _flat(image: Image) -> list[Image]:
    coefficients = _pyramid(image).pyr_coeffs
    bands = [
        np.stack([coefficients[level, k] for k in range(ORIENTATIONS)]) for level in range(LEVELS)
    ]
    residuals = [coefficients["residual_highpass"], coefficients["residual_lowpass"]]
    return [part for band in bands for part in (band.real, band.imag)] + residuals


def build(image: Image) -> Program:
    return Program(lambda: _pyramid(image), result=lambda: _flat(image))


def collapse(image: Image) -> Program:
    pyramid = _pyramid(image)
    return Program(pyramid.recon_pyr)


PYRTOOLS = Peer(
    name="pyrtools",
    version=pyrtools.__version__,
    programs={"steerable_build": build, "steerable_collapse": collapse},
)


@pytest.mark.parametrize("workload", PYRTOOLS.among(WORKLOADS), ids=str)
def bench_pyrtools(race: Callable[..., None], workload: Workload) -> None:
    race(workload, PYRTOOLS)
