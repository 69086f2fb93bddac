"""The real inputs: the folder MAREY_DATA, or shared/data beside the repository."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

FOLDER = Path(os.environ.get("MAREY_DATA", Path(__file__).parents[2] / "shared" / "data"))


def video(name: str) -> NDArray[Any]:
    """Decode a whole video to (T, H, W, 3) uint8; skips the benchmark where the file is absent."""
    av = pytest.importorskip("av")
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"{name} is not in {FOLDER}: set MAREY_DATA to the folder that has it")
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
