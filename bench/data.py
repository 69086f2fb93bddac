"""The real inputs, of MAREY_DATA or shared/data beside the repository; the size of made ones."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

FOLDER = Path(os.environ.get("MAREY_DATA", Path(__file__).parents[2] / "shared" / "data"))

COMPARED_ONLY = "MAREY_BENCH_COMPARED_ONLY"  # set where results are compared and nothing is timed


def frame_size(height: int, width: int, channels: int) -> tuple[int, int, int]:
    """The size of a frame to be timed; half as high and wide where results are only compared."""
    shrink = 2 if os.environ.get(COMPARED_ONLY) else 1
    return height // shrink, width // shrink, channels


def video(name: str) -> NDArray[Any]:
    """Decode a whole video to (T, H, W, 3) uint8; skips the benchmark where the file is absent."""
    av = pytest.importorskip("av")
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not in {FOLDER}: set MAREY_DATA to the folder that has it")
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
