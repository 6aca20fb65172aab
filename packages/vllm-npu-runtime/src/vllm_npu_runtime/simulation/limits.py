"""What a datasheet refuses: shapes, dtypes, batch sizes and KV contracts that it doesn't list."""

from __future__ import annotations

import torch

from vllm_npu_runtime.drivers.base import KVContract
from vllm_npu_runtime.errors import BadShapeError, UnsupportedOperatorError
from vllm_npu_runtime.ops.packing import format_name
from vllm_npu_runtime.program import Program, operator_name
from vllm_npu_runtime.simulation.datasheet import Datasheet

_CONTRACT_OF = {
    "vllm_npu.paged_attention": KVContract.PAGED,
    "vllm_npu.gather_attention": KVContract.GATHER,
}


def check(program: Program, sheet: Datasheet) -> None:
    """Refuse a program that the device can't take.

    Raises:
        BadShapeError: a dynamic shape, a dtype that isn't listed, too many tokens or requests.
        UnsupportedOperatorError: attention of a KV contract, or weights packed in a format, that
            the device doesn't serve.
    """
    device = f"Device 'sim:{sheet.name}'"
    for binding in (*program.inputs, *program.outputs):
        if binding.dtype.is_floating_point and binding.dtype not in sheet.flops:
            listed = ", ".join(map(str, sheet.flops))
            raise BadShapeError(
                f"{device} doesn't compute in {binding.dtype}, which '{binding.name}' of program "
                f"'{program.name}' has. It computes in {listed}."
            )
    for node in program.graph.graph.nodes:
        if _is_dynamic(node.meta.get("val")):
            raise BadShapeError(
                f"{device} runs static shapes only; '{node.name}' of program '{program.name}' "
                "has a dynamic one. Capture it with every size fixed."
            )
        if (contract := _CONTRACT_OF.get(operator_name(node))) is not None:
            _check_attention(node, contract, sheet, device)
        if operator_name(node) == "vllm_npu.wna16_linear":
            _check_weights(node, sheet, device)


def _check_attention(
    node: torch.fx.Node, contract: KVContract, sheet: Datasheet, device: str
) -> None:
    if contract not in sheet.kv_contracts:
        served = ", ".join(sheet.kv_contracts)
        raise UnsupportedOperatorError(
            f"{device} doesn't serve the KV contract '{contract}', which "
            f"'{operator_name(node)}' needs. It serves: {served}."
        )
    query, table = node.args[0].meta["val"], node.args[4].meta["val"]
    for what, count, limit in (
        ("tokens", query.shape[0], sheet.max_tokens),
        ("requests", table.shape[0], sheet.max_batch_size),
    ):
        if limit is not None and count > limit:
            raise BadShapeError(f"{device} takes {limit} {what} in one run, not {count}.")


def _check_weights(node: torch.fx.Node, sheet: Datasheet, device: str) -> None:
    given = {argument.name: argument.default_value for argument in node.target._schema.arguments}
    given |= dict(zip(given, node.args, strict=False)) | node.kwargs
    name = format_name(given["bits"], given["zero_point"] is not None)
    if name not in sheet.weight_formats:
        listed = ", ".join(sheet.weight_formats) or "none"
        raise UnsupportedOperatorError(
            f"{device} has no product with weights packed as {name}. It takes: {listed}."
        )


def _is_dynamic(value: object) -> bool:
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return True
    if isinstance(value, torch.Tensor):
        return any(not isinstance(extent, int) for extent in value.shape)
    return isinstance(value, list | tuple) and any(map(_is_dynamic, value))
