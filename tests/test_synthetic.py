"""The self-made clip: it holds what it says, and its measures find it."""

import numpy as np
import pytest
from marey import synthetic

SCENE = synthetic.Scene(height=128, width=192)


@pytest.fixture(scope="module")
def clip():
    return SCENE.frames(0, 150)


def test_frames_are_rgb_and_in_range(clip):
    assert clip.shape == (150, 128, 192, 3)
    assert clip.dtype == np.uint8
    assert clip.min() > 0
    assert clip.max() < 255
    assert clip[:, :, : SCENE.split].std() > 20  # a texture, not a flat field


def test_any_part_is_rendered_alike(clip):
    assert np.array_equal(SCENE.frames(40, 45), clip[40:45])
    assert not np.array_equal(synthetic.Scene(128, 192, seed=8).frames(0, 1), clip[:1])


def test_the_measures_find_the_truth(clip):
    times = np.arange(150) / SCENE.fps
    moved, pulse = SCENE.displacement(clip), SCENE.pulse(clip)
    assert np.std(moved - SCENE.true_displacement(times)) < 0.02 * SCENE.sway + 0.005
    assert np.std(pulse - SCENE.true_pulse(times)) < 0.1 * SCENE.flush
    assert synthetic.amplitude(moved, 30, SCENE.sway_hz) == pytest.approx(0.1, rel=0.03)
    assert synthetic.amplitude(pulse, 30, SCENE.flush_hz) == pytest.approx(0.5, rel=0.03)
    assert synthetic.dominant_frequency(moved, 30, 0.5, 3) == pytest.approx(1.2, abs=0.01)
    assert synthetic.dominant_frequency(pulse, 30, 0.5, 3) == pytest.approx(1.1, abs=0.01)


@pytest.mark.parametrize("shift", [0.05, 0.5, 2.0])
def test_displacement_agrees_with_a_whole_shift_of_the_texture(shift):
    # A scene whose sway reaches `shift` a quarter of a period later.
    scene = synthetic.Scene(128, 192, fps=4.0, sway=shift, sway_hz=1.0, noise=0.0)
    first, second = scene.frames(0, 2).astype(float)
    pair = np.stack([first, second])
    moved = scene.displacement(pair)
    # Without noise the rounding to 8 bits costs something at 0.05 pixels; at 2 pixels a soft edge
    # is not straight any more.
    assert moved[1] - moved[0] == pytest.approx(shift, rel=0.05)


def test_still_and_colourless_scenes_measure_nothing():
    scene = synthetic.Scene(128, 192, sway=0.0, flush=0.0)
    clip = scene.frames(0, 60)
    assert synthetic.amplitude(scene.displacement(clip), 30, 1.2) < 0.003
    assert synthetic.amplitude(scene.pulse(clip), 30, 1.1) < 0.03


def test_amplitude_ignores_an_offset_a_trend_and_the_phase():
    t = np.arange(97) / 25
    signal = 3 + 0.7 * t + 1.5 * np.cos(2 * np.pi * 2.2 * t + 1)
    assert synthetic.amplitude(signal, 25, 2.2) == pytest.approx(1.5, rel=1e-9)


@pytest.mark.parametrize("frequency", [0.83, 1.3, 4.06])
def test_dominant_frequency_lies_between_the_bins(frequency):
    t = np.arange(300) / 30
    signal = np.sin(2 * np.pi * frequency * t + 0.3)
    found = synthetic.dominant_frequency(signal, 30, 0.5, 6)
    assert found == pytest.approx(frequency, abs=0.005)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"at least 64 pixels; found 32x192"):
        synthetic.Scene(32, 192)
    with pytest.raises(ValueError, match=r"inside \(0, fps/2\) = \(0, 15\) Hz; found 20 to 30"):
        synthetic.dominant_frequency(np.zeros(10), 30, 20, 30)
