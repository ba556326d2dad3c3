"""What a bundle would do on a device that is not here: an estimate from a roofline, never a measurement.

Time is the larger of what memory takes for the bytes and what arithmetic takes for the operations (Williams, Waterman
and Patterson 2009), so speeds are bounds: *at most*. Bytes of a decoded token are all weights but the embedding's
rows, and keys and values of the tokens before; operations are two for each weight of a product and for each number of
attention. Where a device's figures say what attention, starting a node and a node's numbers take (`profile --fit`),
these are added, and it is an estimate and no bound.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import onnx

from edgepress.exporter.decide.instructions import APART, DECODE, LAST, PREFILL, PROMPT, work_of
from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.decide.memory import MemoryEstimate, estimates_of
from edgepress.targets.devices import Call, Roofline

CONTEXTS = (64, 1024)
_PRODUCTS, _ATTENTION = APART
_TABLES = {"Gather", "GatherBlockQuantized"}  # of which a token reads a row
_BITS = {1: 32, 2: 8, 3: 8, 6: 32, 7: 64, 10: 16, 16: 16, 21: 4, 22: 4}  # onnx.TensorProto's types


@dataclass(frozen=True)
class Bound:
    """The most that one kind of call can reach: tokens a second, and whether memory or arithmetic bounds it.

    ``joules_per_token`` is None where no source gives the device's energy by byte and operation.
    """

    tokens_per_second: float
    bound_by: Literal["memory", "arithmetic"]
    joules_per_token: float | None


@dataclass(frozen=True)
class DeviceEstimate:
    """What a plan's graph could reach on a device, by the tokens before: decode, and a prompt of :data:`PROMPT` tokens.

    ``memory`` is what the bundle takes at the default context, ``process_bytes`` what the process around it does, None
    where nobody measured that.
    """

    device: str
    graph: str
    decode: Mapping[int, Bound]
    prefill: Mapping[int, Bound]
    memory: MemoryEstimate
    process_bytes: float | None
    error_share: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "memory": self.memory.to_json()}


def estimate_on(prepared: Prepared, roofline: Roofline) -> DeviceEstimate:
    """Bound what the first graph of a plan could reach on a device."""
    plan = prepared.plan
    file, model = next(iter(prepared.make_graphs().items()))
    weights = _weight_bytes(model)
    contexts = [at for at in CONTEXTS if at + PROMPT <= plan.context_length] or [0]
    decode = {at: _bound(call_of(model, DECODE, at, weights, plan.cache_bytes_at(at)), 1, roofline) for at in contexts}
    prefill = {
        at: _bound(call_of(model, PREFILL, at, weights, plan.cache_bytes_at(at)), PROMPT, roofline) for at in contexts
    }
    memory = estimates_of(prepared, roofline.kernels)[0]
    process = None if roofline.process_bytes is None else roofline.process_bytes.value
    error = None if roofline.error is None else roofline.error.share
    return DeviceEstimate(roofline.name, file, decode, prefill, memory, process, error)


def _bound(call: Call, tokens: int, roofline: Roofline) -> Bound:
    """A call that computes so many tokens."""
    joules = None
    if roofline.picojoules_per_byte is not None and roofline.picojoules_per_operation is not None:
        joules = (
            1e-12
            / tokens
            * (
                call.bytes * roofline.picojoules_per_byte.value
                + call.operations * roofline.picojoules_per_operation.value
            )
        )
    return Bound(tokens / roofline.seconds(call), roofline.bound_by(call), joules)


def call_of(model: onnx.ModelProto, phase: str, context: int, weight_bytes: float, state_bytes: float) -> Call:
    """A graph's call after ``context`` tokens, of one token or of a prompt of :data:`PROMPT`.

    Operations are two for each weight of a product, four for each number and key of attention.
    """
    tokens = PROMPT if phase == PREFILL else 1
    found = {"products": 0.0, "attention": 0.0, "numbers": 0.0}
    for operator, amounts in work_of(model, phase, context).items():
        for quantity, amount in amounts.items():
            kind = quantity.removeprefix(LAST)
            if operator.startswith(_PRODUCTS) and kind == "weights":
                found["products"] += 2 * tokens * amount
            elif operator.startswith(_ATTENTION) and kind == "width keys":
                found["attention"] += 4 * tokens * amount
            elif kind == "numbers":
                found["numbers"] += tokens * amount
    nodes = sum(node.op_type not in APART for node in model.graph.node)
    return Call(weight_bytes=weight_bytes, state_bytes=state_bytes, nodes=nodes, rows=tokens, **found)


def _weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all constants that a call reads whole; tables of which it takes rows are left out."""
    tables = {name for node in model.graph.node if node.op_type in _TABLES for name in node.input}
    read = {name for node in model.graph.node if node.op_type not in _TABLES for name in node.input}
    total = 0
    for tensor in model.graph.initializer:
        if tensor.name in read or tensor.name not in tables:
            count = 1
            for size in tensor.dims:
                count *= size
            total += count * _BITS.get(tensor.data_type, 0) // 8
    return total


def lines_of(found: DeviceEstimate, roofline: Roofline) -> list[str]:
    """The estimate as lines below a plan."""
    share = found.error_share
    known = "nobody has measured how far off" if share is None else f"±{share:.0%} where measured"
    how = "at most, by a roofline" if roofline.nodes_per_second is None else "by kernels timed alone there"
    lines = [f"{'device':<12} {found.device}, {how} ({known}), {found.graph}"]
    for at in found.decode:
        decode, prefill = found.decode[at], found.prefill[at]
        first = 1e3 * PROMPT / prefill.tokens_per_second
        lines.append(
            f"{'':<12} after {at:,} tokens {decode.tokens_per_second:,.0f} tokens/s decoded ({decode.bound_by} "
            f"bounds it), the first token of a prompt of {PROMPT} after {first:,.0f} ms ({prefill.bound_by})"
        )
        if decode.joules_per_token is not None:
            lines.append(f"{'':<12} {decode.joules_per_token:.3g} J a decoded token")
    lines.append(f"{'':<12} {_memory_words(found)} at {found.memory.tokens:,} tokens")
    lines.append(f"{'':<12} {roofline.bytes_per_second.value / 1e9:.1f} GB/s ({roofline.bytes_per_second.source})")
    return lines


def _memory_words(found: DeviceEstimate) -> str:
    """Of the whole process, where it is known what that takes by itself."""
    if found.process_bytes is None:
        return f"{found.memory.total / 1e6:,.0f} MB beside the process itself"
    total, process = found.memory.total + found.process_bytes, found.process_bytes
    return f"{total / 1e6:,.0f} MB resident, {process / 1e6:,.0f} MB of it the process itself,"
