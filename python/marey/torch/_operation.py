"""How a function of marey becomes an operation of torch.

`operation` defines a `torch.library.custom_op` from a schema and a function over NumPy arrays, and
`gradient` gives it a derivative. Tensors and arrays share their memory in both directions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Array = np.ndarray[Any, Any]

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None


def to_array(tensor: torch.Tensor) -> Any:
    """Return a view of a tensor's memory as an array; a CUDA tensor as it is.

    Raises
    ------
    TypeError
        If it is on another device, or bfloat16 without `ml_dtypes`.
    """
    if tensor.is_cpu and tensor.dtype is not torch.bfloat16:
        # In one call: without its history, and with what conj() and neg() put off.
        return tensor.numpy(force=True)
    if tensor.is_cuda:
        # marey's functions take it, if there is a CUDA module.
        return tensor.detach().resolve_conj().resolve_neg()
    if not tensor.is_cpu:
        raise TypeError(
            f"[marey.torch] tensor: expected one on the CPU; found one on {tensor.device} "
            "(this build of marey has no kernels for it)"
        )
    if bfloat16 is None:
        raise TypeError("[marey.torch] bfloat16: expected the package ml_dtypes; found none")
    return tensor.detach().resolve_neg().view(torch.int16).numpy().view(bfloat16)


def to_tensor(array: Any) -> Any:
    """Return a tensor that shares an array's memory; a tensor as it is."""
    if type(array) is not np.ndarray:
        return array
    if array.dtype.kind == "V":  # bfloat16, which NumPy knows by ml_dtypes alone
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def new(tensor: torch.Tensor, shape: Sequence[Any] | None = None) -> torch.Tensor:
    """Return an empty tensor of this one's type, and its shape unless told, in C order."""
    if shape is not None:
        return tensor.new_empty(list(shape))
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def wants_gradient(*tensors: torch.Tensor | None) -> bool:
    """Return whether a result of these tensors is to be differentiated."""
    return torch.is_grad_enabled() and True in [t.requires_grad for t in tensors if t is not None]


def _returning(kinds: list[str]) -> Callable[[Any], Any]:
    """Return what makes the results of these types of what a function over arrays gives."""
    if len(kinds) > 1:
        return lambda results: tuple([to_tensor(result) for result in results])
    if "List" in kinds[0]:
        return lambda results: [to_tensor(result) for result in results]
    return to_tensor


def unwatched() -> bool:
    """Return whether nothing of torch's has a part in a call now: no compiler, mode or profiler."""
    return not (
        torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or torch.autograd._profiler_enabled()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )


_PLAIN = (torch.Tensor, torch.nn.Parameter)


def straight(tensors: Sequence[torch.Tensor]) -> bool:
    """Return whether a call may go straight to the kernel: unwatched, plain tensors on the CPU."""
    return unwatched() and False not in [
        type(tensor) in _PLAIN and tensor.is_cpu for tensor in tensors
    ]


