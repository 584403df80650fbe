"""What stands for transformers.utils.fx: a tracer of PyTorch's own kind that records what theirs does."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx


class Recorded(fx.Proxy):
    """A recorded tensor has a dtype, the model's."""

    @property
    def dtype(self) -> Any:
        return self.tracer.root.dtype


class Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return Recorded(node, self)


def symbolic_trace(model: Any, input_names: list[str] | None = None) -> fx.GraphModule:
    """The model over the inputs that are named; the others have their defaults."""
    parameters = inspect.signature(model.forward).parameters
    given = {name: p.default for name, p in parameters.items() if name not in (input_names or ())}
    tracer = Tracer()
    with _recorded_constructors(tracer):
        graph = tracer.trace(model, concrete_args=given)
    for node in reversed(graph.nodes):
        node.type = None  # annotations that are text can't be pickled
        if node.op == "placeholder" and node.name.rpartition("_")[0] in given:
            _erase(graph, node)
    return fx.GraphModule(model, graph)


def _erase(graph: fx.Graph, node: fx.Node) -> None:
    """Without what is known, and what asserts that it is what was known."""
    for user in list(node.users):
        _erase(graph, user)
    graph.erase_node(node)


@contextlib.contextmanager
def _recorded_constructors(tracer: fx.Tracer) -> Iterator[None]:
    """Inside, what torch makes in a size that is only known when the graph runs is made then."""
    kept = {name: getattr(torch, name) for name in ("arange", "zeros", "ones", "full")}

    def recording(make: Any) -> Any:
        def made(*args: Any, **kwargs: Any) -> Any:
            found: list[bool] = []
            fx.node.map_aggregate((args, kwargs), lambda x: found.append(isinstance(x, fx.Proxy)))
            return tracer.create_proxy("call_function", make, args, kwargs) if any(found) else make(*args, **kwargs)

        return made

    try:
        for name, make in kept.items():
            setattr(torch, name, recording(make))
        yield
    finally:
        for name, make in kept.items():
            setattr(torch, name, make)
