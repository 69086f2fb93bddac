"""Filters along time."""

from __future__ import annotations

import numpy as np

from bench.gpu_gate.workloads.work import Work, nbytes


def temporal_work(shape: tuple[int, ...], dtype: str) -> list[Work]:
    import marey
    from marey.reference import temporal as reference

    sos = marey.temporal.butter_bandpass(0.4, 3, 30, order=2)
    taps = np.hanning(11)[1:-1]
    result = "float32" if dtype == "uint8" else dtype
    eps = 1e-12 if dtype == "float64" else 2e-5
    label = f"{'x'.join(map(str, shape))} {dtype}"
    x, y = (shape, dtype), (shape, result)
    t = marey.temporal
    made = [
        Work(
            f"sosfilt, 2 sections, {label}",
            (x,),
            lambda x, out: t.sosfilt(sos, x, out=out),
            y,
            lambda x: reference.sosfilt(sos, x),
            eps,
            nbytes(x, y),
        ),
        Work(
            f"convolve, 9 taps, {label}",
            (x,),
            lambda x, out: t.convolve(x, taps, out=out),
            y,
            lambda x: reference.convolve(x, taps),
            eps,
            nbytes(x, y),
        ),
        Work(
            f"median_filter, 5, {label}",
            (x,),
            lambda x, out: t.median_filter(x, 5, out=out),
            x,
            lambda x: reference.median_filter(x, 5),
            0.0,
            nbytes(x, x),
        ),
        Work(
            f"median, {label}",
            (x,),
            lambda x, out: t.median(x, out=out),
            (shape[1:], result),
            lambda x: np.median(x.astype(np.float64), axis=0),
            eps,
            nbytes(x, (shape[1:], result)),
            target=0.5,
        ),
    ]
    if shape[0] > 20:
        made.append(
            Work(
                f"sosfiltfilt, 2 sections, {label}",
                (x,),
                lambda x, out: t.sosfiltfilt(sos, x, out=out),
                y,
                lambda x: reference.sosfiltfilt(sos, x),
                10 * eps,
                nbytes(x, y, y, y),
            )
        )
    return made
