"""marey for torch: the functions as custom operations with gradients, and modules made of them.

`marey.torch.pyramid`, `temporal`, `conv`, `recurrent` and `attention` have the names and the
meanings of marey's own modules; tensors on the CPU go in and come out, without copies. They work
under `torch.compile` and autocast, and in forked workers of a data loader.
`marey.torch.nn` has modules, and `accelerate` puts them into a model that exists.
"""

from marey.torch import attention, conv, nn, pyramid, recurrent, temporal
from marey.torch._accelerate import Acceleration, accelerate

__all__ = [
    "Acceleration",
    "accelerate",
    "attention",
    "conv",
    "nn",
    "pyramid",
    "recurrent",
    "temporal",
]
