"""A clip whose motion and colour are known: for tests, the demonstration and the documentation.

The left half of a `Scene` is a blotchy texture that sways sideways by a fraction of a pixel; the
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

# Levels, and how steep the soft step is: sharper edges would hold waves too short to magnify.
_BLOTCHES = np.float32(80.0)
_STEEPNESS = np.float32(0.4)

_SKIN = np.array([198.0, 150.0, 128.0])
# Blood absorbs green most: the ratio of the pulse in R, G, B.
_PULSE = np.array([0.5, 1.0, 0.6])


@dataclass(frozen=True)
class Scene:
    """A swaying texture beside a pulsing patch.

    Frames are rendered exactly, for any time and without interpolation: the texture is a function
    (a soft step) of a sum of plane waves. The noise of a frame depends on `seed` and its index
    alone, so any part of the clip can be rendered by itself.

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
    wavelengths: tuple[float, float] = (48.0, 96.0)
    seed: int = 7

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 64:
            raise ValueError(
                "[marey.synthetic.Scene] height, width: expected at least 64 pixels; "
                f"found {self.height}x{self.width}"
            )

    @cached_property
    def _waves(self) -> tuple[Signal, Signal, Signal]:
        """Wave vectors (radians a pixel, along x and y) and phases."""
        rng = np.random.default_rng(self.seed)
        count = 10  # of variance 1/2 each
        wavelength = np.geomspace(*self.wavelengths, count)
        angle = rng.uniform(-0.6, 0.6, count)
        k = 2 * np.pi / wavelength
        return (
            k * np.cos(angle),
            k * np.sin(angle),
            rng.uniform(0, 2 * np.pi, count),
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
        kx, ky, phase = self._waves
        y = np.arange(self.height)[region[0]]
        x = np.arange(self.width)[region[1]]
        return (
            kx[:, None, None] * x[None, None, :]
            + ky[:, None, None] * y[None, :, None]
            + phase[:, None, None]
        )

    @cached_property
    def _texture_parts(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Cosine and sine of the phases, so that a shift costs one small product."""
        phase = self._phase((slice(None), slice(0, self.split)))
        return np.cos(phase).astype(np.float32), np.sin(phase).astype(np.float32)

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
            texture = np.einsum("k,khw->hw", np.cos(turn), cosine)
            texture += np.einsum("k,khw->hw", np.sin(turn), sine)
            texture = _BLOTCHES * np.tanh(_STEEPNESS * texture, out=texture)
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
        phase = self._phase(region)
        step = np.tanh(_STEEPNESS * np.cos(phase).sum(axis=0))
        slope = -np.einsum("k,khw->hw", self._waves[0], np.sin(phase))
        gradient = _BLOTCHES * _STEEPNESS * (1 - step * step) * slope
        grey = frames[:, region[0], region[1]].mean(axis=-1, dtype=np.float64)
        grey -= grey.mean(axis=0)
        moved: Signal = -np.einsum("thw,hw->t", grey, gradient) / np.sum(gradient * gradient)
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
        green -= green.mean()
        return green


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
