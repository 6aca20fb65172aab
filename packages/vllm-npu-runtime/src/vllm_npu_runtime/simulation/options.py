"""The options of driver ``sim``, given through `CompileOptions.driver`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from vllm_npu_runtime.errors import ConfigurationError
from vllm_npu_runtime.simulation.faults import Fault, parse


@dataclass(frozen=True)
class SimOptions:
    """Options, checked.

    Attributes:
        memory: bytes that the device has instead of what its datasheet says.
        fail: faults to inject; see `simulation.faults` for the grammar.
        realtime: whether a run takes the time that is estimated for it.
    """

    memory: int | None = None
    fail: tuple[Fault, ...] | None = None
    realtime: bool = False

    @classmethod
    def of(cls, options: Mapping[str, object]) -> SimOptions:
        """From what a user gave.

        Raises:
            ConfigurationError: an unknown option, or a value of the wrong type; all at once.
        """
        known = [field.name for field in fields(cls)]
        problems = [
            str(ConfigurationError.unknown("option of driver 'sim'", name, known))
            for name in options
            if name not in known
        ]
        memory = options.get("memory")
        if memory is not None and (type(memory) is not int or memory <= 0):
            problems.append(f"Option 'memory' of driver 'sim' is {memory!r}: give bytes, above 0.")
        realtime = options.get("realtime", False)
        if type(realtime) is not bool:
            problems.append(f"Option 'realtime' of driver 'sim' is {realtime!r}: true or false.")
        fail = options.get("fail")
        faults = None
        if fail is not None:
            try:
                faults = parse(fail)
            except ConfigurationError as error:
                problems.append(str(error))
        if problems:
            raise ConfigurationError.several(problems)
        return cls(memory, faults, realtime)  # type: ignore[arg-type]
