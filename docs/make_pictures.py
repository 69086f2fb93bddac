"""Draw the pictures of the documentation from real runs.

``python docs/make_pictures.py DATA [NAME ...]``

DATA is the folder with the clips (baby.mp4, crane_crop.mp4, face.mp4, guitar.mp4, highway/).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import marey
import matplotlib as mpl
import numpy as np
from marey import recurrent, video

mpl.use("Agg")
import matplotlib.pyplot as plt
from marey.cli._pulse import figure as pulse_figure

IMAGES = Path(__file__).parent / "images"


def baby(data: Path) -> None:
    """Draw a frame of the sleeping baby, and one column of it over time, before and after."""
    frames, fps = video.read(data / "baby.mp4")
    magnified = marey.magnify(frames, fs=fps, low=0.4, high=3, alpha=10, cutoff=16)
    # The column and the rows where most happens: a slice through the chest.
    activity = magnified[:, ::4, ::4].astype(np.float32).mean(axis=-1).std(axis=0)
    column = 4 * int(activity[20:].sum(axis=0).argmax())
    height, width = frames.shape[1:3]
    top = min(max(4 * int(activity[:, column // 4].argmax()) - 60, 0), height - 120)
    rows = slice(top, top + 120)
    seconds = len(frames) / fps

    figure, axes = plt.subplots(
        1, 3, figsize=(12, 4.2), gridspec_kw={"width_ratios": [width / height, 1.15, 1.15]}
    )
    axes[0].imshow(frames[0])
    axes[0].plot([column, column], [rows.start, rows.stop], color="#ffd400", lw=2.5)
    axes[0].set_title("a frame, and the line shown over time", fontsize=10)
    axes[0].set_axis_off()
    for axis, clip, title in zip(
        axes[1:], (frames, magnified), ("before", "after: the breathing shows"), strict=True
    ):
        axis.imshow(
            clip[:, rows, column].transpose(1, 0, 2),
            extent=(0, seconds, rows.stop, rows.start),
            aspect="auto",
        )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("time (s)")
    axes[1].set_ylabel("y (pixels)")
    axes[2].set_yticks([])
    figure.tight_layout()
    figure.savefig(IMAGES / "baby.png", dpi=80)
    plt.close(figure)


def pulse(data: Path) -> None:
    """Draw where the pulse of the face was found, and what it is."""
    frames, fps = video.read(data / "face.mp4")
    drawing = pulse_figure(marey.pulse.estimate(frames, fps), frames[0])
    drawing.savefig(IMAGES / "pulse.png", dpi=72)


def background(data: Path) -> None:
    """Draw a frame of the highway, its background, and two masks."""
    names = sorted((data / "highway" / "input").glob("*.jpg"))
    frames = np.stack([plt.imread(name) for name in names])
    median, still = marey.background.subtract(frames)
    mixture, _ = marey.background.subtract(frames, "mixture")
    shown = 849
    figure, axes = plt.subplots(1, 4, figsize=(12, 2.6), layout="constrained")
    for axis, picture, title in zip(
        axes,
        (frames[shown], still, median[shown], mixture[shown]),
        ("a frame", "the background", "median", "mixture"),
        strict=True,
    ):
        axis.imshow(picture, cmap="gray")
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.savefig(IMAGES / "background.png", dpi=80)
    plt.close(figure)


def methods(
    name: str,
    clip: Path,
    line: tuple[slice, slice],
    options: dict[str, float],
    linear: dict[str, float],
    sigma: float,
    shown: slice = slice(None),
) -> None:
    """Draw one line of a clip over time: as filmed, and magnified in three ways."""
    frames, _ = video.read(clip)
    clips = {
        "input": frames,
        "linear": marey.magnify(frames, **options, **linear),
        "phase-based": marey.magnify(frames, **options, method="phase", sigma=sigma),
        "Riesz": marey.magnify(frames, **options, method="riesz", sigma=sigma),
    }
    first, last, _ = shown.indices(len(frames))
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), sharey=True)
    for axis, (title, magnified) in zip(axes, clips.items(), strict=True):
        strip = magnified[(shown, *line)]
        strip = strip.reshape(len(strip), -1, 3)
        axis.imshow(
            strip.transpose(1, 0, 2),
            extent=(first / options["fs"], last / options["fs"], strip.shape[1], 0),
            aspect="auto",
            interpolation="nearest",
        )
        axis.set_title(
            title if title == "input" else f"{title}, alpha {options['alpha']:g}", fontsize=10
        )
        axis.set_xlabel("time (s)")
    axes[0].set_ylabel("pixels")
    figure.tight_layout()
    figure.savefig(IMAGES / f"phase_{name}.png", dpi=64)
    plt.close(figure)


def crane(data: Path) -> None:
    """Draw a row across the crane's mast."""
    methods(
        "crane",
        data / "crane_crop.mp4",
        (slice(140, 141), slice(60, 220)),
        {"fs": 24, "low": 0.2, "high": 0.25, "alpha": 75},
        {},
        5,
    )


