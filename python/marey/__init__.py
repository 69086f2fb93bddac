"""marey: fast kernels for video and temporal models.

A video is a space-time array, ``(T, H, W)`` or ``(T, H, W, C)``. The families of operations are the
modules `marey.pyramid`, `marey.temporal`, `marey.conv`, `marey.recurrent` and `marey.attention`; on
the first two stand motion and colour magnification (`Magnifier`, `magnify`), the pulse from video
(`marey.pulse`) and background subtraction (`marey.background`). `marey.reference` has the same
functions in plain NumPy, for reading and for checking.
"""

import importlib
from pathlib import Path

from marey import attention, background, config, conv, pulse, pyramid, recurrent, temporal
from marey.magnification import Magnifier, magnify

__version__: str = config.build_config()["version"]


def get_include() -> str:
    """Return the folder of the headers: ``marey/marey.hpp`` for C++, ``marey/marey.h`` for C."""
    return _installed("include")


def get_cmake_dir() -> str:
    """Return the folder for ``marey_DIR``, in which CMake finds the package ``marey``.

    ``find_package(marey)`` then gives the target ``marey::cpu``.
    """
    return _installed("cmake")


def _installed(folder: str) -> str:
    path = Path(__file__).parent / folder
    if not path.is_dir():
        raise FileNotFoundError(
            f"[marey] {path}: expected an installed package, which has it; found a source tree"
        )
    return str(path)


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
    "get_cmake_dir",
    "get_include",
    "magnify",
    "pulse",
    "pyramid",
    "recurrent",
    "temporal",
]
