"""What this build of marey is, and how many threads it uses.

The instruction set is chosen when marey is imported: the best that the processor has, or the one
that the environment variable ``MAREY_ISA`` names (``baseline``, ``avx2``, ``avx512``,
``avx512_bf16``, ``avx512_amx``). The last takes the tiles of Intel's AMX for matrix products and is
otherwise ``avx512_bf16``; it is there where the operating system lets the process use tiles. Tiles
multiply bfloat16. A float32 is exactly the sum of three of those, and six of the products of such
parts make one of float32, with an error below that of sums of fused multiply-adds; denormal parts,
products and results count as zero. So are multiplied linear layers, direct convolution with 64
filters or more, attention to 1024 keys or more, 2048 in a causal order or a window (not its
gradients), and what recurrent networks multiply for all steps at once.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from marey import _arguments, _cpu, _device

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "available_isas",
    "build_config",
    "get_num_threads",
    "set_cache_limit",
    "set_num_threads",
    "threads",
]

_MOST_THREADS = 1024  # OpenMP ends the process when it cannot start as many as it is asked for


def build_config() -> dict[str, Any]:
    """Describe this build and the machine it runs on.

    Returns
    -------
    dict
        ``version``, ``compiler``, ``build_type``, ``compiled_isas``, ``available_isas``, ``isa``
        (in use), ``threads`` (of a call made now), ``cuda`` (None without CUDA kernels, else how
        they were built and how many devices there are) and ``cuda_kernels`` (for each, when it last
        ran on a device, at which commit; or that it is only compiled).
    """
    return {
        **_cpu.build_info(),
        "compiled_isas": _cpu.compiled_isas(),
        "available_isas": _cpu.available_isas(),
        "isa": _cpu.active_isa(),
        "threads": _cpu.num_threads(),
        "cuda": _device.build_info(),
        "cuda_kernels": dict(_device.KERNELS_LAST_RUN),
    }


def available_isas() -> list[str]:
    """Return the instruction sets that are compiled in and that this processor has, worst first."""
    return _cpu.available_isas()


def _count(function: str, count: Any) -> int:
    return _arguments.integer(function, "count", count, 1, _MOST_THREADS)


def get_num_threads() -> int:
    """Return how many threads a call made now, from this thread, uses at most."""
    return _cpu.num_threads()


def set_num_threads(count: int | None) -> None:
    """Set how many threads marey uses, for the whole process.

    Parameters
    ----------
    count : int or None
        1 to 1024; None for what OpenMP says (``OMP_NUM_THREADS``, or one for each core), which is
        the default.

    Raises
    ------
    TypeError, ValueError
        If `count` is not an integer, or not in this range.
    """
    _cpu.set_num_threads(0 if count is None else _count("marey.config.set_num_threads", count))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use `count` threads for the calls made inside the ``with`` block, from this Python thread.

    Parameters
    ----------
    count : int
        1 to 1024.

    Raises
    ------
    TypeError, ValueError
        If `count` is not an integer, or not in this range.

    Examples
    --------
    >>> import marey
    >>> with marey.config.threads(1):
    ...     marey.config.get_num_threads()
    1
    """
    previous = _cpu.set_thread_num_threads(_count("marey.config.threads", count))
    try:
        yield
    finally:
        _cpu.set_thread_num_threads(previous)


def set_cache_limit(limit: int) -> None:
    """Set how many bytes of freed results and workspace marey keeps for its next calls.

    The operating system clears fresh memory, which for large arrays takes longer than most kernels.
    So blocks of 2 MiB and more are kept when they are freed, and are handed out again; meanwhile
    the system may take their pages back when memory is short.

    Parameters
    ----------
    limit : int
        In bytes; 512 MiB by default. 0 gives all kept memory back at once and keeps none.

    Raises
    ------
    TypeError, ValueError
        If `limit` is not an integer, negative, or 2**63 or more.
    """
    checked = _arguments.integer("marey.config.set_cache_limit", "limit", limit, 0)
    _cpu.set_cache_limit(checked)
