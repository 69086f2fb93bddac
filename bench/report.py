"""Draw what was saved: tables and plots in docs/benchmarks (``python -m bench.report``)."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from bench.disturbance import DISTURBED
from bench.harness import OWN

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGES = ROOT / "docs" / "benchmarks"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito

INTRODUCTION = """\
# Benchmarks

Made by `python -m bench` and `python -m bench.report`; not written by hand.

A ratio says how many times as fast as the peer marey is: 2 is twice as fast, 0.5 half as fast.
Before anything is timed the two results are compared. Then the two take turns in one process, on
the same number of threads, each after a rest of 50 ms and a warm-up. Every turn gives one ratio;
the table has their median, the quartiles in brackets, and the peer's own time.

The limits are measured in the same run: for GFLOP/s a loop of float32 multiply-adds (for bfloat16
of its dot products, where the processor has them), for GB/s a large copy, read plus written.
GB/s counts what must be read and written at least once: a detour through memory lowers it, and
data that stay in the cache can lift it above the copy's. Where no array is given to write to, the
time includes the operating system's for fresh memory. A row is called disturbed if other programs
took more than a tenth of the processor meanwhile.
"""


@dataclass(frozen=True)
class Work:
    """A row of the table: one workload, and its races by the name of the peer."""

    name: str
    races: dict[str, dict[str, Any]]

    @cached_property
    def seconds(self) -> float:
        return float(np.median([race["seconds"]["median"] for race in self.races.values()]))

    @cached_property
    def rate(self) -> float:
        return float(np.median([race["rate"] for race in self.races.values()]))

    @cached_property
    def unit(self) -> str:
        return str(next(iter(self.races.values()))["unit"])

    @cached_property
    def disturbance(self) -> float:
        return max(float(race["disturbance"]) for race in self.races.values())

    @cached_property
    def against_fastest(self) -> float | None:
        """None where marey raced itself only."""
        ratios = [
            float(race["ratio"]["median"])
            for peer, race in self.races.items()
            if not peer.startswith(OWN)
        ]
        return min(ratios, default=None)


@dataclass(frozen=True)
class Family:
    """One results file."""

    name: str
    saved: dict[str, Any]

    @cached_property
    def works(self) -> list[Work]:
        races: dict[str, dict[str, Any]] = {}
        for benchmark in self.saved["benchmarks"]:
            row = benchmark["extra_info"]
            races.setdefault(row["work"], {})[row["peer"]] = row
        return [Work(name, by_peer) for name, by_peer in races.items()]

    @cached_property
    def peers(self) -> list[str]:
        """In the order of the files, each once."""
        return list(dict.fromkeys(peer for work in self.works for peer in work.races))

    def version(self, peer: str) -> str:
        return next(
            str(work.races[peer]["peer_version"]) for work in self.works if peer in work.races
        )

    def limit(self, unit: str) -> float | None:
        """The machine's, in this unit; None where there is none, as for frames/s."""
        key = {
            "GFLOP/s": "gflops",
            "GFLOP/s bfloat16": "bfloat16_gflops",
            "GB/s": "gbytes",
        }.get(unit, "")
        return float(self.saved["limits"].get(key, 0.0)) or None

    @cached_property
    def against_fastest(self) -> float:
        """The geometric mean over the works."""
        ratios = [work.against_fastest for work in self.works]
        return float(np.exp(np.mean([np.log(ratio) for ratio in ratios if ratio is not None])))


def main() -> None:
    text = [INTRODUCTION]
    for folder in sorted({path.parent for path in RESULTS.glob("*/*.json")}):
        families = [
            Family(p.stem, json.loads(p.read_text())) for p in sorted(folder.glob("*.json"))
        ]
        text += [machine(families[0].saved), *(section(family, folder.name) for family in families)]
        for family in families:
            plot(family).savefig(plot_path(family, folder.name), metadata={"Date": None})
    (PAGES / "index.md").write_text("\n".join(text))


def plot_path(family: Family, machine: str) -> Path:
    path = PAGES / machine / f"{family.name}.svg"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def machine(saved: dict[str, Any]) -> str:
    info = saved["machine_info"]
    return (
        f"## {info['processor']}, {info['cores']} cores\n\n"
        f"{info['threads']} threads, instruction set {info['build']['isa']}, "
        f"{info['build']['compiler']}, {info['system']}, Python {info['python']}, "
        f"NumPy {info['numpy']}.\n"
    )


