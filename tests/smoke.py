"""What an installed wheel must do, without a test runner: ``python tests/smoke.py``."""

import marey
import numpy as np
from marey import _cpu, reference


def main() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((97, 113, 3), dtype=np.float32)
    bands = marey.pyramid.laplacian(image, 4)
    assert np.abs(marey.pyramid.collapse(bands) - image).max() < 1e-6
    assert np.abs(marey.pyramid.down(image) - reference.pyramid.down(image)).max() < 1e-6

    video = rng.integers(0, 256, (20, 48, 64, 3), np.uint8)
    sos = marey.temporal.butter_bandpass(0.4, 3, fs=30)
    filtered = marey.temporal.sosfilt(sos, video)
    assert np.abs(filtered - reference.temporal.sosfilt(sos, video)).max() < 1e-2
    assert marey.magnify(video, 30, 0.4, 3, 10).shape == video.shape

    assert _cpu.probe()["isa"] == _cpu.active_isa() == marey.config.available_isas()[-1]
    print("marey", marey.__version__, marey.config.build_config())


if __name__ == "__main__":
    main()
