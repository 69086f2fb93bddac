"""The same names as marey, in plain NumPy: what the kernels are tested against, and for reading.

Nothing here imports the compiled extension or any other module of marey. Every function computes
in float64, whatever its input's dtype, unless told otherwise: with ``dtype=np.float32`` it is the
plain float32 computation, whose error is the yardstick for a float32 kernel's.
"""

from marey.reference import (
    attention,
    background,
    conv,
    magnification,
    phase,
    pulse,
    pyramid,
    recurrent,
    steerable,
    temporal,
)
from marey.reference.magnification import magnify

__all__ = [
    "attention",
    "background",
    "conv",
    "magnification",
    "magnify",
    "phase",
    "pulse",
    "pyramid",
    "recurrent",
    "steerable",
    "temporal",
]