def section(family: Family, machine: str) -> str:
    parts = [
        f"### {family.name.capitalize()}",
        f"![How many times as fast as each peer]({machine}/{family.name}.svg)",
        table(family),
    ]
    if family.saved["memory"]:
        parts.append(memory_table(family.saved["memory"]))
    return "\n\n".join([*parts, circumstances(family)]) + "\n"


def circumstances(family: Family) -> str:
    commit = family.saved["commit_info"]
    peers = "; ".join(f"{peer} ({family.version(peer)})" for peer in family.peers)
    changes = " with uncommitted changes" if commit["dirty"] else ""
    bfloat16 = family.limit("GFLOP/s bfloat16")
    return (
        f"Peers: {peers}. Measured on {family.saved['datetime'][:10]} at commit "
        f"`{commit['id'][:10]}`{changes}, with limits of {family.limit('GFLOP/s'):.0f} GFLOP/s"
        f"{'' if bfloat16 is None else f', {bfloat16:.0f} in bfloat16,'} and "
        f"{family.limit('GB/s'):.1f} GB/s."
    )


def table(family: Family) -> str:
    rows = []
    for work in family.works:
        limit = family.limit(work.unit)
        share = "" if limit is None else f"{work.rate / limit:.0%}"
        name = f"{work.name} (disturbed)" if work.disturbance > DISTURBED else work.name
        ours = [name, duration(work.seconds), f"{work.rate:.3g} {work.unit}", share]
        rows.append([*ours, *(versus(work.races.get(peer)) for peer in family.peers)])
    mean = f"**{times(family.against_fastest)}**"
    rows.append([f"against the fastest peer of each row, geometric mean: {mean}"])
    return markdown(
        ["work", "marey", "", "of the limit", *(f"against {peer}" for peer in family.peers)], rows
    )


def versus(race: dict[str, Any] | None) -> str:
    if race is None:
        return ""
    ratio = race["ratio"]
    spread = f"({times(ratio['q1'])} to {times(ratio['q3'])})"
    return f"**{times(ratio['median'])}** {spread}, {duration(race['peer_seconds']['median'])}"


def times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.2f}x"


def memory_table(rows: list[dict[str, Any]]) -> str:
    return markdown(
        ["program", "frames", "peak memory above the bare interpreter's", "of it, imports"],
        [
            [
                row["program"],
                str(row["frames"]),
                f"{row['megabytes']:.0f} MB",
                f"{row['imports']:.0f} MB",
            ]
            for row in rows
        ],
    )


def markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    padded = [row + [""] * (len(head) - len(row)) for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *padded])


def duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def plot(family: Family) -> Figure:
    """A bar for each work and peer from 1, where both are equally fast, to the ratio."""
    mpl.rcParams["svg.hashsalt"] = family.name  # the same results make the same file
    bars = [
        (work, peer, work.races[peer]["ratio"])
        for work in family.works
        for peer in family.peers
        if peer in work.races
    ]
    colours = dict(zip(family.peers, cycle(COLOURS), strict=False))
    figure = Figure(figsize=(8, 1.1 + 0.3 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    ticks: dict[str, list[int]] = {}
    for y, (work, peer, ratio) in enumerate(bars):
        median, q1, q3 = ratio["median"], ratio["q1"], ratio["q3"]
        axes.barh(y, median - 1, left=1, height=0.75, color=colours[peer])
        axes.errorbar(
            median, y, xerr=[[median - q1], [q3 - median]], color="black", capsize=3, lw=1
        )
        axes.text(max(q3, 1) * 1.06, y, times(median), va="center", fontsize=9)
        ticks.setdefault(work.name, []).append(y)
    axes.set_yticks([float(np.mean(at)) for at in ticks.values()], list(ticks))
    axes.invert_yaxis()
    axes.set_xscale("log")
    lowest, highest = min(ratio["q1"] for *_, ratio in bars), max(ratio["q3"] for *_, ratio in bars)
    shown = [
        x
        for x in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
        if lowest / 2 <= x <= highest * 2
    ]
    axes.set_xticks(shown, [f"{x:g}x" for x in shown])
    axes.minorticks_off()
    axes.set_xlim(min(lowest * 0.9, 0.9), highest * 2)
    axes.axvline(1, color="black", lw=1)
    axes.set_xlabel("times as fast as the peer, median and quartiles (logarithmic)")
    axes.spines[["top", "right"]].set_visible(False)
    for peer, colour in colours.items():
        axes.barh(0, 0, color=colour, label=f"{peer} {family.version(peer)}")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


if __name__ == "__main__":
    main()