def guitar(data: Path) -> None:
    """Draw a column across the lowest string."""
    methods(
        "guitar",
        data / "guitar.mp4",
        (slice(40, 72), slice(216, 217)),
        {"fs": 600, "low": 72, "high": 92, "alpha": 25},
        {"cutoff": 10, "chroma": 0},
        2,
        slice(120, 240),
    )


# Runs in its own interpreter, whose peak it prints. torch is imported for both: what that takes
# is no part of the difference.
ATTENTION = """
import sys
import numpy as np, torch
from marey.attention import attention
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
L = int(sys.argv[2])
q, k, v = np.random.default_rng(0).standard_normal((3, 1, 1, L, 64), np.float32)
sdpa = torch.nn.functional.scaled_dot_product_attention
def run(q, k, v):
    if sys.argv[1] == "marey":
        return attention(q, k, v)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), torch.no_grad():
        return sdpa(*map(torch.from_numpy, (q, k, v)))
run(q[:, :, :64], k[:, :, :64], v[:, :, :64])
before = peak()
run(q, k, v)
print((peak() - before) / 1024)
"""


def attention_memory(_: Path) -> None:
    """Draw the memory that attention takes beside its operands, against the length."""
    lengths = [1024, 2048, 4096, 8192, 16384, 32768, 65536]
    figure, axis = plt.subplots(figsize=(6, 3.6))
    for name, label, most in (("torch", "torch, math", 16384), ("marey", "marey", 65536)):
        shown = [n for n in lengths if n <= most]
        peaks = []
        for length in shown:
            run = subprocess.run(
                [sys.executable, "-c", ATTENTION, name, str(length)],
                check=True,
                capture_output=True,
                text=True,
            )
            peaks.append(max(float(run.stdout), 0.1))
            print(f"{label}, L = {length}: {peaks[-1]:.1f} MiB")
        axis.loglog(shown, peaks, "o-", label=label)
    axis.loglog(
        lengths, [n * 64 * 4 / 2**20 for n in lengths], ":", color="gray", label="the result"
    )
    axis.set_xticks(lengths, [f"{n:,}" for n in lengths], fontsize=8)
    axis.minorticks_off()
    axis.set_xlabel("queries and keys")
    axis.set_ylabel("MiB beside q, k and v")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(IMAGES / "attention_memory.png", dpi=80)
    plt.close(figure)


def recurrent_gradients(_: Path) -> None:
    """Draw how much the last state of a network depends on each frame before it."""
    T, N, I, H = 200, 8, 16, 128
    rng = np.random.default_rng(0)
    x = rng.standard_normal((T, N, I)) / 4
    orthogonal = np.linalg.qr(rng.standard_normal((4, H, H)))[0]
    one = np.ones((N, H)) / H
    figure, axis = plt.subplots(figsize=(6.4, 3.8))

    def draw(label: str, gradient: np.ndarray, **style: object) -> None:
        sizes = np.sqrt((gradient**2).sum(axis=-1).mean(axis=-1))[::-1]
        print(f"{label}: {sizes[0]:.3g} at the last frame, {sizes[-1]:.3g} at the first")
        axis.semilogy(sizes / sizes[0], label=label, **style)

    for scale, color in ((0.8, "C0"), (1.0, "C2"), (1.6, "C3")):
        weights = rng.uniform(-0.1, 0.1, (H, I)), scale * orthogonal[0]
        back = recurrent.rnn_backward(None, x, *weights, grad_h=one)
        draw(f"RNN, U = {scale} x orthogonal", back.x, color=color)
    for forget, style in ((0, ":"), (2, "--"), (5, "-")):
        bias = np.repeat([0.0, forget, 0, 0], H)
        weights = rng.uniform(-0.1, 0.1, (4 * H, I)), 0.3 * orthogonal.reshape(4 * H, H)
        back = recurrent.lstm_backward(None, x, *weights, bias, grad_h=one)
        draw(f"LSTM, forget bias {forget}", back.x, color="black", linestyle=style)
    axis.set_xlabel("frames before the last one")
    axis.set_ylabel("gradient of the last state,\nrelative to that at the last frame")
    axis.set_ylim(1e-14, 1e14)
    axis.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(IMAGES / "recurrent_gradients.png", dpi=80)
    plt.close(figure)


PICTURES = {
    "attention_memory": attention_memory,
    "baby": baby,
    "pulse": pulse,
    "background": background,
    "crane": crane,
    "guitar": guitar,
    "recurrent_gradients": recurrent_gradients,
}

if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    clips = Path(sys.argv[1])
    for picture in sys.argv[2:] or PICTURES:
        PICTURES[picture](clips)
