"""What the programs made of OpenCV share: the constants of the published method."""

from typing import Any

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from bench.magnification.workloads import ALPHA, CHROMA, CUTOFF, FS, HIGH, LEVELS, LOW

# NTSC, to three digits as published.
RGB_FROM_YIQ = np.array([[1, 0.956, 0.621], [1, -0.272, -0.647], [1, -1.106, 1.703]])
YIQ_FROM_RGB = np.linalg.inv(RGB_FROM_YIQ)
ATTENUATE_CHROMA = np.diag([1.0, CHROMA, CHROMA])

SOS = scipy.signal.butter(1, [LOW, HIGH], "bandpass", fs=FS, output="sos").astype(np.float32)


def gains() -> list[float]:
    """Alpha for each band, attenuated below the cut-off wavelength; none for the finest."""
    delta = CUTOFF / (8 * (1 + ALPHA))
    wavelengths = [2 * np.sqrt(2) * 2**level for level in range(1, LEVELS)]
    return [0.0, *(float(np.clip(w / (8 * delta) - 1, 0, ALPHA)) for w in wavelengths)]


def size(image: NDArray[Any]) -> tuple[int, int]:
    """As OpenCV wants it: width first."""
    return image.shape[1], image.shape[0]
