"""``openvino``: Intel's runtime. Real NPUs, and the host's processor everywhere.

On a CPU, attention is OpenVINO's PagedAttention, KV lies in OpenVINO's own layout, and one
program serves any number of tokens. On an NPU, shapes are static and KV is gathered. What
OpenVINO's PyTorch frontend doesn't convert runs on the host.

Options (`CompileOptions.driver`) are those of `vllm_npu_runtime.openvino.options`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vllm_npu_runtime import __version__
from vllm_npu_runtime.aside import aside
from vllm_npu_runtime.drivers.base import (
    Capabilities,
    CompileOptions,
    DeviceInfo,
    Executable,
    KVBlock,
)
from vllm_npu_runtime.errors import BadShapeError, ConfigurationError
from vllm_npu_runtime.openvino.requirement import require
from vllm_npu_runtime.partition import partition
from vllm_npu_runtime.partitioned import PartitionedExecutable
from vllm_npu_runtime.program import Program, operator_name

if TYPE_CHECKING:
    import openvino as ov

    from vllm_npu_runtime.openvino.executable import OpenVINOExecutable
    from vllm_npu_runtime.openvino.options import OpenVINOOptions
    from vllm_npu_runtime.sessions.base import Session, SessionOptions

_logger = logging.getLogger("vllm.npu")


class OpenVINODriver:
    """Whatever devices OpenVINO finds."""

    name = "openvino"

    def version(self) -> str:
        """OpenVINO's version and build."""
        require()
        import openvino as ov

        return f"OpenVINO {ov.__version__.split('-releases')[0]}"

    def devices(self) -> Sequence[DeviceInfo]:
        """Real NPUs first, then the CPU, then GPUs.

        Raises:
            ConfigurationError: OpenVINO is missing or too old.
        """
        require()
        from vllm_npu_runtime.openvino.devices import found

        return found()

    def capabilities(self, device: str) -> Capabilities:
        """See `vllm_npu_runtime.openvino.devices`."""
        require()
        from vllm_npu_runtime.openvino.devices import capabilities

        return capabilities(device)

    def fingerprint(self, device: str) -> str:
        """Versions of the suite, OpenVINO and a device's driver, and the device's name."""
        from vllm_npu_runtime.openvino.devices import fingerprint

        return f"openvino-{__version__}-{self.version()}-{fingerprint(device)}"

    def check(self, device: str, dtype: torch.dtype, options: CompileOptions) -> None:
        """See `Driver.check`; a KV dtype that the arithmetic forbids is refused too."""
        require()
        from vllm_npu_runtime.openvino.config import compile_config
        from vllm_npu_runtime.openvino.options import OpenVINOOptions

        compile_config(device, OpenVINOOptions.of(options.driver), dtype, options.kv_cache_dtype)

    def kv_block_bytes(
        self, device: str, block: KVBlock, dtype: torch.dtype, options: Mapping[str, object]
    ) -> int:
        """Those of keys and values."""
        return sum(self.kv_block_parts(device, block, dtype, options))

    def kv_block_parts(
        self, device: str, block: KVBlock, dtype: torch.dtype, options: Mapping[str, object]
    ) -> tuple[int, ...]:
        """Keys and values, read from the ports of a model compiled to find out."""
        require()
        from vllm_npu_runtime.openvino.config import compile_config
        from vllm_npu_runtime.openvino.options import OpenVINOOptions

        config = compile_config(device, OpenVINOOptions.of(options), dtype, block.dtype)
        return _kv_block_parts(device, block, frozenset(config.items()))

    def host_threads(self, device: str, options: Mapping[str, object]) -> int | None:
        """On a CPU, one for each core unless the options say otherwise."""
        from vllm_npu_runtime.openvino.config import host_threads
        from vllm_npu_runtime.openvino.options import OpenVINOOptions

        return host_threads(device, OpenVINOOptions.of(options))

    def compile(self, program: Program, device: str, options: CompileOptions) -> Executable:
        """Convert and compile; operators that don't convert go to the host.

        Raises:
            UnsupportedOperatorError, OutOfMemoryError, ConfigurationError: see `Driver.compile`.
            BadShapeError: a size that varies, on an NPU.
        """
        return self._converted(program, device, options)()

    def begin_compile(
        self, program: Program, device: str, options: CompileOptions
    ) -> Callable[[], Executable]:
        """Convert here; compile in a thread."""
        return aside(self._converted(program, device, options))

    def compiles_at_once(self, device: str) -> int:
        """One for each core: compiling takes one. No more than four, as each takes memory."""
        return min(len(os.sched_getaffinity(0)), 4)

    def _converted(
        self, program: Program, device: str, options: CompileOptions
    ) -> Callable[[], Executable]:
        """Convert; what is returned compiles, and traces nothing."""
        require()
        from vllm_npu_runtime.openvino.convert import Unconverted

        if device.startswith("NPU") and not program.static:
            raise BadShapeError(
                f"openvino:{device} runs static shapes only; a size of program '{program.name}' "
                "varies. Capture it with every size fixed."
            )

        left: frozenset[str] = frozenset()
        while True:
            try:
                if not left:
                    return _whole(program, device, options)
                whole = _in_pieces(program, left, device, options)
                return lambda: whole
            except Unconverted as missing:
                if not missing.operators - left:
                    raise
                left |= missing.operators
                _logger.info("On the host, as OpenVINO lacks them: %s", ", ".join(sorted(left)))

    def save(self, executable: Executable, directory: Path) -> bool:
        """The converted graph; for devices that compile slowly, the compiled model too."""
        from vllm_npu_runtime.openvino import saved
        from vllm_npu_runtime.openvino.executable import OpenVINOExecutable
        from vllm_npu_runtime.openvino.token_dispatch import TokenDispatch

        if isinstance(executable, TokenDispatch):
            executable = executable.many  # both were compiled from the same graph
        if not isinstance(executable, OpenVINOExecutable):
            return False
        saved.write(executable, directory, blob=executable.keep_blob)
        return True

    def load(
        self, program: Program, device: str, directory: Path, options: CompileOptions
    ) -> Executable:
        """Compile a graph that was converted before, or take the compiled model."""
        return self._read(program, device, directory, options)()

    def begin_load(
        self, program: Program, device: str, directory: Path, options: CompileOptions
    ) -> Callable[[], Executable]:
        """Read here; compile in a thread."""
        return aside(self._read(program, device, directory, options))

    def _read(
        self, program: Program, device: str, directory: Path, options: CompileOptions
    ) -> Callable[[], Executable]:
        """Read what was saved; what is returned compiles it, unless that was saved too."""
        require()
        from vllm_npu_runtime.openvino import saved
        from vllm_npu_runtime.openvino.options import OpenVINOOptions

        model = saved.read(program, directory)
        keeps = _keeps_blob(OpenVINOOptions.of(options.driver), device)
        config = _config(program, device, options)
        blob = saved.read_blob(program, directory, device, config) if keeps else None
        return _executable(program, model, device, options, blob)

    def open_session(self, directory: Path, device: str, options: SessionOptions) -> Session:
        """Paged on CPU, the static pipeline on NPU; see `vllm_npu_runtime.openvino.sessions`."""
        require()
        from vllm_npu_runtime.artifact.directory import Artifact

        artifact = Artifact.open(directory, verify=False)
        if device.startswith("NPU"):
            from vllm_npu_runtime.openvino.sessions.static import StaticSession

            return StaticSession(artifact, device, options)
        from vllm_npu_runtime.openvino.sessions.paged import PagedSession

        return PagedSession(artifact, device, options)


