"""OpenCV: BackgroundSubtractorMOG2, and a difference from a picture."""

from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import pytest

from bench.background.workloads import (
    HISTORY,
    INITIAL,
    LEAST,
    LIMIT,
    MOST,
    THRESHOLD,
    WORKLOADS,
    Video,
    rates,
    shares,
)
from bench.harness import Peer, Program, Workload

cv2 = pytest.importorskip("cv2")


def new() -> Any:
    model = cv2.createBackgroundSubtractorMOG2(HISTORY, LIMIT, False)
    model.setVarInit(INITIAL)
    model.setVarMin(LEAST)
    model.setVarMax(MOST)
    return model


def mixture(at_once: int) -> Callable[[Video], Program]:
    def prepare(video: Video) -> Program:
        model, mask = new(), np.empty(video.shape[1:3], np.uint8)
        following = cycle(video)

        def call() -> None:
            for _ in range(at_once):
                model.apply(next(following), mask, 1 / HISTORY)

        def result() -> Video:
            other = new()
            pairs = zip(video, rates(len(video)), strict=True)
            return shares(
                np.stack([other.apply(frame, learningRate=rate) for frame, rate in pairs])
            )

        for frame, rate in zip(video, rates(len(video)), strict=True):
            model.apply(frame, mask, rate)
        return Program(call, result=result)

    return prepare


def difference(video: Video) -> Program:
    def call() -> Video:
        far = cv2.absdiff(video[1], video[0])
        largest = cv2.max(
            cv2.max(cv2.extractChannel(far, 0), cv2.extractChannel(far, 1)),
            cv2.extractChannel(far, 2),
        )
        mask: Video = cv2.threshold(largest, THRESHOLD, 1, cv2.THRESH_BINARY)[1]
        return mask

    return Program(call)


OPENCV = Peer(
    name="OpenCV",
    version=cv2.__version__,
    set_threads=cv2.setNumThreads,
    programs={"mixture": mixture(1), "mixture_8": mixture(8), "difference": difference},
)


@pytest.mark.parametrize("workload", OPENCV.among(WORKLOADS), ids=str)
def bench_opencv(race: Callable[..., None], workload: Workload) -> None:
    race(workload, OPENCV)
