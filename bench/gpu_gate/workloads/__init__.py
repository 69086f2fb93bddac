"""What the gate checks (small workloads) and times (large ones)."""

from __future__ import annotations

from bench.gpu_gate.workloads.attention import (
    attention_backward_work,
    attention_work,
    biased_work,
    decode_work,
    packed_work,
)
from bench.gpu_gate.workloads.conv import causal_conv_work, conv_backward_work, conv_work
from bench.gpu_gate.workloads.pyramid import magnifier_work, pyramid_work
from bench.gpu_gate.workloads.recurrent import GATES, recurrent_backward_work, recurrent_work
from bench.gpu_gate.workloads.temporal import temporal_work
from bench.gpu_gate.workloads.work import Work

__all__ = ["Work", "large_works", "small_works"]


def small_works(dry: bool) -> list[Work]:
    """Return ragged, misaligned and tiny shapes, to be compared with float64."""
    made: list[Work] = []
    for dtype in ("uint8", "float32", "float64"):
        for shape in ((1, 1), (1, 97), (40, 257), (33, 16, 20, 3)):
            made += temporal_work(shape, dtype)
        for shape in ((1, 1, 1, 1), (2, 17, 33, 3), (1, 64, 130, 1), (3, 5, 2, 4)):
            made += pyramid_work(shape, dtype)
    for dtype in ("uint8", "float32"):
        made += magnifier_work((5, 33, 40, 3), dtype)
    made += attention_work(1, (2, 2), 40, 16, "float64")
    made += attention_work(2, (4, 2), 70, 40, "float32", causal=True)
    for dtype in ("float32", "float64", "bfloat16"):
        made += conv_work((2, 3, 4, 9, 7), 70, (3, 3, 3), dtype)
        made += conv_work((1, 17, 3, 5, 6), 4, (1, 1, 1), dtype)
        made += conv_backward_work((2, 3, 4, 9, 7), 70, (3, 3, 3), dtype)
        made += conv_backward_work((1, 5, 4, 9, 7), 6, (2, 3, 3), dtype, stride=2)
        made += conv_backward_work((2, 3, 4, 9, 7), 70, (3, 3, 3), dtype, of_weight=True)
        # So deep that all stages of shared memory are used again.
        made += causal_conv_work((1, 40, 6, 5, 6), 9, (3, 2, 2), dtype)
        # Rows and weights that copies of 16 bytes take: first, since sanitizers watch the first.
        made += recurrent_work("lstm", 4, 20, 64, dtype)
        made += recurrent_backward_work("lstm", 4, 20, 64, dtype)
        made += recurrent_backward_work("gru", 4, 20, 64, dtype, of_weight=True)
        for kind in GATES:
            made += recurrent_work(kind, 5, 3, 17, dtype)
            made += recurrent_backward_work(kind, 5, 3, 17, dtype)
        made += packed_work((3, 0, 40, 17), 3, 24, dtype)
        made += decode_work((4, 2), 700, 32, dtype)
        for which in range(3):
            made += attention_backward_work(2, (4, 2), 50, 40, dtype, causal=True, which=which)
        for which in (-1, 0, 3):
            made += biased_work((4, 2), (20, 45), 24, dtype, which)
    # What Hopper's own kernel takes: channels last, by eights. So deep that its ring goes round.
    made += conv_work((2, 24, 4, 9, 7), 70, (3, 3, 3), "bfloat16", layout="NTHWC")
    made += conv_work((1, 64, 3, 17, 33), 200, (1, 3, 3), "bfloat16", layout="NTHWC")
    # A launch for each step.
    made += recurrent_work("lstm", 3, 200, 33, "float32")
    made += recurrent_backward_work("lstm", 3, 200, 33, "float32")
    for length in (129,) if dry else (16, 127, 129, 300):
        causal = length % 2 == 1
        for depth in (64, 128, 256):
            made += attention_work(2, (4, 2), length, depth, "bfloat16", causal=causal)
            for which in (1,) if dry else range(3):
                made += attention_backward_work(
                    2, (4, 2), length, depth, "bfloat16", causal=causal, which=which
                )
    return made


def large_works(dry: bool) -> list[Work]:
    """Return what is timed."""
    if dry:
        return [
            *temporal_work((24, 64), "float32"),
            *pyramid_work((1, 32, 32, 3), "float32"),
            *magnifier_work((3, 32, 32, 3), "uint8"),
            *attention_work(1, (2, 2), 64, 64, "bfloat16"),
            *conv_work((1, 8, 4, 8, 8), 16, (3, 3, 3), "float32"),
            *conv_work((1, 8, 4, 8, 8), 16, (3, 3, 3), "bfloat16", layout="NTHWC"),
            *recurrent_work("lstm", 3, 4, 16, "float32"),
            *attention_backward_work(1, (2, 2), 40, 32, "float32"),
            *decode_work((2, 1), 600, 32, "bfloat16"),
            *conv_backward_work((1, 8, 2, 6, 6), 16, (3, 3, 3), "float32"),
            *recurrent_backward_work("lstm", 3, 4, 16, "float32"),
        ]
    made = temporal_work((300, 1080, 1920), "uint8") + temporal_work((128, 1080, 1920), "float32")
    made += temporal_work((300, 128, 128), "float32")
    made += pyramid_work((32, 1080, 1920, 3), "uint8")
    made += pyramid_work((32, 1080, 1920, 3), "float32")
    made += magnifier_work((32, 1080, 1920, 3), "uint8")
    for length, batch in ((2048, 8), (8192, 2), (16384, 1)):
        made += attention_work(batch, (64, 8), length, 128, "bfloat16")
        made += attention_work(batch, (64, 8), length, 128, "bfloat16", causal=True)
    made += attention_work(2, (32, 32), 8192, 64, "bfloat16")
    made += attention_work(2, (16, 16), 8192, 256, "bfloat16")
    made += attention_work(1, (16, 16), 2048, 64, "float32", target=0.3)
    made += conv_work((8, 64, 8, 56, 56), 64, (3, 3, 3), "float32")
    made += conv_work((8, 64, 8, 56, 56), 64, (3, 3, 3), "bfloat16")
    for kernel in ((3, 3, 3), (1, 3, 3), (3, 1, 1)):
        made += conv_work((8, 64, 8, 56, 56), 64, kernel, "bfloat16", layout="NTHWC")
    made += conv_work((8, 256, 4, 28, 28), 256, (3, 3, 3), "bfloat16", layout="NTHWC")
    made += recurrent_work("lstm", 256, 16, 768, "float32")
    made += recurrent_work("lstm", 1024, 16, 768, "bfloat16")
    made += recurrent_backward_work("lstm", 256, 16, 768, "float32")
    made += recurrent_backward_work("lstm", 1024, 16, 768, "bfloat16")
    made += attention_backward_work(1, (16, 16), 2048, 64, "float32")
    made += attention_backward_work(2, (64, 8), 8192, 128, "bfloat16")
    made += attention_backward_work(2, (64, 8), 8192, 128, "bfloat16", causal=True)
    made += attention_backward_work(2, (32, 32), 8192, 64, "bfloat16")
    made += attention_backward_work(2, (16, 16), 8192, 256, "bfloat16")
    made += packed_work((512,) * 64, 16, 64, "bfloat16")
    made += decode_work((64, 8), 32768, 128, "bfloat16")
    for of_weight in (False, True):
        made += conv_backward_work(
            (8, 64, 8, 56, 56), 64, (3, 3, 3), "bfloat16", of_weight=of_weight
        )
    return made
