"""``marey demo``: a clip whose motion and pulse are known, magnified and measured again."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from marey import synthetic

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Both bands are centred (geometrically) on what is to be seen: the gain there is 1.
MOTION = {"low": 0.6, "high": 2.4, "alpha": 20.0, "cutoff": 8.0, "chroma": 0.1}
COLOR = {"low": 0.8, "high": 1.5, "alpha": 50.0, "chroma": 1.0}
SECONDS = 10
SETTLED = 2  # seconds after which the filter has forgotten how it began

_DESCRIPTION = """\
Make a clip of which the motion (0.1 pixels) and the pulse (0.5 levels of 255) are known and too
small to see, magnify both, and measure. Writes clip.mp4, motion.mp4, color.mp4 and demo.png, and
prints what was measured beside what is true.
"""


@dataclass(frozen=True)
class Row:
    """One line of the table: a sine's amplitude and frequency before and after."""

    name: str
    unit: str
    true: float
    before: float
    after: float
    gain: float
    true_hz: float
    after_hz: float

    @property
    def ratio(self) -> float:
        return self.after / self.before

    def __str__(self) -> str:
        return (
            f"{self.name:<8} {self.unit:<7} {self.true:8.3f} {self.before:8.3f} {self.after:8.2f} "
            f"{self.ratio:8.1f} {self.gain:9.1f} {self.true_hz:9.3f} {self.after_hz:9.3f}"
        )


HEADER = (
    f"{'':<8} {'':<7} {'true':>8} {'before':>8} {'after':>8} {'ratio':>8} {'expected':>9} "
    f"{'true Hz':>9} {'found Hz':>9}"
)


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="magnify a self-made clip and compare with what is true",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="marey-demo",
        help="folder to write to (default: marey-demo)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    try:
        import matplotlib.figure  # noqa: F401  (asked for before the work, not after it)
    except ImportError as error:
        raise ImportError("marey demo needs matplotlib: pip install 'marey[video]'") from error
    os.makedirs(arguments.out, exist_ok=True)
    print(f"making, magnifying and measuring a clip of {SECONDS} s", flush=True)
    rows = demo(arguments.out)
    print(HEADER)
    for row in rows:
        print(row)
    print(f"written to {arguments.out}: clip.mp4, motion.mp4, color.mp4, demo.png")


def demo(folder: str, scene: synthetic.Scene | None = None) -> list[Row]:
    """Make the clip, magnify it, write the files and the picture.

    Parameters
    ----------
    folder : str
        An existing folder.
    scene : marey.synthetic.Scene, optional

    Returns
    -------
    list of Row
        Motion and colour, both measured on the decoded files.
    """
    import marey
    from marey import video

    scene = scene or synthetic.Scene()

    def path(name: str) -> str:
        return os.path.join(folder, name)

    # The encoder must not take the signal for noise: a low crf.
    video.write(path("clip.mp4"), scene.frames(0, round(SECONDS * scene.fps)), scene.fps, crf=6)
    clip, fps = video.read(path("clip.mp4"))
    shown = {}
    for name, options in (("motion", MOTION), ("color", COLOR)):
        result = marey.magnify(clip, fps, mode=name, **options)  # type: ignore[arg-type]
        video.write(path(f"{name}.mp4"), result, fps, crf=12)
        shown[name] = video.read(path(f"{name}.mp4"))[0]

    settled = round(SETTLED * fps)
    rows = []
    for name, unit, measure, true, hz, other, options in (
        ("motion", "pixels", scene.displacement, scene.sway, scene.sway_hz, "motion", MOTION),
        ("color", "levels", scene.pulse, scene.flush, scene.flush_hz, "color", COLOR),
    ):
        before = measure(clip)
        after = measure(shown[other])
        rows.append(
            Row(
                name=name,
                unit=unit,
                true=true,
                before=synthetic.amplitude(before[settled:], fps, hz),
                after=synthetic.amplitude(after[settled:], fps, hz),
                gain=1 + options["alpha"],
                true_hz=hz,
                after_hz=synthetic.dominant_frequency(after[settled:], fps, 0.5 * hz, 2 * hz),
            )
        )
    _picture(path("demo.png"), scene, clip, shown, rows, fps)
    return rows


def _picture(
    path: str,
    scene: synthetic.Scene,
    clip: NDArray[np.uint8],
    shown: dict[str, NDArray[np.uint8]],
    rows: list[Row],
    fps: float,
) -> None:
    from matplotlib.figure import Figure

    begin = round(SETTLED * fps)
    span = min(round(5 * fps), len(clip) - begin)
    part = slice(begin, begin + span)
    times = np.arange(begin, begin + span) / fps
    extent_t = (times[0], times[0] + span / fps)

    figure = Figure(figsize=(12, 6.2), layout="constrained")
    axes = figure.subplots(2, 3, width_ratios=(1, 1, 1.25))
    textures, patches = scene.texture_region, scene.patch_region
    # The line on which most is to be seen, and 48 pixels of it.
    steps = np.abs(np.diff(clip[0, textures[0], textures[1], 1].astype(np.float64), axis=1))
    row = textures[0].start + int(steps.sum(axis=1).argmax())
    middle = (textures[1].start + textures[1].stop) // 2
    columns = slice(middle - 24, middle + 24)
    column = (patches[1].start + patches[1].stop) // 2
    for index, (video, title) in enumerate(((clip, "original"), (shown["motion"], "magnified"))):
        axis = axes[0, index]
        axis.imshow(
            video[part, row, columns].swapaxes(0, 1),
            extent=(*extent_t, columns.stop, columns.start),
            aspect="auto",
            interpolation="nearest",
        )
        axis.set_title(f"motion, {title}: one line of pixels")
        axis.set_ylabel("x (pixels)")
    for index, (video, title) in enumerate(((clip, "original"), (shown["color"], "magnified"))):
        axis = axes[1, index]
        axis.imshow(
            video[part, patches[0], column].swapaxes(0, 1),
            extent=(*extent_t, patches[0].stop, patches[0].start),
            aspect="auto",
            interpolation="nearest",
        )
        axis.set_title(f"color, {title}: one column of pixels")
        axis.set_ylabel("y (pixels)")
    for axis, before, after, true, line, label in (
        (
            axes[0, 2],
            scene.displacement(clip),
            scene.displacement(shown["motion"]),
            scene.true_displacement(times),
            rows[0],
            "displacement (pixels)",
        ),
        (
            axes[1, 2],
            scene.pulse(clip),
            scene.pulse(shown["color"]),
            scene.true_pulse(times),
            rows[1],
            "green (levels of 255)",
        ),
    ):
        axis.plot(times, line.gain * true, color="0.7", lw=4, label=f"true x {line.gain:.0f}")
        axis.plot(times, after[part], color="tab:red", lw=1.5, label="measured, magnified")
        axis.plot(times, before[part], color="tab:blue", lw=1.5, label="measured, original")
        axis.set_ylabel(label)
        axis.set_title(
            f"{line.name}: {line.before:.2f} to {line.after:.2f} {line.unit} "
            f"at {line.after_hz:.2f} Hz"
        )
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + 0.35 * (high - low))
        axis.set_xlim(*extent_t)
        axis.legend(loc="upper center", ncols=3, fontsize="x-small", frameon=False)
        axis.grid(alpha=0.3)
    for axis in axes.flat:
        axis.set_xlabel("time (s)")
    figure.savefig(path, dpi=120)
