"""Space-time convolution and pooling.

Arrays are ``(N, C, T, H, W)``, or ``(N, T, H, W, C)`` with ``layout="NTHWC"``: float32, float64, or
bfloat16 (`ml_dtypes.bfloat16`), which is summed in float32. Weights are always
``(K, C / groups, kT, kH, kW)``, as torch and ONNX have them. A convolution in one or two dimensions
is one whose other axes are 1 long.
"""

from marey.conv._backward import conv3d_backward
from marey.conv._conv3d import Conv3d, conv3d
from marey.conv._inflate import inflate
from marey.conv._pool import (
    avg_pool3d,
    avg_pool3d_backward,
    global_avg_pool3d,
    global_avg_pool3d_backward,
    max_pool3d,
    max_pool3d_backward,
)
from marey.conv._separable import separable_conv3d
from marey.conv._stream import CausalConv3d, causal_conv3d

__all__ = [
    "CausalConv3d",
    "Conv3d",
    "avg_pool3d",
    "avg_pool3d_backward",
    "causal_conv3d",
    "conv3d",
    "conv3d_backward",
    "global_avg_pool3d",
    "global_avg_pool3d_backward",
    "inflate",
    "max_pool3d",
    "max_pool3d_backward",
    "separable_conv3d",
]