def _whole(
    program: Program, device: str, options: CompileOptions, is_piece: bool = False
) -> Callable[[], Executable]:
    from vllm_npu_runtime.openvino.convert import convert
    from vllm_npu_runtime.openvino.functional import functional

    return _executable(program, convert(functional(program, is_piece)), device, options)


def _in_pieces(
    program: Program, left: frozenset[str], device: str, options: CompileOptions
) -> Executable:
    # What gives nothing only checks something, and the converter would leave it out.
    pieces = partition(program, lambda node: bool(node.users) and operator_name(node) not in left)
    return PartitionedExecutable(
        program, pieces, lambda piece: _whole(piece, device, options, True)()
    )


def _executable(
    program: Program,
    model: ov.Model,
    device: str,
    options: CompileOptions,
    blob: ov.CompiledModel | None = None,
) -> Callable[[], Executable]:
    from vllm_npu_runtime.openvino.devices import core
    from vllm_npu_runtime.openvino.executable import OpenVINOExecutable
    from vllm_npu_runtime.openvino.failures import typed
    from vllm_npu_runtime.openvino.options import OpenVINOOptions

    chosen = OpenVINOOptions.of(options.driver)

    def made(rounded: bool) -> OpenVINOExecutable:
        config = _config(program, device, options, rounded)

        def compile_model(whole: ov.Model) -> ov.CompiledModel:
            with typed(f"Compiling '{program.name}' for openvino:{device}"):
                return core().compile_model(whole, device, config)

        keep_blob = _keeps_blob(chosen, device)
        return OpenVINOExecutable(program, model, compile_model, options.timeout, blob, keep_blob)

    if chosen.dynamic_quantization is None:
        return partial(made, rounded=False)
    return _rounded(program, model, chosen.dynamic_quantization, made)


def _rounded(
    program: Program, model: ov.Model, group: int, made: Callable[[bool], OpenVINOExecutable]
) -> Callable[[], Executable]:
    """What rounds the activations of packed products wherever a run has few tokens."""
    from vllm_npu_runtime.openvino.packed_products import (
        check_groups,
        input_of_rows,
        packed_products,
    )
    from vllm_npu_runtime.openvino.token_dispatch import FEW_TOKENS, TokenDispatch

    products = packed_products(model)
    check_groups(products, group)
    if not products:
        return partial(made, False)
    if (rows := products[0].rows) is not None:
        return partial(made, rows <= FEW_TOKENS)
    tokens = input_of_rows(program, model)
    if tokens is None:
        raise ConfigurationError(
            f"Option 'dynamic_quantization' of driver 'openvino': program '{program.name}' has no "
            "input whose extent is the number of its tokens. Leave the option out."
        )
    return lambda: TokenDispatch(program, tokens, made(True), made(False))


def _config(
    program: Program, device: str, options: CompileOptions, rounded: bool = False
) -> dict[str, Any]:
    from vllm_npu_runtime.openvino.config import compile_config, dtype_of
    from vllm_npu_runtime.openvino.options import OpenVINOOptions

    chosen = OpenVINOOptions.of(options.driver)
    return compile_config(device, chosen, dtype_of(program), options.kv_cache_dtype, rounded)


def _keeps_blob(options: OpenVINOOptions, device: str) -> bool:
    return device.startswith("NPU") if options.keep_blob is None else options.keep_blob


@cache
def _kv_block_parts(
    device: str, block: KVBlock, config: frozenset[tuple[str, Any]]
) -> tuple[int, ...]:
    from vllm_npu_runtime.openvino.devices import core
    from vllm_npu_runtime.openvino.functional import KEYS, VALUES
    from vllm_npu_runtime.openvino.kv_cache import block_bytes, probe

    compiled = core().compile_model(probe(block), device, dict(config))
    ports = {port.get_any_name(): port for port in compiled.inputs}
    return block_bytes(ports[KEYS]), block_bytes(ports[VALUES])
