"""``marey pulse``: the heart rate from a video of skin."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from marey.cli._arguments import number

_DESCRIPTION = """\
Measure the heart rate in a video that shows skin, from how the colour of the skin changes with
every beat. Prints the rate and how far it can be relied on, and draws the pulse wave, its spectrum
and the rate over time to a PNG. Without a pulse in the video it says so.
"""

_EPILOG = """\
examples:
  marey pulse face.mp4
  marey pulse face.mp4 --box 180,60,160,90 --method chrom --plot forehead.png

The camera and the person should be still and the light steady; 10 s or more are wanted. Without
--box or
--frame the skin-coloured patches of the frame are weighted by the quality of their signals.
"""


def _box(text: str) -> tuple[int, ...]:
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 4 or min(values) < 0:
        raise argparse.ArgumentTypeError(f"expected X,Y,WIDTH,HEIGHT in pixels; found {text!r}")
    return values


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "pulse",
        help="measure the heart rate in a video of skin",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="VIDEO", help="the video")
    parser.add_argument(
        "--method",
        choices=("pos", "chrom", "green"),
        default="pos",
        help="how colours become a pulse wave (default: pos)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--box", metavar="X,Y,W,H", type=_box, help="look at a box, in pixels")
    where.add_argument("--frame", action="store_true", help="look at the mean of the whole frame")
    rate = number("beats a minute > 0", above=0)
    parser.add_argument(
        "--low", metavar="BPM", type=rate, default=42.0, help="lowest rate (default: 42)"
    )
    parser.add_argument(
        "--high", metavar="BPM", type=rate, default=240.0, help="highest rate (default: 240)"
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
    plot = parser.add_mutually_exclusive_group()
    plot.add_argument(
        "--plot",
        metavar="PNG",
        help="the picture to draw (default: VIDEO's name with -pulse.png, in the "
        "current directory)",
    )
    plot.add_argument("--no-plot", action="store_true", help="draw no picture")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    from marey import pulse, video
    from marey.cli._magnify import progress

    target = None
    if not arguments.no_plot:
        target = Path(arguments.plot or f"{Path(arguments.input).stem}-pulse.png")
        if target.suffix.lower() != ".png":
            raise ValueError(f"--plot: expected a name that ends in .png; found {str(target)!r}")
        if not target.parent.is_dir():
            raise FileNotFoundError(
                f"--plot: expected an existing directory; found {target.parent}"
            )
        try:
            import matplotlib.figure  # noqa: F401  (asked for before the work, not after it)
        except ImportError as error:
            raise ImportError(
                "the picture needs matplotlib: pip install 'marey[video]', or --no-plot"
            ) from error

    with video.Reader(
        arguments.input, start=arguments.start, duration=arguments.duration
    ) as reader:
        info = reader.info
        monitor = pulse.PulseMonitor(
            (info.height, info.width, 3),
            method=arguments.method,
            roi=arguments.box or ("frame" if arguments.frame else None),
            low_bpm=arguments.low,
            high_bpm=arguments.high,
            window=math.inf,
        )
        bar = progress(info.frames, arguments.quiet)
        first: np.ndarray[Any, Any] | None = None
        try:
            for chunk in reader:
                if first is None:
                    first = chunk.frames[0].copy()
                monitor.feed(chunk.frames, chunk.pts * float(info.time_base))
                if bar is not None:
                    bar.update(len(chunk.frames))
        finally:
            if bar is not None:
                bar.close()
    # The warning of an unreliable result goes to standard error by itself.
    result = monitor.estimate()
    sure = "" if result.reliable else " (not reliable)"
    print(f"{result.bpm:.1f} beats/min{sure}, signal-to-noise ratio {result.snr_db:.1f} dB")
    if target is not None:
        partial = target.with_name(f".{target.stem}.partial.png")
        try:
            figure(result, first).savefig(partial, dpi=100)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        print(f"written to {target}")


def figure(result: Any, frame: np.ndarray[Any, Any] | None = None) -> Any:
    """Draw an estimate: where it comes from, the wave, its spectrum, and the rate over time.

    Parameters
    ----------
    result : marey.pulse.PulseEstimate
    frame : array, (H, W, 3), optional
        To lay the patches' weights over.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 5.6), layout="constrained")
    grid = drawing.add_gridspec(2, 3, width_ratios=(1.1, 1, 1))
    where = drawing.add_subplot(grid[:, 0])
    wave = drawing.add_subplot(grid[0, 1:])
    lines = drawing.add_subplot(grid[1, 1])
    over_time = drawing.add_subplot(grid[1, 2])

    if frame is not None:
        height, width = frame.shape[:2]
        where.imshow(frame.mean(axis=-1), cmap="gray", extent=(0, width, height, 0))
        if result.weights.size > 1:
            weights = np.ma.masked_equal(result.weights, 0.0)
            where.imshow(
                weights, cmap="inferno", alpha=0.55, extent=(0, width, height, 0), aspect="equal"
            )
            where.set_title("weights of the patches", fontsize=10)
    where.set_axis_off()

    wave.plot(result.times, result.waveform, color="tab:red", lw=1)
    wave.set_title(f"pulse wave ({result.method})", fontsize=10)
    wave.set_xlabel("time (s)")
    wave.set_yticks([])
    wave.margins(x=0)

    rates = 60.0 * result.frequencies
    shown = (rates >= 30) & (rates <= 250)
    lines.plot(rates[shown], result.power[shown] / result.power[shown].max(), color="tab:blue")
    lines.axvline(result.bpm, color="tab:red", lw=1, ls="--")
    lines.set_title(f"spectrum: {result.bpm:.1f}/min, {result.snr_db:.1f} dB", fontsize=10)
    lines.set_xlabel("beats a minute")
    lines.set_yticks([])

    over_time.plot(result.rate_times, result.bpm_over_time, "o-", color="tab:red", ms=3)
    over_time.set_title("rate over time", fontsize=10)
    over_time.set_xlabel("time (s)")
    over_time.set_ylabel("beats a minute")
    finite = result.bpm_over_time[np.isfinite(result.bpm_over_time)]
    if len(finite):
        over_time.set_ylim(min(40.0, finite.min() - 5), max(120.0, finite.max() + 5))
    return drawing
