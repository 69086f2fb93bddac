"""How a kernel becomes a function of JAX: XLA custom calls, and derivatives by hand."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

try:
    from marey import _jax  # type: ignore[attr-defined,unused-ignore]
except ImportError as error:
    raise ImportError(
        "[marey.jax] expected a marey that was built where JAX's headers are; found one without "
        "(install jax, and then marey with --no-build-isolation, or with "
        "-C cmake.define.MAREY_JAX_INCLUDE_DIR=<what jax.ffi.include_dir() prints>)"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable

_handlers: dict[str, Any] = _jax.handlers  # type: ignore[attr-defined,unused-ignore]
for _name, _handler in _handlers.items():
    jax.ffi.register_ffi_target(f"marey_{_name}", _handler, platform="cpu")

Shape = tuple[int, ...]


def call(name: str, results: Any, *arrays: Any, vmap: str = "broadcast_all", **options: Any) -> Any:
    """Call a kernel; options are int, float or a sequence of floats."""
    plain = {
        key: np.int64(value)
        if isinstance(value, int)
        else np.float64(value)
        if isinstance(value, float)
        else np.asarray(value, np.float64)
        for key, value in options.items()
    }
    return jax.ffi.ffi_call(f"marey_{name}", results, vmap_method=vmap)(*arrays, **plain)


def like(x: Any, shape: Shape | None = None) -> jax.ShapeDtypeStruct:
    dtype = jnp.float32 if x.dtype == jnp.uint8 else x.dtype
    return jax.ShapeDtypeStruct(x.shape if shape is None else shape, dtype)


def linear_in_signal(
    forward: Callable[..., Any], adjoint: Callable[..., Any], static: int
) -> Callable[..., Any]:
    """Return `forward(x, *parameters)` with `adjoint(g, shape of x, *parameters)` as derivative."""

    @functools.partial(jax.custom_vjp, nondiff_argnums=tuple(range(1, static + 1)))
    def function(x: Any, *parameters: Any) -> Any:
        return forward(x, *parameters)

    def remember(x: Any, *parameters: Any) -> tuple[Any, Static]:
        # Of x only its shape, which is no array: it travels in a tree without leaves.
        return function(x, *parameters), Static(x.shape)

    def back(*arguments: Any) -> tuple[Any]:
        *parameters, shape, grads = arguments
        return (adjoint(grads, shape.value, *parameters),)

    function.defvjp(remember, back)
    return function


@jax.tree_util.register_static
class Static:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self.value == other.value
