"""The `marey` command: ``magnify``, ``pulse``, ``background``, ``info`` and ``demo``.

Exit codes: 0; 2 for bad input, with one line on standard error; 130 after Ctrl-C (143 after
SIGTERM). A target file is written whole or not at all.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from marey.cli import _background, _demo, _info, _magnify, _pulse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["main"]


class _UsageError(Exception):
    """Arguments that cannot be meant."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which is to leave no half-written file either."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message} (see '{self.prog} --help')")


def _parser() -> argparse.ArgumentParser:
    from marey import __version__

    parser = _Parser(
        prog="marey",
        description="Show and measure motions and colour changes that are too small to see.",
        epilog="'marey COMMAND --help' tells all about a command.",
    )
    parser.add_argument("--version", action="version", version=f"marey {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    for module in (_magnify, _pulse, _background, _info, _demo):
        module.add_parser(commands)
    return parser


def _print_error(kind: str, message: str) -> None:
    line = f"marey: {kind}: {message}"
    tqdm = sys.modules.get("tqdm")
    with contextlib.suppress(BrokenPipeError):
        if tqdm is not None:  # does not tear a progress bar that is on the screen
            tqdm.tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)


def _message(error: BaseException) -> str:
    """The first line of an error, without the name of the function that raised it."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
        if error.filename is not None:
            text = f"{error.filename}: {text}"
    text = (text.splitlines() or [""])[0]
    text = re.sub(r"^\[marey[\w.]*\] (path: )?", "", text)
    return text or type(error).__name__


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Make SIGTERM unwind like Ctrl-C; only the main thread may ask for it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_: Any) -> NoReturn:
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        The exit code.
    """
    with warnings.catch_warnings(), _signals():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_: _print_error("warning", str(message))
        try:
            arguments = _parser().parse_args(argv)
            arguments.run(arguments)
            sys.stdout.flush()
            return 0
        except _UsageError as error:
            _print_error("error", str(error))
            return 2
        except _Terminated:
            return 143
        except KeyboardInterrupt:
            _print_error("stopped", "nothing was written")
            return 130
        except BrokenPipeError:
            # Whoever read our output has gone; keep Python from failing again at exit.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except MemoryError:
            _print_error("error", "out of memory")
            return 2
        except (ImportError, OSError, ValueError) as error:
            _print_error("error", _message(error))
            return 2
