"""Chains: chunk after chunk along time, each handing its state on to the next one.

A worker that waits for the chain would meanwhile read ahead, without end. So what only one chunk is
made of (reading it, usually) becomes part of the link itself; what several chunks are made of stays
a task of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed

from marey.dask._arguments import Array, aligned

if TYPE_CHECKING:
    from collections.abc import Callable


class _Constant:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        return self.value


class _Link:
    """A link of a chain: makes its chunk by a graph of its own, and runs the step."""

    def __init__(self, step: Callable[..., Any], graph: dict[Any, Any], key: Any, given: list[Any]):
        self.step, self.graph, self.key, self.given = step, graph, key, given

    def __call__(self, state: Any, *values: Any) -> Any:
        given = {k: (_Constant(value),) for k, value in zip(self.given, values, strict=True)}
        chunk = dask.get({**self.graph, **given}, self.key)
        return self.step(aligned(state), aligned(chunk))


class Links:
    """The links for the chunks of an array."""

    def __init__(self, x: Any, step: Callable[..., Any]) -> None:
        self.step = step
        self.name = "marey-links-" + dask.base.tokenize(x.name, step)
        keys = list(dask.core.flatten(x.__dask_keys__()))
        graph = dict(x.__dask_optimize__(x.dask, keys))
        self.graph = graph
        self.shared = dask.highlevelgraph.HighLevelGraph.from_collections(self.name, graph)
        self.needs = {key: self._reached(key) for key in keys}
        uses: dict[Any, int] = {}
        for reached in self.needs.values():
            for key in reached:
                uses[key] = uses.get(key, 0) + 1
        self.own = {key for key, count in uses.items() if count == 1 and _is_task(graph[key])}

    def _reached(self, key: Any) -> set[Any]:
        found, open_keys = set(), [key]
        while open_keys:
            key = open_keys.pop()
            if key not in found:
                found.add(key)
                open_keys.extend(dask.core.get_dependencies(self.graph, key))
        return found

    def __call__(self, state: Any, key: Any) -> Any:
        """Return the delayed (result, state) of the chunk with this key."""
        own = {k: self.graph[k] for k in self.needs[key] if k in self.own}
        given = set()
        for k in own or [key]:
            needed = dask.core.get_dependencies(self.graph, k) if own else {key}
            given |= {n for n in needed if n not in own}
        order = sorted(given, key=str)
        link = _Link(self.step, own, key, order)
        values = [Delayed(k, self.shared, layer=self.name) for k in order]
        name = "marey-link-" + dask.base.tokenize(self.name, key, state.key)
        return dask.delayed(link, nout=2, pure=False, traverse=False)(
            state, *values, dask_key_name=name
        )


def _is_task(node: Any) -> bool:
    return callable(getattr(node, "func", None)) or dask.core.istask(node)


def scan(
    x: Any,
    axis: int,
    first: Callable[[tuple[slice, ...]], Any],
    step: Callable[[Any, Array], tuple[Array, Any]],
    dtype: Any,
) -> tuple[Any, dict[tuple[int, ...], Any]]:
    """Run `step(state, chunk)`, which returns a result and the next state, along an axis.

    `first` makes the state to start from, given which part of the other axes it is for. Returns the
    results, of the chunks' shapes, and the last state for each place of the other axes.
    """
    link = Links(x, step)
    grid = x.numblocks
    results = np.empty(grid, object)
    slices = da.core.slices_from_chunks(x.chunks)
    places = dict(zip(np.ndindex(*grid), slices, strict=True))
    last: dict[tuple[int, ...], Any] = {}
    for place in np.ndindex(*grid[:axis], *grid[axis + 1 :]):
        states = [first(places[(*place[:axis], 0, *place[axis:])])]
        for t in range(grid[axis]):
            index = (*place[:axis], t, *place[axis:])
            result, state = link(states[-1], (x.name, *index))
            states.append(state)
            shape = tuple([sizes[k] for sizes, k in zip(x.chunks, index, strict=True)])
            results[index] = da.from_delayed(result, shape, dtype)
        last[place] = states[-1]
    return da.block(results.tolist()), last
