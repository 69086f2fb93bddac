"""Recurrent networks: sequences, and back through time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.gpu_gate.workloads.work import Work, copied, nbytes

if TYPE_CHECKING:
    from bench.gpu_gate.libraries import Array

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def recurrent_work(kind: str, steps: int, rows: int, hidden: int, dtype: str) -> list[Work]:
    import marey

    x = ((steps, rows, hidden), dtype)
    weight = ((GATES[kind] * hidden, hidden), dtype)
    # Weights of the size that they are initialised with, so that nothing saturates.
    small = hidden**-0.5

    def run(x: Any, w: Any, u: Any, out: Any) -> Any:
        return getattr(marey.recurrent, kind)(x, w * small, u * small, out=out)

    def reference(x: Array, w: Array, u: Array) -> Array:
        wide = [a.astype(np.float64) for a in (x, w * np.float32(small), u * np.float32(small))]
        return np.asarray(getattr(marey.recurrent, kind)(*wide)[0])

    return [
        Work(
            f"{kind}, T{steps} N{rows} H{hidden} {dtype}",
            (x, weight, weight),
            run,
            x,
            reference,
            2**-5 if dtype == "bfloat16" else 1e-5,
            nbytes(x, x, weight, weight),
            2.0 * steps * rows * 2 * GATES[kind] * hidden * hidden,
            "lstm",
            0.65,
            {"hidden": hidden},
        )
    ]


def recurrent_backward_work(
    kind: str, steps: int, rows: int, hidden: int, dtype: str, *, of_weight: bool = False
) -> list[Work]:
    import marey

    x = ((steps, rows, hidden), dtype)
    weight = ((GATES[kind] * hidden, hidden), dtype)
    small = hidden**-0.5

    def grad(g: Any, x: Any, w: Any, u: Any) -> Any:
        w, u = w * small, u * small
        backward = getattr(marey.recurrent, f"{kind}_backward")
        if kind == "rnn":
            grads = backward(g, x, w, u, y=marey.recurrent.rnn(x, w, u)[0])
        else:
            y, _, kept = getattr(marey.recurrent, kind)(x, w, u, keep=True)
            grads = backward(g, x, w, u, y=y, kept=kept)
        return grads.weight_hh if of_weight else grads.x

    def reference(*arrays: Array) -> Array:
        return np.asarray(grad(*(a.astype(np.float64) for a in arrays)))

    real = "float32" if dtype == "bfloat16" else dtype
    return [
        Work(
            f"{kind} backward of {'weight_hh' if of_weight else 'x'}, "
            f"T{steps} N{rows} H{hidden} {dtype}",
            (x, x, weight, weight),
            lambda g, x, w, u, out: copied(out, grad(g, x, w, u)),
            (weight[0], real) if of_weight else x,
            reference,
            2**-4 if dtype == "bfloat16" else 2e-5,
            nbytes(x, x, x, weight, weight),
            6.0 * steps * rows * 2 * GATES[kind] * hidden * hidden,
            "lstm backward",
            0.5,
            {"hidden": hidden},
        )
    ]
