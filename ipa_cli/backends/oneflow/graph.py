"""A graph of OneFlow 0.9.0 as bytes, and those bytes with weights as something to call.

That version saves no graphs, only weights. So the steps of `oneflow.nn.Graph` are taken in two parts: `build` ends
where the graph, a protobuf message called job, is complete, and `Graph` starts there. A job names its weights and
holds none of them. Source: `oneflow.nn.graph.graph`, the methods `_compile` and `__run`.
"""

from __future__ import annotations

import atexit
import itertools
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any
from weakref import WeakSet

import oneflow
import torch
from oneflow import _oneflow_internal as internal
from oneflow.core.job.job_pb2 import Job
from oneflow.framework import graph_build_util, scope_util, session_context
from oneflow.framework.tensor_tuple_util import convert_to_tensor_tuple
from oneflow.nn.graph.graph_config import GraphConfig
from oneflow.utils.tensor import from_torch, to_torch
from torch import Tensor

FILE = "unet.job"
_numbers = itertools.count()  # two graphs of one name cannot be open at once
_open: WeakSet[Graph] = WeakSet()


@atexit.register
def _close() -> None:
    """Close what is open before OneFlow ends its session, at exit too; otherwise it waits for them for ever."""
    for graph in list(_open):
        del graph._graph


def build(module: Any, arguments: Callable[[list[Any]], Any], example: Sequence[Tensor]) -> bytes:
    """The graph of `module(arguments(tensors))` for tensors of the shapes and dtypes of `example`."""

    class Traced(oneflow.nn.Graph):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def build(self, *tensors: Any) -> Any:
            return self.module(arguments(list(tensors)))

    # It prints its errors before it raises them, and warns of functions that are modules inside.
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*called in a nn.Graph, but not registered")
        job, _ = Traced().build_graph(*map(_shared, example))
    return job.SerializeToString()


class Graph:
    """What `build` made, with weights by their names in the module; they are read where they are at every call."""

    def __init__(self, serialized: bytes, weights: Mapping[str, Tensor]):
        job = Job()
        job.ParseFromString(serialized)
        name = job.job_conf.job_name = f"ipa_{next(_numbers)}"
        session = session_context.GetDefaultSession()
        session.TryInit()
        config = GraphConfig()
        config.proto.job_name = name
        with graph_build_util.graph_build_context(config.proto, session):
            number = internal.JobBuildAndInferCtx_GetCurrentJobId()
            scope = scope_util.current_scope().symbol_id
        for operation in job.net.op:
            operation.scope_symbol_id = scope  # those in the file were of the process that wrote it
        self._graph = internal.nn.graph.CNNGraph(name, job.SerializeToString(), number, session._session_ctx)

        inputs, outputs, variables = (_operations(job, kind) for kind in ("input", "output", "variable"))
        self._shapes = [tuple(one.input_conf.blob_conf.shape.dim) for one in inputs]
        (output,) = outputs
        self._output = oneflow.empty(*output.output_conf.blob_conf.shape.dim)
        self._outputs = convert_to_tensor_tuple([self._output])
        used = [weights[one.name.removeprefix("module.")] for one in variables]
        self._weights = convert_to_tensor_tuple([_shared(weight) for weight in used])

        examples = convert_to_tensor_tuple([_shared(torch.empty(shape)) for shape in self._shapes])
        self._graph.register_input_op_names_and_tensors([one.name for one in inputs], examples)
        internal.nn.graph.SoftSyncNNGraphBuffers(self._outputs, self._graph)
        self._graph.register_output_op_names_and_tensors([output.name], self._outputs)
        self._graph.register_variable_op_names_and_tensors([one.name for one in variables], self._weights)
        internal.eager.Sync()
        self._graph.complie_and_init_runtime()  # sic
        _open.add(self)

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """The output as a tensor of the caller's own. Raises ValueError for shapes that the graph is not for."""
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if shapes != self._shapes:
            raise ValueError(f"the graph takes inputs of {self._shapes}, not {shapes}")
        given = convert_to_tensor_tuple([_shared(tensor) for tensor in tensors])
        internal.nn.graph.RunLazyNNGraph(given, self._outputs, self._weights, self._graph)
        output = self._output.to(copy=True)
        internal.nn.graph.SoftSyncNNGraphBuffers(self._outputs, self._graph)
        internal.eager.Sync()  # torch reads the copy, and may write to the inputs, at once
        return to_torch(output)


def _operations(job: Any, kind: str) -> list[Any]:
    """A job's operations of one kind, in the order in which they were built."""
    return [one for one in job.net.op if one.WhichOneof("op_type") == f"{kind}_conf"]


def _shared(tensor: Tensor) -> Any:
    """The tensor in OneFlow, in the same memory where it is contiguous and float32."""
    return from_torch(tensor.detach().float().contiguous())
