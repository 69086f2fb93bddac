"""A whole video in parts, with a bar that shows how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 16  # frames


def parts(frames: int, progress: bool) -> Iterator[slice]:
    """Yield what covers so many frames: all at once, or with a progress bar a few at a time."""
    if not progress:
        yield slice(0, frames)
        return
    from tqdm import tqdm

    with tqdm(total=frames, unit="frame") as bar:
        for first in range(0, frames, _CHUNK):
            last = min(first + _CHUNK, frames)
            yield slice(first, last)
            bar.update(last - first)
