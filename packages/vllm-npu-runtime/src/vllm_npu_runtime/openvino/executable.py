"""A program compiled by OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock

import openvino as ov
import torch

from vllm_npu_runtime.binding import Bound
from vllm_npu_runtime.errors import DeviceTimeoutError
from vllm_npu_runtime.openvino.convert import with_weights
from vllm_npu_runtime.openvino.failures import typed
from vllm_npu_runtime.openvino.functional import KEYS, VALUES
from vllm_npu_runtime.openvino.kv_cache import split
from vllm_npu_runtime.openvino.tensors import Shared, to_torch
from vllm_npu_runtime.program import Kind, Program

Compile = Callable[[ov.Model], ov.CompiledModel]


class OpenVINOExecutable:
    """One compiled model, one request, and everything that the request reads.

    Args:
        program: what `model` was converted from; its graph isn't used any more.
        model: with a parameter for every input, weights included.
        compile_model: compiles a model for the device.
        timeout: seconds for a run, or None.
        blob: the compiled model, if it was saved; it holds the weights.
        keep_blob: whether the compiled model is worth saving.
    """

    host_operators: tuple[str, ...] = ()

    def __init__(
        self,
        program: Program,
        model: ov.Model,
        compile_model: Compile,
        timeout: float | None = None,
        blob: ov.CompiledModel | None = None,
        keep_blob: bool = False,
    ) -> None:
        self.program = program
        self.model = model
        self.keep_blob = keep_blob
        self._compile = compile_model
        self._timeout = timeout
        self._bound = Bound(program)
        self._weights = dict(program.weights)
        self._shared: dict[str, object] = {}
        # Tensors that OpenVINO can't look at as they lie, with the copies that runs renew.
        self._strided: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._paged = {
            parameter.get_friendly_name().removeprefix(KEYS)
            for parameter in model.get_parameters()
            if parameter.get_friendly_name().startswith(KEYS)
        }
        self.compiled: ov.CompiledModel | None = blob
        self._request: ov.InferRequest | None = None
        self._lock = Lock()
        self._timed_out = False
        self._ports: dict[str, ov.ConstOutput] = {}
        self._results: list[torch.Tensor | None] = []
        self._set_up()

    @property
    def weights(self) -> Mapping[str, torch.Tensor]:
        """Those that are compiled in."""
        return self._weights

    @property
    def memory(self) -> int:
        """Bytes that its own outputs take; what OpenVINO holds inside it doesn't tell."""
        return sum(result.nbytes for result in self._results if result is not None)

    def bind(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """See `Executable.bind`. New weights are compiled in before the next run."""
        self._bound.bind(tensors)
        kinds = {binding.name: binding.kind for binding in self.program.inputs}
        weights = {name: t for name, t in tensors.items() if kinds[name] is Kind.WEIGHT}
        if weights:
            self._weights |= weights
            self.compiled = self._request = None
            self._timed_out = False
        for name in tensors.keys() - weights.keys():
            self._attach(name, tensors[name])

    def run(self) -> Sequence[torch.Tensor]:
        """See `Executable.run`. Several threads may call it; they take turns."""
        with self._lock:
            return self._run()

    def _run(self) -> Sequence[torch.Tensor]:
        arguments = self._bound.arguments()
        if self._timed_out:
            self._let_go()
        request = self._request
        if request is None:
            request = self._set_up()
            for binding, tensor in zip(self.program.inputs, arguments, strict=True):
                if binding.kind is not Kind.WEIGHT:
                    self._attach(binding.name, tensor)
        for strided, copy in self._strided.values():
            copy.copy_(strided)
        with typed(f"Running '{self.program.name}'"):
            if self._timeout is None:
                request.infer(share_inputs=True, share_outputs=True)
            else:
                request.start_async()
                if not request.wait_for(int(self._timeout * 1000)):
                    request.cancel()
                    self._timed_out = True
                    raise DeviceTimeoutError(
                        f"'{self.program.name}' ran for more than {self._timeout} s."
                    )
        return [
            to_torch(request.get_output_tensor(index), binding.dtype) if result is None else result
            for index, (binding, result) in enumerate(
                zip(self.program.outputs, self._results, strict=True)
            )
        ]

    def close(self) -> None:
        """See `Executable.close`."""
        self._request = self.compiled = None
        self._timed_out = False
        self._ports.clear()
        self._results.clear()
        self._shared.clear()
        self._strided.clear()
        self._weights.clear()
        self._bound.clear()

    def _let_go(self) -> None:
        """Give up a request that was cancelled, once it has come to an end."""
        assert self._request is not None and self._timeout is not None
        try:
            ended = self._request.wait_for(int(self._timeout * 1000))
        except RuntimeError:  # says that it was cancelled
            ended = True
        if not ended:
            raise DeviceTimeoutError(f"'{self.program.name}' hasn't ended since it was cancelled.")
        self._request = None
        self._timed_out = False

    def _set_up(self) -> ov.InferRequest:
        """Compile what isn't compiled, and make the request with its outputs."""
        if self.compiled is None:
            self.compiled = self._compile(with_weights(self.model, self._weights))
        request = self._request = self.compiled.create_infer_request()
        self._ports = {port.get_node().get_friendly_name(): port for port in self.compiled.inputs}
        self._results = []
        for port, binding in zip(self.compiled.outputs, self.program.outputs, strict=True):
            shape = [extent for extent in binding.shape if extent is not None]
            if len(shape) < len(binding.shape):
                self._results.append(None)
                continue
            result = torch.zeros(shape, dtype=binding.dtype)
            shared = Shared(result)
            self._request.set_tensor(port, shared.ov)
            self._shared[f"result:{binding.name}"] = shared
            self._results.append(result)
        return request

    def _attach(self, name: str, tensor: torch.Tensor) -> None:
        """Let the request read a tensor, if it reads that input at all."""
        if self._request is None:
            return  # the next run compiles anew, and attaches everything
        if name in self._paged:
            keys, values = (self._ports.get(part + name) for part in (KEYS, VALUES))
            caches = split(tensor, keys, values)
            self._request.set_tensor(keys, caches.keys)
            self._request.set_tensor(values, caches.values)
            self._shared[name] = caches
        elif name in self._ports:
            self._strided.pop(name, None)
            if not tensor.is_contiguous():
                self._strided[name] = (tensor, torch.empty(tensor.shape, dtype=tensor.dtype))
                tensor = self._strided[name][1]
            shared = Shared(tensor)
            self._request.set_tensor(self._ports[name], shared.ov)
            self._shared[name] = shared