class Operation:
    """An operation of torch's, ``torch.ops.marey.<name>``.

    A call of it goes through torch's dispatcher, three times, only where someone listens there;
    others go `straight` to the kernel, by `function` if a gradient is wanted.

    Attributes
    ----------
    definition : torch.library.CustomOpDef
        What torch knows.
    function : type of torch.autograd.Function or None
        The same with its derivative, for arguments that are `spread`.
    of_list : bool
        Whether the first argument is a list of tensors; no other is.
    tensors : list of int
        Which arguments are tensors or None.
    """

    function: Any = None

    def __init__(self, schema: str, function: Callable[..., Any]) -> None:
        name, _, rest = schema.partition("(")
        self._function = function
        self.definition = torch.library.custom_op(
            f"marey::{name}", self.run, mutates_args=(), schema=f"({rest}"
        )
        declared = self.definition._opoverload._schema
        self.names = [argument.name for argument in declared.arguments]
        kinds = [str(argument.type) for argument in declared.arguments]
        self.of_list = kinds[0] == "List[Tensor]"
        self.tensors = [k for k, kind in enumerate(kinds) if kind in _TENSORS]
        results = [str(result.type) for result in declared.returns]
        self.results = len(results)
        self.listed = results == ["List[Tensor]"]
        self._to_tensors = _returning(results)

    def __call__(self, *arguments: Any) -> Any:
        given = [arguments[k] for k in self.tensors if arguments[k] is not None]
        if self.of_list:
            given += arguments[0]
        if straight(given):
            if not wants_gradient(*given):
                return self.run(*arguments)
            if self.function is not None:
                found = self.function.apply(*self.spread(arguments))
                return list(found) if self.listed else found
        return self.definition(*arguments)

    def run(self, *arguments: Any) -> Any:
        """Compute, without a derivative."""
        values = list(arguments)
        for k in self.tensors:
            if values[k] is not None:
                values[k] = to_array(values[k])
        if self.of_list:
            values[0] = [to_array(item) for item in values[0]]
        return self._to_tensors(self._function(*values))

    def spread(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return what belongs to each argument, with that of a list one by one."""
        return (*values[0], *values[1:]) if self.of_list else values

    def gathered(self, values: Sequence[Any]) -> Sequence[Any]:
        """Return what was `spread`."""
        count = len(values) - len(self.names) + 1
        return (list(values[:count]), *values[count:]) if self.of_list else values


_TENSORS = ("Tensor", "Optional[Tensor]")


def operation(
    schema: str,
    function: Callable[..., Any],
    fake: Callable[[Call], Any],
    *,
    autocast: torch.dtype = torch.float32,
) -> Operation:
    """Define ``torch.ops.marey.<name>``.

    Parameters
    ----------
    schema : str
        As torch writes it, the name first: ``"pyramid_down(Tensor image, int? axis) -> Tensor"``.
    function
        Takes NumPy arrays for the tensors, and returns new arrays.
    fake
        Takes the `Call`, with its tensors, and returns empty ones of the results' shapes and types.
    autocast
        What float32 and shorter tensors are cast to under ``torch.autocast("cpu")``.
    """
    op = Operation(schema, function)
    op.definition.register_fake(
        lambda *arguments: fake(Call(dict(zip(op.names, arguments, strict=True))))
    )
    op.definition.register_autocast("cpu", autocast)
    return op


class Call:
    """The arguments of a call by name.

    Where a derivative is wanted, a tensor that it did not ask for is represented by its shape.
    """

    def __init__(self, values: dict[str, Any], needed: dict[str, bool] | None = None) -> None:
        self._values = values
        self._needed = needed or {}

    def __getattr__(self, name: str) -> Any:
        """Return an argument."""
        return self._values[name]

    def needs(self, name: str) -> bool:
        """Return whether the gradient of this argument is wanted."""
        return self._needed[name]


def gradient(
    op: Operation,
    derivative: Callable[..., dict[str, Any]],
    *,
    save: Sequence[str] = (),
    constant: Sequence[str] = (),
) -> None:
    """Give an operation its derivative.

    Parameters
    ----------
    op
        What `operation` returned.
    derivative
        Takes a `Call` and the gradients of the results, and returns those of arguments by name.
    save : sequence of str
        The tensors that it needs: arguments by name, results as ``"result0"``, ``"result1"``.
    constant : sequence of str
        The results that have no derivative.
    """
    names = op.names
    everything = [*names, *(f"result{k}" for k in range(op.results))]
    # By place, because this runs at every call.
    saved = [everything.index(name) for name in save]
    fixed = [everything.index(name) for name in constant]
    tensors = [0, *op.tensors] if op.of_list else op.tensors
    shapes = [k for k in tensors if k not in saved]
    others = [k for k in range(len(names)) if k not in tensors]
    kept = [names[k] for k in (*shapes, *others)]
    several = op.results > 1

    def setup_context(ctx: Any, inputs: Sequence[Any], output: Any) -> None:
        values = (*inputs, *output) if several else (*inputs, output)
        ctx.save_for_backward(*[values[k] for k in saved])
        if fixed:
            ctx.mark_non_differentiable(*[values[k] for k in fixed])
        ctx.kept = [_shape(values[k]) for k in shapes] + [values[k] for k in others]

    def differentiated(ctx: Any, needed: Sequence[Any], grads: Sequence[Any]) -> tuple[Any, ...]:
        values = dict(zip(kept, ctx.kept, strict=True))
        values.update(zip(save, ctx.saved_tensors, strict=True))
        wanted = derivative(Call(values, dict(zip(names, needed, strict=True))), *grads)
        return tuple([wanted.get(name) for name in names])

    def backward(ctx: Any, *grads: Any) -> Any:
        return differentiated(ctx, ctx.needs_input_grad, grads)

    op.definition.register_autograd(backward, setup_context=setup_context)

    # torch.autograd.Function knows no lists.

    def forward_spread(ctx: Any, *values: Any) -> Any:
        arguments = op.gathered(values)
        result = op.run(*arguments)
        setup_context(ctx, arguments, result)
        return tuple(result) if op.listed else result

    def backward_spread(ctx: Any, *grads: Any) -> Any:
        needed = op.gathered(ctx.needs_input_grad)
        return op.spread(differentiated(ctx, needed, [list(grads)] if op.listed else grads))

    op.function = type(
        op.definition._qualname.replace("::", "_"),
        (torch.autograd.Function,),
        {"forward": staticmethod(forward_spread), "backward": staticmethod(backward_spread)},
    )


def _shape(value: Any) -> Any:
    """Return what is kept of tensors that no derivative needs: nothing of their memory."""
    if value is None:
        return None
    return [item.shape for item in value] if isinstance(value, list) else value.shape


def not_differentiable(op: Operation, why: str) -> None:
    """Let an operation say so when its gradient is asked for."""

    def refuse(call: Call, *grads: Any) -> dict[str, Any]:
        raise NotImplementedError(f"[{op.definition._qualname}] gradient: {why}")

    gradient(op, refuse)
