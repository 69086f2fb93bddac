"""``marey background``: what moves in a video, and the background behind it."""

from __future__ import annotations

import argparse
import contextlib
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marey.cli._arguments import integer, number

if TYPE_CHECKING:
    from marey.video import Chunk, Reader

_DESCRIPTION = """\
Separate what moves in front of a camera that stands still from the background. OUT gets the masks,
white where something is in front; beside it, under the same name with -background.png, goes the
background.
"""

_EPILOG = """\
examples:
  marey background traffic.mp4 masks.mp4
  marey background traffic.mp4 masks.mp4 --method mixture --shadows --view cutout

methods:
  median   the median of up to 101 frames of the whole video; VIDEO is read twice
  sliding  the median of every 7th of the last 357 frames; follows changes of the light
  mixture  an adaptive mixture of Gaussians for each pixel (Zivkovic 2004); learns what flickers
"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "background",
        help="separate what moves from the background",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="VIDEO", help="the video")
    parser.add_argument("output", metavar="OUT", help="the video of masks to write")
    parser.add_argument(
        "--method",
        choices=("median", "sliding", "mixture"),
        default="median",
        help="how the background is found (default: median)",
    )
    parser.add_argument(
        "--threshold",
        metavar="D",
        type=number("a number >= 0", least=0),
        help="how much differs from the background: levels of 255 (default: 30); "
        "mixture: squared, in units of the variance (16)",
    )
    parser.add_argument(
        "--clean",
        metavar="PX",
        type=integer("an odd integer from 1 to 15, or 0", least=0, most=15),
        default=5,
        help="width of the majority filter for masks, 0 for none (default: 5)",
    )
    parser.add_argument(
        "--shadows", action="store_true", help="mixture: take shadows for background"
    )
    parser.add_argument(
        "--view",
        choices=("mask", "cutout"),
        default="mask",
        help="write masks, or VIDEO with the background in black (default: mask)",
    )
    parser.add_argument(
        "--background",
        metavar="PNG",
        help="where the background goes (default: OUT's name with -background.png)",
    )
    parser.add_argument(
        "--start",
        metavar="S",
        type=number("seconds >= 0", least=0),
        default=0.0,
        help="begin S seconds into VIDEO",
    )
    parser.add_argument(
        "--duration", metavar="S", type=number("seconds > 0", above=0), help="take S seconds"
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=integer("an integer from 1 to 1024", least=1, most=1024),
        help="processor threads for marey and for the encoder (default: all)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no closing line")
    parser.set_defaults(run=run)


def _advance(bar: Any, chunk: Chunk) -> None:
    if bar is not None:
        bar.update(len(chunk.frames))


def _static_background(reader: Reader, bar: Any) -> np.ndarray[Any, Any]:
    """The median of evenly spread frames, in memory for about 200 of them at most."""
    from marey.background._masks import STATIC_FRAMES, static_median

    every, kept, index = 1, [], 0
    for chunk in reader:
        for frame in chunk.frames:
            if index % every == 0:
                kept.append(frame.copy())
            index += 1
            # How long the video is shows only at its end: so every other one is dropped again.
            if len(kept) == 2 * STATIC_FRAMES:
                kept, every = kept[::2], 2 * every
        _advance(bar, chunk)
    return static_median(np.stack(kept))


def write_png(path: Path, picture: np.ndarray[Any, Any]) -> None:
    """Write an RGB picture (H, W, 3) losslessly, whole or not at all."""
    import av

    partial = path.with_name(f".{path.stem}.partial.png")
    try:
        with av.open(str(partial), "w", format="image2", options={"update": "1"}) as container:
            stream: Any = container.add_stream("png", rate=1)
            stream.height, stream.width = picture.shape[:2]
            stream.pix_fmt = "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def run(arguments: argparse.Namespace) -> None:
    import marey
    from marey import background, video
    from marey.cli._magnify import progress

    output = Path(arguments.output)
    picture = Path(arguments.background or output.with_name(f"{output.stem}-background.png"))
    if picture.suffix.lower() != ".png":
        raise ValueError(f"--background: expected a name that ends in .png; found {str(picture)!r}")
    if not picture.parent.is_dir():
        raise FileNotFoundError(
            f"--background: expected an existing directory; found {picture.parent}"
        )
    if arguments.shadows and arguments.method != "mixture":
        raise ValueError(
            f"--shadows: expected only with --method mixture; found {arguments.method}"
        )
    if arguments.clean > 0 and arguments.clean % 2 == 0:
        raise ValueError(
            f"--clean: expected an odd number of pixels, or 0; found {arguments.clean}"
        )

    def reader() -> Reader:
        return video.Reader(arguments.input, start=arguments.start, duration=arguments.duration)

    threshold = {} if arguments.threshold is None else {"threshold": arguments.threshold}
    count = moving = 0
    with contextlib.ExitStack() as stack:
        if arguments.threads is not None:
            stack.enter_context(marey.config.threads(arguments.threads))
        source = stack.enter_context(reader())
        info = source.info
        shape = (info.height, info.width, 3)
        passes = 2 if arguments.method == "median" else 1
        bar = progress(passes * info.frames if info.frames else None, arguments.quiet)
        if bar is not None:
            stack.callback(bar.close)
        still: Any = None
        stream: Any = None
        if arguments.method == "mixture":
            stream = background.MixtureBackground(
                shape, clean=arguments.clean, shadows=arguments.shadows, **threshold
            )
        elif arguments.method == "sliding":
            stream = background.MedianBackground(shape, clean=arguments.clean, **threshold)
        writer = stack.enter_context(
            video.Writer(
                arguments.output,
                shape[:2],
                info.frame_rate,
                like=info,
                threads=arguments.threads or 0,
            )
        )
        if stream is None:
            with reader() as first_pass:
                still = _static_background(first_pass, bar)
        for chunk in source:
            if stream is not None:
                masks = stream.feed(chunk.frames)
            else:
                masks = background.difference(
                    chunk.frames, still, clean=arguments.clean, **threshold
                )
            if arguments.view == "mask":
                writer.write(masks.view(np.uint8) * np.uint8(255), chunk.pts)
            else:
                writer.write(np.where(masks[..., None], chunk.frames, 0), chunk.pts)
            count += len(masks)
            moving += int(masks.sum())
            _advance(bar, chunk)
        write_png(picture, still if stream is None else stream.background)
    share = moving / (count * shape[0] * shape[1])
    if share > 0.5:
        warnings.warn(
            f"{100 * share:.0f} % of all pixels differ from the background: does the camera move?",
            stacklevel=1,
        )
    if not arguments.quiet:
        print(
            f"{count} frames, {info.width}x{info.height}, {100 * share:.1f} % in front: "
            f"{arguments.output}, {picture}"
        )
