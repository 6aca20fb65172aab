"""One run of a request, with a limit to its time."""

from __future__ import annotations

import openvino as ov

from vllm_npu_runtime.errors import DeviceTimeoutError
from vllm_npu_runtime.openvino.failures import typed


class Runner:
    """Runs a request; others may run in the meantime, as OpenVINO releases the GIL.

    Args:
        request: what runs.
        name: for errors.
        timeout: seconds, or None.
    """

    def __init__(self, request: ov.InferRequest, name: str, timeout: float | None) -> None:
        self._request = request
        self._name = name
        self._timeout = timeout
        self._cancelled = False

    def run(self) -> None:
        """Run once on what is bound.

        Raises:
            OutOfMemoryError, DeviceLostError, DeviceTimeoutError, DeviceError: as they say.
        """
        with typed(f"Running {self._name}"):
            if self._timeout is None:
                self._request.infer(share_inputs=True, share_outputs=True)
                return
            self._request.start_async(share_inputs=True)
            if not self._request.wait_for(int(self._timeout * 1000)):
                self._request.cancel()
                self._cancelled = True
                raise DeviceTimeoutError(f"{self._name} ran for more than {self._timeout:g} s.")
            self._request.wait()

    def settle(self) -> None:
        """Let a run that was cancelled come to its end, before anything is bound anew.

        Raises:
            DeviceTimeoutError: it doesn't.
        """
        if not self._cancelled:
            return
        assert self._timeout is not None
        try:
            ended = self._request.wait_for(int(self._timeout * 1000))
        except RuntimeError:  # says that it was cancelled
            ended = True
        if not ended:
            raise DeviceTimeoutError(f"{self._name} hasn't ended since it was cancelled.")
        self._cancelled = False
