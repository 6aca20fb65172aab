"""Collectives between ranks: torch.distributed over host tensors."""

from vllm.distributed.device_communicators.base_device_communicator import DeviceCommunicatorBase


class NPUCommunicator(DeviceCommunicatorBase):
    """vLLM's base communicator, on the gloo group that the platform asks for.

    Several ranks are refused at start-up for now, so a group has one member, and every
    collective returns its input. The class is ours so that there is one place to grow in.
    """
