"""Pyramids, and the magnifier that is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bench.gpu_gate.workloads.work import Work, nbytes

if TYPE_CHECKING:
    from bench.gpu_gate.libraries import Array


def pyramid_work(shape: tuple[int, ...], dtype: str) -> list[Work]:
    import marey
    from marey.reference import pyramid as reference

    label = f"{'x'.join(map(str, shape))} {dtype}"
    n, h, w, c = shape
    half = (n, (h + 1) // 2, (w + 1) // 2, c)
    x = (shape, dtype)
    p = marey.pyramid
    eps = 1e-12 if dtype == "float64" else 1e-5
    made = [
        Work(
            f"down, {label}",
            (x,),
            lambda x, out: p.down(x, out=out),
            (half, dtype),
            reference.down,
            eps,
            nbytes(x, (half, dtype)),
            target=0.75,
        ),
        Work(
            f"up, {label}",
            ((half, dtype),),
            lambda x, out: p.up(x, (h, w), out=out),
            x,
            lambda x: reference.up(x, (h, w)),
            eps,
            nbytes((half, dtype), x),
            target=0.75,
        ),
    ]
    if dtype != "uint8":
        made.append(
            Work(
                f"laplacian and collapse, 4 levels, {label}",
                (x,),
                lambda x, out: p.collapse(p.laplacian(x, 4), out=out),
                x,
                lambda x: x.astype(np.float64),
                1e-5,
                4 * nbytes(x),
                target=0.6,
            )
        )
    return made


def magnifier_work(shape: tuple[int, ...], dtype: str) -> list[Work]:
    import marey

    label = f"{'x'.join(map(str, shape))} {dtype}"

    def run(x: Any, out: Any) -> Any:
        magnifier = marey.Magnifier(shape[1:], 30, 0.4, 3, 10, cutoff=16, levels=3, dtype=dtype)
        return magnifier.feed(x, out=out)

    def reference(x: Array) -> Array:
        magnifier = marey.Magnifier(shape[1:], 30, 0.4, 3, 10, cutoff=16, levels=3, dtype=dtype)
        return np.asarray(magnifier.feed(x))

    x = (shape, dtype)
    return [
        Work(
            f"Magnifier, linear motion, {label}",
            (x,),
            run,
            x,
            reference,
            2.1 / 255,
            3 * nbytes(x),
            target=0.5,
        )
    ]
