"""marey: fast kernels for video and temporal models.

A video is a space-time array, ``(T, H, W)`` or ``(T, H, W, C)``. The families of operations are the
modules `marey.pyramid`, `marey.temporal`, `marey.conv` and `marey.attention`; on the first two stand motion and
modules `marey.pyramid`, `marey.temporal`, `marey.recurrent` and `marey.attention`; on the first two stand motion and
colour magnification (`Magnifier`, `magnify`), the pulse from video (`marey.pulse`) and background
subtraction (`marey.background`). `marey.reference` has the same functions in plain NumPy, for
reading and for checking.
"""

import importlib

from marey import attention, background, config, conv, pulse, pyramid, temporal
from marey import attention, background, config, pulse, pyramid, recurrent, temporal
from marey.magnification import Magnifier, magnify

__version__: str = config.build_config()["version"]


def __getattr__(name: str) -> object:
    """Import on first use what not every program needs."""
    if name in ("reference", "synthetic", "video"):
        return importlib.import_module(f"marey.{name}")
    raise AttributeError(f"module 'marey' has no attribute {name!r}")


__all__ = [
    "Magnifier",
    "__version__",
    "attention",
    "background",
    "config",
    "conv",
    "magnify",
    "pulse",
    "pyramid",
    "recurrent",
    "temporal",
]
