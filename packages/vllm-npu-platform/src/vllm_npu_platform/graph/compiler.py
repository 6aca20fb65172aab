"""Compile a function of the model for the device, or take what an earlier start compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING

import torch

from vllm_npu_platform.kv_cache import is_opaque, kv_dtype
from vllm_npu_platform.stats.start_times import CAPTURE, COMPILE, LOAD, StartTimes
from vllm_npu_runtime.capture import Function, Named, capture, module_tensors
from vllm_npu_runtime.compile_cache.store import CompileCache
from vllm_npu_runtime.drivers.base import CompileOptions, CompilesAside
from vllm_npu_runtime.errors import BadShapeError, ConfigurationError
from vllm_npu_runtime.ops.table import decompositions_for
from vllm_npu_runtime.program import Binding, Kind

if TYPE_CHECKING:
    from vllm.config import VllmConfig

    from vllm_npu_platform.target import Target
    from vllm_npu_runtime.drivers.base import Executable
    from vllm_npu_runtime.traces import Traces


def compile_options(config: VllmConfig, target: Target) -> CompileOptions:
    """What every graph of a configuration is compiled with."""
    return CompileOptions(
        timeout=target.settings.run_timeout,
        kv_cache_dtype=kv_dtype(config, target) if is_opaque(config, target) else None,
        driver=target.settings.driver_options,
    )


class Compiler:
    """Compiles for one device with one configuration.

    Args:
        vllm_config: of the engine.
        target: device and settings.
        cache: what earlier starts compiled; None: nothing is kept.
        start: counts what capturing, compiling and loading take.
    """

    def __init__(
        self,
        vllm_config: VllmConfig,
        target: Target,
        cache: CompileCache | None = None,
        start: StartTimes | None = None,
    ) -> None:
        self.target = target
        self._start = start or StartTimes()
        self.cache = cache
        self._device = target.device
        model = vllm_config.model_config
        self._generates = model is None or model.runner_type == "generate"
        self._options = compile_options(vllm_config, target)

    def hidden_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Dtype of hidden states between a model's graph and its head's: that of the arithmetic, so
        that they aren't rounded to the model's on the way. Where the host may have the head, the
        model's.

        Args:
            dtype: of the model.
        """
        capabilities = self.target.device.capabilities
        if not (capabilities.dynamic_tokens and self._generates):
            return dtype
        return capabilities.computes_in(dtype)

    def begin(
        self,
        name: str,
        function: Function,
        inputs: Iterable[Named],
        model: torch.nn.Module,
        traces: Traces | None = None,
    ) -> Callable[[], tuple[Executable, bool]]:
        """Begin to make an executable with nothing but its weights bound.

        The function is traced when this returns; the driver may still be at work.

        Args:
            name: of the graph, unique within the configuration.
            function: see `capture`.
            inputs: everything that it reads beside the model's own tensors.
            model: whose parameters and buffers are the weights.
            traces: of this function for other extents. The graph is then of static shape, and
                what varies among the inputs varies from graph to graph.

        Returns:
            Waits for the driver, and gives the executable and whether it was loaded rather than
            compiled.
        """
        with ExitStack() as held:
            held.enter_context(self._lock(name))
            with self._start.part(LOAD):
                loading = self._begin_load(name, model)
            compiling = None
            if loading is None:
                tensors = [*inputs, *module_tensors(model)]
                compiling = self._begin_compile(name, function, tensors, traces)
            still_held = held.pop_all()

        def finish() -> tuple[Executable, bool]:
            with still_held:
                if loading is not None:
                    with self._start.part(LOAD):
                        return loading(), True
                assert compiling is not None
                with self._start.part(COMPILE):
                    made = compiling()
                    self._save(name, made)
                return made, False

        return finish

    @property
    def at_once(self) -> int:
        """How many graphs are worth beginning before the first one is finished."""
        driver = self._device.driver
        if isinstance(driver, CompilesAside):
            return driver.compiles_at_once(self._device.info.name)
        return 1

    def _begin_compile(
        self, name: str, function: Function, tensors: Iterable[Named], traces: Traces | None
    ) -> Callable[[], Executable]:
        driver, device = self._device.driver, self._device.info.name
        replaced = decompositions_for(self._device.capabilities)
        captured = capture if traces is None else traces.program
        with self._start.part(CAPTURE):
            program = captured(name, function, tensors, replaced)
        with self._start.part(COMPILE):
            if isinstance(driver, CompilesAside):
                return driver.begin_compile(program, device, self._options)
            made = driver.compile(program, device, self._options)
            return lambda: made

    def _save(self, name: str, made: Executable) -> None:
        if self.cache is not None:
            driver = self._device.driver
            self.cache.save(name, made.program, lambda directory: driver.save(made, directory))

    def _lock(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self.cache is None else self.cache.lock(name)

    def _begin_load(self, name: str, model: torch.nn.Module) -> Callable[[], Executable] | None:
        if self.cache is None or (saved := self.cache.find(name)) is None:
            return None
        weights = _weights(saved.inputs, model)
        if weights is None:
            self.cache.discard(name, "the model has other weights")
            return None
        program, driver, device = saved.program(weights), self._device.driver, self._device.info
        try:
            if isinstance(driver, CompilesAside):
                return driver.begin_load(program, device.name, saved.directory, self._options)
            loaded = driver.load(program, device.name, saved.directory, self._options)
            return lambda: loaded
        except (ConfigurationError, BadShapeError) as error:
            self.cache.discard(name, str(error))
            return None


def _weights(inputs: Iterable[Binding], model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
    """The model's tensors that a saved program takes; None if it takes what there isn't."""
    known = {item.name: item.tensor for item in module_tensors(model)}
    wanted = [each for each in inputs if each.kind is Kind.WEIGHT]
    if not all(each.name in known and each.fits(known[each.name]) for each in wanted):
        return None
    return {each.name: known[each.name] for each in wanted}
