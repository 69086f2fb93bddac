"""``marey info``: what a video file is, or what this build of marey is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "info",
        help="describe a video file, or this build of marey",
        description="Describe a video file; without one, this build of marey.",
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="a video file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    rows = _build() if arguments.file is None else _video(arguments.file)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _build() -> list[tuple[str, str]]:
    from marey import config

    rows = []
    for key, value in config.build_config().items():
        words = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        rows.append((key.replace("_", " "), words))
    try:
        import av
    except ImportError:
        rows.append(("PyAV", "missing: pip install 'marey[video]'"))
    else:
        rows.append(("PyAV", av.__version__))
    return rows


def _video(path: str) -> list[tuple[str, str]]:
    from marey import video

    with video.Reader(path, upright=False) as reader:
        info = reader.info
    rows = [
        ("file", info.path),
        ("size", f"{info.width}x{info.height} pixels"),
        ("frame rate", f"{float(info.frame_rate):.6g} frames/s ({info.frame_rate})"),
        ("frames", "unknown" if info.frames is None else str(info.frames)),
        ("duration", "unknown" if info.duration is None else f"{info.duration:.3f} s"),
        ("codec", f"{info.codec}, {info.pixel_format}, in {info.container}"),
        ("colours", info.color.describe()),
        ("rotation", f"{info.rotation} degrees, counter-clockwise"),
        ("audio", ", ".join(info.audio) or "none"),
    ]
    if info.sample_aspect_ratio != 1:
        rows.insert(2, ("pixel aspect", str(info.sample_aspect_ratio)))
    return rows
