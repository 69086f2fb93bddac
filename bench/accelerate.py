"""Whole torch models before and after `marey.torch.accelerate`: ``python -m bench.accelerate``.

Results are compared first; then both are timed in turn, in one process with the same threads.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import TYPE_CHECKING, Any

import torch
from marey.torch import accelerate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROUNDS = 7
STEPS = 20  # down the loss


class Block(torch.nn.Module):
    """A residual block of R3D."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        conv, norm = torch.nn.Conv3d, torch.nn.BatchNorm3d
        self.conv1 = torch.nn.Sequential(
            conv(channels, filters, 3, stride, 1, bias=False), norm(filters), torch.nn.ReLU()
        )
        self.conv2 = torch.nn.Sequential(conv(filters, filters, 3, 1, 1, bias=False), norm(filters))
        self.shortcut = torch.nn.Sequential()
        if stride != 1 or channels != filters:
            self.shortcut = torch.nn.Sequential(
                conv(channels, filters, 1, stride, bias=False), norm(filters)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class R3D18(torch.nn.Module):
    """3-D ResNet-18 (Tran et al., "A Closer Look at Spatiotemporal Convolutions", CVPR 2018)."""

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        self.stem = torch.nn.Sequential(
            torch.nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False),
            torch.nn.BatchNorm3d(64),
            torch.nn.ReLU(),
        )
        layers = []
        channels = 64
        for filters, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            layers += [Block(channels, filters, stride), Block(filters, filters, 1)]
            channels = filters
        self.layers = torch.nn.Sequential(*layers)
        self.head = torch.nn.Linear(512, classes)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.stem(clip)).mean((2, 3, 4)))


class VideoTransformer(torch.nn.Module):
    """Twelve layers of twelve heads over 1568 tokens: 8 x 14 x 14 tubelets of 2 x 16 x 16."""

    def __init__(self, layers: int = 12, classes: int = 400) -> None:
        super().__init__()
        self.patches = torch.nn.Conv3d(3, 768, (2, 16, 16), (2, 16, 16))
        self.positions = torch.nn.Parameter(0.02 * torch.randn(1, 1568, 768))
        self.layers = torch.nn.Sequential(
            *[
                torch.nn.TransformerEncoderLayer(
                    768, 12, 3072, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
                )
                for _ in range(layers)
            ]
        )
        self.norm = torch.nn.LayerNorm(768)
        self.head = torch.nn.Linear(768, classes)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        x = self.patches(clip).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.norm(self.layers(x)).mean(1))


def models() -> dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...], bool]]:
    """Return for each model how to make it, its input's shape, and whether to train it too."""
    return {
        "R3D-18, 1x3x16x112x112": (R3D18, (1, 3, 16, 112, 112), True),
        "transformer, L = 1568, 12 x 768": (VideoTransformer, (1, 3, 16, 224, 224), True),
        "GRU, 2 layers of 256, N = 8, T = 300": (
            lambda: torch.nn.GRU(256, 256, num_layers=2),
            (300, 8, 256),
            False,
        ),
    }


def first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def in_turn(
    theirs: Callable[[], Any], ours: Callable[[], Any], rounds: int
) -> Iterator[tuple[tuple[float, Any], tuple[float, Any]]]:
    """Yield the seconds and the result of each."""
    for _ in range(rounds):
        pair = []
        for call in (theirs, ours):
            time.sleep(0.05)
            start = time.perf_counter()
            result = call()
            pair.append((time.perf_counter() - start, result))
        yield pair[0], pair[1]


def forgetting(model: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Give the memory of a result back before the next call: the page faults of fresh memory took
    a GRU 3 to 7 ms of 27.
    """

    def run() -> None:
        model(x)

    return run


def step(model: torch.nn.Module, x: torch.Tensor) -> Callable[[], float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    label = torch.zeros(len(x), dtype=torch.int64)

    def run() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), label)
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def _count(text: str) -> int:
    """Parse a count of one or more."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more; found {text}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="part of a model's name")
    parser.add_argument("--train", action="store_true", help="training steps instead of inference")
    parser.add_argument("--steps", type=_count, default=STEPS, help="of training")
    parser.add_argument("--rounds", type=_count, default=ROUNDS, help="of inference")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    for name, (make, shape, trained) in models().items():
        if arguments.only not in name or (arguments.train and not trained):
            continue
        theirs = make()
        ours = copy.deepcopy(theirs)
        accelerate(ours)
        x = torch.randn(shape)
        rounds = []
        if arguments.train:
            difference = 0.0
            calls = step(theirs.train(), x), step(ours.train(), x)
            for k, pair in enumerate(in_turn(*calls, arguments.steps)):
                (_, expected), (_, found) = pair
                print(f"  step {k}: loss {expected:.6f}, accelerated {found:.6f}", flush=True)
                difference = max(difference, abs(found / expected - 1))
                rounds.append(pair)
            rounds = rounds[1:] or rounds  # the first asks the system for memory
        else:
            with torch.inference_mode():
                theirs.eval()
                ours.eval()
                expected, found = first(theirs(x)), first(ours(x))
                difference = float((expected - found).abs().max() / expected.abs().max())
                rounds += in_turn(forgetting(theirs, x), forgetting(ours, x), arguments.rounds)
        a, b = (statistics.median(pair[k][0] for pair in rounds) for k in (0, 1))
        ratio = statistics.median(one[0] / other[0] for one, other in rounds)
        print(
            f"{name}{' (training step)' if arguments.train else ''}: torch {1e3 * a:.1f} ms, "
            f"accelerated {1e3 * b:.1f} ms, ratio {ratio:.2f}; off by {difference:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
