"""A clip whose motion and colour are known: for tests, the demonstration and the documentation.

The left half of a `Scene` is a smooth texture that sways sideways by a fraction of a pixel; the
right half is a skin-coloured patch whose colour pulses by a fraction of a level. Neither can be
seen. `Scene.displacement` and `Scene.pulse` measure both again, before and after magnification.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scene", "amplitude", "dominant_frequency"]

Signal = NDArray[np.float64]

_SKIN = np.array([198.0, 150.0, 128.0])
# Blood absorbs green most: the ratio of the pulse in R, G, B.
_PULSE = np.array([0.5, 1.0, 0.6])


@dataclass(frozen=True)
class Scene:
    """A swaying texture beside a pulsing patch.

    Frames are rendered exactly, for any time and without interpolation: the texture is a sum of
    plane waves. The noise of a frame depends on `seed` and its index alone, so any part of the
    clip can be rendered by itself.

    Parameters
    ----------
    height, width : int
        In pixels; at least 64 each.
    fps : float
        Frames a second.
    sway : float
        Amplitude of the motion along x, in pixels.
    sway_hz : float
    flush : float
        Amplitude of the green channel's pulse, in levels (of 255); red and blue follow.
    flush_hz : float
    noise : float
        Standard deviation of the sensor noise, in levels. It carries the signal through the
        rounding to 8 bits (and to 8-bit chroma at half resolution, which wants about 2).
    wavelengths : (float, float)
        Of the texture's shortest and longest waves, in pixels.
    seed : int
    """

    height: int = 256
    width: int = 384
    fps: float = 30.0
    sway: float = 0.1
    sway_hz: float = 1.2
    flush: float = 0.5
    flush_hz: float = 1.1
    noise: float = 2.0
    wavelengths: tuple[float, float] = (40.0, 80.0)
    seed: int = 7

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 64:
            raise ValueError(
                "[marey.synthetic.Scene] height, width: expected at least 64 pixels; "
                f"found {self.height}x{self.width}"
            )

    @cached_property
    def _waves(self) -> tuple[Signal, Signal, Signal, Signal]:
        """Wave vectors (radians a pixel, along x and y), phases and amplitudes in levels."""
        rng = np.random.default_rng(self.seed)
        count = 10
        wavelength = np.geomspace(*self.wavelengths, count)
        angle = rng.uniform(-0.6, 0.6, count)
        k = 2 * np.pi / wavelength
        return (
            k * np.cos(angle),
            k * np.sin(angle),
            rng.uniform(0, 2 * np.pi, count),
            np.full(count, 45.0 / np.sqrt(count)),
        )

    @property
    def split(self) -> int:
        """The column at which the patch begins."""
        return self.width // 2

    @property
    def texture_region(self) -> tuple[slice, slice]:
        """Rows and columns of the texture, away from its edges."""
        margin = self.height // 8
        return slice(margin, self.height - margin), slice(margin, self.split - margin)

    @property
    def patch_region(self) -> tuple[slice, slice]:
        """Rows and columns of the patch, away from its edges."""
        margin = self.height // 6
        return (
            slice(margin, self.height - margin),
            slice(self.split + margin, self.width - margin),
        )

    def _phase(self, region: tuple[slice, slice]) -> Signal:
        """Phase of each wave at each pixel of a region, (waves, rows, columns)."""
        kx, ky, phase, _ = self._waves
        y = np.arange(self.height)[region[0]]
        x = np.arange(self.width)[region[1]]
        return (
            kx[:, None, None] * x[None, None, :]
            + ky[:, None, None] * y[None, :, None]
            + phase[:, None, None]
        )

    @cached_property
    def _texture_parts(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """cos and sin of the phases, so that a shift costs one small product."""
        _, _, _, size = self._waves
        phase = self._phase((slice(None), slice(0, self.split)))
        cosine, sine = np.cos(phase), np.sin(phase)
        return (
            (size[:, None, None] * cosine).astype(np.float32),
            (size[:, None, None] * sine).astype(np.float32),
        )

    def true_displacement(self, times: Signal) -> Signal:
        """Of the texture along x, in pixels."""
        return self.sway * np.sin(2 * np.pi * self.sway_hz * times)

    def true_pulse(self, times: Signal) -> Signal:
        """Of the patch's green channel, in levels."""
        return self.flush * np.sin(2 * np.pi * self.flush_hz * times)

    def frames(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Render frames `start` to `stop` - 1.

        Returns
        -------
        ndarray of uint8, (stop - start, height, width, 3)
        """
        cosine, sine = self._texture_parts
        kx = self._waves[0]
        out = np.empty((stop - start, self.height, self.width, 3), np.uint8)
        for index in range(start, stop):
            time = np.array(index / self.fps)
            turn = (kx * self.true_displacement(time)).astype(np.float32)
            rng = np.random.default_rng([self.seed, index])
            frame = rng.standard_normal(out.shape[1:], np.float32)
            frame *= np.float32(self.noise)
            # cos(k(x - d) + phase), by the sum of angles
            texture = np.tensordot(np.cos(turn), cosine, 1) + np.tensordot(np.sin(turn), sine, 1)
            frame[:, : self.split] += np.float32(128.0) + texture[..., None]
            frame[:, self.split :] += (_SKIN + _PULSE * self.true_pulse(time)).astype(np.float32)
            np.clip(np.rint(frame, out=frame), 0, 255, out=frame)
            out[index - start] = frame
        return out

    def displacement(self, frames: NDArray[np.generic]) -> Signal:
        """Measure the texture's displacement along x, in pixels, from the frames' mean.

        Least squares on the texture's exact gradient: linear in the frames, and exact for
        displacements that are small beside the texture's wavelengths.

        Parameters
        ----------
        frames : ndarray, (T, height, width, 3)

        Returns
        -------
        ndarray of float64, (T,)
        """
        region = self.texture_region
        kx, _, _, size = self._waves
        gradient = -np.tensordot(size * kx, np.sin(self._phase(region)), 1)
        grey = frames[:, region[0], region[1]].mean(axis=-1, dtype=np.float64)
        grey -= grey.mean(axis=0)
        moved: Signal = -np.tensordot(grey, gradient, 2) / np.sum(gradient * gradient)
        return moved

    def pulse(self, frames: NDArray[np.generic]) -> Signal:
        """Measure the patch's mean green level, less its mean over time.

        Parameters
        ----------
        frames : ndarray, (T, height, width, 3)

        Returns
        -------
        ndarray of float64, (T,)
        """
        rows, columns = self.patch_region
        green: Signal = frames[:, rows, columns, 1].mean(axis=(1, 2), dtype=np.float64)
        return green - green.mean()


def amplitude(signal: Signal, fps: float, frequency: float) -> float:
    """Amplitude of the sine of a known frequency (Hz) in a signal, by least squares.

    A constant and a linear trend are fitted beside it.
    """
    times = np.arange(len(signal)) / fps
    turns = 2 * np.pi * frequency * times
    basis = np.stack([np.sin(turns), np.cos(turns), np.ones_like(times), times], axis=1)
    fit = np.linalg.lstsq(basis, signal, rcond=None)[0]
    return float(np.hypot(fit[0], fit[1]))


def dominant_frequency(signal: Signal, fps: float, low: float, high: float) -> float:
    """The frequency (Hz) of the strongest sine between two others.

    The windowed spectrum is zero-padded 16-fold and its peak interpolated by a parabola.
    """
    windowed = (signal - signal.mean()) * np.hanning(len(signal))
    size = 16 * len(signal)
    power = np.log(np.abs(np.fft.rfft(windowed, size)) ** 2 + 1e-300)
    frequency = np.fft.rfftfreq(size, 1 / fps)
    inside = np.flatnonzero((frequency >= low) & (frequency <= high))
    if len(inside) == 0:
        raise ValueError(
            "[marey.synthetic.dominant_frequency] low, high: expected a band inside "
            f"(0, fps/2) = (0, {fps / 2:g}) Hz; found {low:g} to {high:g}"
        )
    peak = int(inside[np.argmax(power[inside])])
    if not 0 < peak < len(power) - 1:
        return float(frequency[peak])
    before, here, after = power[peak - 1 : peak + 2]
    curve = before - 2 * here + after
    return float(frequency[peak] + (0.5 * (before - after) / curve if curve else 0.0) * fps / size)
