"""What ``edgepress plan`` prints: the plan and what an export will take, as text and as JSON."""

import re
from collections.abc import Sequence
from typing import cast

from edgepress.bundle.adapter_slots import AdapterSlots
from edgepress.bundle.states import state_bytes
from edgepress.exporter.bundle.cpu_graph import planned_graphs
from edgepress.exporter.bundle.files import drafters_of
from edgepress.exporter.bundle.written.inspection import (
    budget_lines,
    drafter_lines,
    drafters_to_json,
    kept_lines,
    megabytes,
    slot_lines,
    slots_to_json,
    step_lines,
)
from edgepress.exporter.decide import instructions
from edgepress.exporter.decide.encoder_decoder import PreparedEncoderDecoder
from edgepress.exporter.decide.estimate import Estimate
from edgepress.exporter.decide.estimate import to_json as estimate_to_json
from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.decide.memory import MemoryEstimate, estimate_of_mtp, estimates_of
from edgepress.exporter.decide.traced import PreparedTraced
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.reading import left_out
from edgepress.exporter.plan.plan import Plan, PlannedTensor
from edgepress.exporter.recipe.recipe import describe_promise
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.targets.legality.cliffs import cache_warnings
from edgepress.terminal.progress import duration
from edgepress.terminal.tables import format_table

Json = dict[str, object]
_NUMBER = re.compile(r"\.experts\.\d+\.")


def plan_to_json(prepared: Prepared, export: Estimate | None = None) -> Json:
    """Return the plan with its totals; sizes in bytes, and what is only estimated under ``estimates``."""
    plan, memory, further = prepared.plan, estimates_of(prepared), estimate_of_mtp(prepared)
    return {
        "model": str(prepared.checkpoint.named),
        "origin": None if prepared.origin is None else prepared.origin.to_json(),
        "model_type": prepared.decoder.model_type,
        "targets": [target.name for target in prepared.targets],
        "recipe": prepared.asked.to_json(),
        "decisions": prepared.decisions.to_json(),
        "why_recipe": prepared.why_recipe,
        "context_length": plan.context_length,
        "tensors": [_tensor_to_json(tensor) for tensor in plan.tensors],
        "tables": [{"name": table.name, "bytes": table.region.nbytes} for table in plan.tables],
        "totals": {
            **_weights_to_json(plan),
            "cache_bytes_at_full_context": plan.cache_bytes,
            "default_context": plan.default_context,
            "cache_bytes_at_default_context": plan.cache_bytes_at(plan.default_context),
        },
        "graphs": [
            {
                "file": graph.file,
                "requires": list(graph.requires),
                "cache_bytes_at_default_context": graph.plan.cache_bytes_at(plan.default_context),
                "cache_bytes_at_full_context": graph.plan.cache_bytes,
            }
            for graph in planned_graphs(prepared)
        ],
        "windows": _windows_to_json(prepared),
        "adapter_slots": slots_to_json(plan.adapter_slots),
        "drafters": drafters_to_json(drafters_of(prepared.decoder)),
        "left_out": dict(prepared.decisions.left_out),
        "text_of": text_of_to_json(prepared.original),
        "notes": list(prepared.notes),
        "estimates": {
            "bundle_bytes": plan.data_bytes + _graph_and_tokenizer_bytes(prepared),
            "runtime_memory_bytes": memory[-1].total,
            "runtime_memory_bytes_at_default_context": memory[0].total,
            "runtime_memory": [one.to_json() for one in memory],
            **({} if further is None else {"runtime_memory_of_mtp": further.to_json()}),
            "instructions": _instructions_to_json(instructions.estimates(prepared), plan.adapter_slots),
            **({} if export is None else {"export": estimate_to_json(export)}),
        },
        "budget": prepared.budget,
        "draft": _draft_to_json(prepared),
        "steps": [] if prepared.pruned is None else list(prepared.pruned.steps),
        "steps_not_run": [] if prepared.pruned is None else list(prepared.pruned.skipped),
    }


def _draft_to_json(prepared: Prepared) -> Json | None:
    """The draft model that the recipe asks for; whether it ships, its worth on text decides."""
    draft, asked = prepared.drafted, prepared.asked.draft
    if draft is None or asked is None:
        return None
    return {
        "steps": list(asked.recipe.prune),
        "parameters": draft.plan.parameters,
        "data_file_bytes_at_most": draft.plan.data_bytes,
        "cache_bytes_at_default_context": draft.plan.cache_bytes_at(prepared.plan.default_context),
        "estimated_step": draft.bytes_a_token / prepared.bytes_a_token,
        "gain": asked.gain,
    }


def _draft_lines(draft: Json | None) -> list[str]:
    if draft is None:
        return []
    return [
        f"draft        {', '.join(cast('list[str]', draft['steps']))}: {draft['parameters']:,} parameters, at most "
        f"{megabytes(draft['data_file_bytes_at_most'])} MB more; its tokens cost {draft['estimated_step']:.2f} of a "
        f"step each (estimate), and it ships where that makes answers {draft['gain']:g} × as fast"
    ]


def text_of_to_json(checkpoint: Checkpoint) -> Json | None:
    """Of what the model is the text part, and what of that is left out; None where it is all there is."""
    if checkpoint.text_of is None:
        return None
    parts = {name: {"tensors": count, "bytes": nbytes} for name, (count, nbytes) in left_out(checkpoint).items()}
    return {"model_type": checkpoint.text_of.whole, "left_out": parts}


def _graph_and_tokenizer_bytes(prepared: Prepared) -> int:
    nodes_per_layer = 6000  # bytes of a graph a layer, seen in bundles; the tokenizer's own size is exact
    tokenizer = sum(path.stat().st_size for path in prepared.checkpoint.directory.glob("tokenizer*") if path.is_file())
    return nodes_per_layer * len(prepared.decoder.layers) * len(planned_graphs(prepared)) + tokenizer


def _weights_to_json(plan: Plan) -> Json:
    return {
        "parameters": plan.parameters,
        "bytes_before": plan.bytes_before,
        "weights_bytes": sum(tensor.bytes_after for tensor in plan.tensors),
        "bits_per_weight": plan.bits_per_weight,
        "data_file_bytes": plan.data_bytes,
    }


def _weight_lines(plan: Plan, *between: str) -> list[str]:
    return [
        f"weights      {megabytes(plan.bytes_before)} MB → "
        f"{megabytes(sum(tensor.bytes_after for tensor in plan.tensors))} MB, {plan.bits_per_weight:.2f} bits a weight",
        *between,
        f"data file    {megabytes(plan.data_bytes)} MB (with alignment)",
    ]


def _tensor_table(plan: Plan) -> str:
    """A line for each tensor; experts of a layer that are stored alike share one."""
    lines: dict[tuple[object, ...], list[PlannedTensor]] = {}
    for tensor in plan.tensors:
        key = (_shown_name(tensor.weight), tensor.weight.shape, tensor.stored_as, tensor.reason)
        lines.setdefault(key, []).append(tensor)
    rows = [_row(tensors) for tensors in lines.values()]
    return format_table(("tensor", "shape", "scheme", "before MB", "after MB", "why"), rows, right=(3, 4))


def _shown_name(weight: Weight) -> str:
    """The name of a weight, or of all experts' in its layer."""
    if weight.stack is not None:
        return f"{weight.stack.name}{'.bias' if weight.kind == 'bias' else ''}"
    return _NUMBER.sub(".experts.*.", weight.name) if weight.expert else weight.name


def _row(tensors: Sequence[PlannedTensor]) -> tuple[str, ...]:
    first = tensors[0]
    count = (len(tensors),) if first.weight.stack is not None or first.weight.expert else ()
    return (
        _shown_name(first.weight),
        "×".join(map(str, (*count, *first.weight.shape))),
        first.stored_as,
        megabytes(sum(tensor.bytes_before for tensor in tensors)),
        megabytes(sum(tensor.bytes_after for tensor in tensors)),
        first.reason,
    )


def _tensor_to_json(tensor: PlannedTensor) -> Json:
    scheme = tensor.scheme
    return {
        "name": tensor.weight.name,
        "kind": tensor.weight.kind,
        "shape": list(tensor.weight.shape),
        "sources": list(dict.fromkeys(part.tensor for part in tensor.weight.parts)),
        "scheme": None if scheme is None else tensor.stored_as,
        "reason": tensor.reason,
        "bytes_before": tensor.bytes_before,
        "bytes_after": tensor.bytes_after,
    }


def format_plan(prepared: Prepared) -> str:
    """Return the plan as a table, one line a tensor, and its totals."""
    plan = plan_to_json(prepared)
    totals, estimates = cast("Json", plan["totals"]), cast("Json", plan["estimates"])
    return "\n".join(
        [
            _tensor_table(prepared.plan),
            "",
            f"{plan['model_type']} for {', '.join(t.name for t in prepared.targets)}, recipe {prepared.recipe.name}"
            f"{prepared.why_recipe and f' ({prepared.why_recipe})'}, "
            f"context {_context(prepared.plan)}, {totals['parameters']:,} parameters",
            *_weight_lines(
                prepared.plan,
                *([f"promise      {describe_promise(prepared.recipe.promise)}"] if prepared.recipe.promise else []),
            ),
            f"bundle       about {megabytes(estimates['bundle_bytes'])} MB (estimate)",
            *_memory_lines(prepared),
            *_window_lines(prepared),
            *_integer_cache_lines(prepared),
            *kept_lines(prepared.asked.cache.kept),
            *_float16_lines(prepared),
            *slot_lines(prepared.plan.adapter_slots),
            *drafter_lines(cast("list[Json]", plan["drafters"])),
            *_mtp_lines(cast("Json | None", estimates.get("runtime_memory_of_mtp"))),
            *_draft_lines(cast("Json | None", plan["draft"])),
            *_instruction_lines(instructions.estimates(prepared), prepared.plan.adapter_slots),
            *budget_lines(prepared.budget),
            *(f"left out     {name}: {why}" for name, why in prepared.decisions.left_out.items()),
            *(f"note         {note}" for note in cast("list[str]", plan["notes"])),
            *step_lines(cast("list[Json]", plan["steps"])),
            *(f"not run      {name}: it keeps the sizes" for name in cast("list[str]", plan["steps_not_run"])),
        ]
    )


def traced_to_json(prepared: PreparedTraced | PreparedEncoderDecoder) -> Json:
    """As :func:`plan_to_json`, of a model that is no language model."""
    plan = prepared.plan
    return {
        "model": str(prepared.file),
        "model_type": prepared.description.model_type,
        "task": prepared.task.as_json(),
        "targets": [target.name for target in prepared.targets],
        "recipe": prepared.recipe.to_json(),
        "tensors": [_tensor_to_json(tensor) for tensor in plan.tensors],
        "totals": _weights_to_json(plan),
        "budget": prepared.budget if isinstance(prepared, PreparedTraced) else None,
        "in_float": dict(prepared.decisions.kept_layers) if isinstance(prepared, PreparedTraced) else {},
        "notes": list(prepared.notes),
        "steps": list(prepared.steps) if isinstance(prepared, PreparedTraced) else [],
        "steps_not_run": list(prepared.steps_not_run) if isinstance(prepared, PreparedTraced) else [],
    }


def format_traced(prepared: PreparedTraced | PreparedEncoderDecoder) -> str:
    """As :func:`format_plan`, of a model that is no language model."""
    plan = prepared.plan
    return "\n".join(
        [
            _tensor_table(plan),
            "",
            f"{prepared.description.model_type} ({prepared.task.name}) for "
            f"{', '.join(t.name for t in prepared.targets)}, recipe {prepared.recipe.name}, "
            f"{plan.parameters:,} parameters",
            *_weight_lines(plan),
            *budget_lines(prepared.budget if isinstance(prepared, PreparedTraced) else None),
            *_float_lines(prepared),
            *(f"note         {note}" for note in prepared.notes),
            *_traced_steps(prepared),
        ]
    )


def _float_lines(prepared: PreparedTraced | PreparedEncoderDecoder) -> list[str]:
    """The nodes that stay in float between integers, a line each."""
    if not isinstance(prepared, PreparedTraced):
        return []
    return [f"in float32   {name}: {why}" for name, why in prepared.decisions.kept_layers.items()]


def _traced_steps(prepared: PreparedTraced | PreparedEncoderDecoder) -> list[str]:
    """What the steps of a recipe that prunes came to, as lines below the plan; none where there are none."""
    if not isinstance(prepared, PreparedTraced):
        return []
    return [
        *step_lines([dict(step) for step in prepared.steps]),
        *(f"not run      {name}: it keeps the sizes" for name in prepared.steps_not_run),
    ]


def format_estimate(found: Estimate) -> list[str]:
    """What an export will take, as lines below the plan."""
    parts = sorted(found.parts, key=lambda part: -part.seconds)
    longest = ", ".join(f"{part.name} {duration(part.seconds)} ({part.speed})" for part in parts[:3])
    memory = megabytes(found.memory_bytes)
    lines = [
        f"export       about {duration(found.seconds)} on {found.cores} cores and {memory} MB of memory "
        f"(estimate from speeds measured just now: {longest})"
    ]
    return [*lines, *(f"{'':<12} without {what}" for what in found.left_out)]


def _windows_to_json(prepared: Prepared) -> Json | None:
    """Caches of layers that see a window, kept whole or not: bytes of all states at the default context, both ways.

    None where no layer has a window below the context that it alone reads.
    """
    plan, decoder = prepared.plan, prepared.decoder
    states = decoder.states(windows_below=plan.context_length)
    windows = [state.window for state in states if state.window is not None]
    if not windows:
        return None
    return {
        "kept": any(state.kind == "window" for state in plan.states),
        "tokens": sorted(set(windows)),
        "states": len(windows),
        "of_states": len(states),
        "cache_bytes_with_windows": state_bytes(states, plan.default_context),
        "cache_bytes_whole": state_bytes(decoder.states(), plan.default_context),
        "at_tokens": plan.default_context,
    }


def _window_lines(prepared: Prepared) -> list[str]:
    """What caches of windows save or would save; nothing for a model that has none."""
    found = _windows_to_json(prepared)
    if found is None:
        return []
    tokens = " or ".join(f"{window:,}" for window in cast("list[int]", found["tokens"]))
    small, whole = (megabytes(found[f"cache_bytes_{how}"]) for how in ("with_windows", "whole"))
    of = f"{found['states']} of {found['of_states']} states are of attention to {tokens} tokens"
    at = f"MB of float32 states at {found['at_tokens']:,} tokens"
    if found["kept"]:
        return [f"windows      {of} and keep these: {small} {at}, not {whole} (estimate)"]
    if any(target.form == "static" for target in prepared.targets):
        return [f"windows      {of} and keep all, as static graphs do: {whole} {at}, not {small} (estimate)"]
    return [f"windows      {of} and keep all: {whole} {at}, {small} with [cache] windows = true (estimate)"]


def _integer_cache_lines(prepared: Prepared) -> list[str]:
    """What keys and values as integers save, and what they cost; nothing where they are floats."""
    plan = prepared.plan
    if not plan.integer_states:
        return []
    below = plan.context_length if prepared.recipe.cache.windows else 0
    whole = state_bytes(prepared.decoder.states(windows_below=below), plan.default_context)
    small, float32 = megabytes(plan.cache_bytes_at(plan.default_context)), megabytes(whole)
    price = [warning for target in prepared.targets for warning in cache_warnings(target, "int8")]
    return [
        f"cache        keys and values in 8 bits: {small} MB of states at {plan.default_context:,} tokens, not "
        f"{float32} in float32 (estimate)",
        *(f"{'':<12} {warning}" for warning in dict.fromkeys(price)),
    ]


def _mtp_lines(memory: Json | None) -> list[str]:
    """What speculating with what predicts a token further takes; nothing where there is nothing of it."""
    if memory is None:
        return []
    return [
        f"{'':<12} once it speculates {megabytes(memory['total'])} MB besides at {memory['tokens']:,} tokens, the head "
        "once more among it (estimate)"
    ]


def _float16_lines(prepared: Prepared) -> list[str]:
    """What the graph in float16 is for and saves; nothing where there is none."""
    preferred, *others = planned_graphs(prepared)
    if not others:
        return []
    length = preferred.plan.default_context
    half, whole = (megabytes(graph.plan.cache_bytes_at(length)) for graph in (preferred, others[-1]))
    return [
        f"float16      {preferred.file} beside {others[-1].file}, for processors that compute in it: {half} MB of "
        f"states at {length:,} tokens, not {whole}; attention that overflows is found at the export"
    ]


def _instructions_to_json(found: Sequence[instructions.Estimate], slots: AdapterSlots | None) -> Json | None:
    """Instructions a token by graph, processor and tokens before it; None where there is no estimate."""
    if not found:
        return None
    table = instructions.read_table()
    return {
        "largest_error": table.largest_error,
        "median_error": table.median_error,
        "prompt_tokens": instructions.PROMPT,
        "without_adapter_slots": slots is not None,
        "graphs": [
            {
                "file": one.file,
                "cpu": one.cpu,
                **{phase: {str(at): count for at, count in counts.items()}
                   for phase, counts in (("decode", one.decode), ("prefill", one.prefill))},
            }
            for one in found
        ],
    }  # fmt: skip


def _instruction_lines(found: Sequence[instructions.Estimate], slots: AdapterSlots | None) -> list[str]:
    """The same as lines, one a processor and graph."""
    if not found:
        return []
    at, error = max(found[0].decode), instructions.read_table().largest_error
    lines = [
        f"{one.cpu}, {one.file}: {one.decode[at] / 1e6:.1f} million a token decoded after {at:,}, "
        f"{one.prefill[at] / 1e6:.1f} one of a prompt"
        for one in found
    ]
    lines.append(f"by one thread (estimate from models that were counted, of which it is off by {error:.0%} at most)")
    if slots is not None:
        lines.append("and what slots for adapters take, which is not in it (docs/benchmarks.md)")
    return [f"{'' if index else 'instructions':<12} {line}" for index, line in enumerate(lines)]


def _context(plan: Plan) -> str:
    """The context that texts may have, and up to which of the model's they may when more is asked for."""
    more = f" by default, up to {plan.context_length:,}" if plan.default_context < plan.context_length else ""
    return f"{plan.default_context:,}{more}"


def _memory_lines(prepared: Prepared) -> list[str]:
    """What running takes beside the process, at the default context and at the whole one, where that is another."""
    in_place = all(state.in_place for state in prepared.plan.states)
    cached = "key-value cache" if in_place else "key-value cache and other states"
    lines = [
        f"{'' if index else 'memory':<12} about {megabytes(one.total)} MB to run at {one.tokens:,} tokens, "
        f"{megabytes(one.states)} MB of it {cached}{'' if index else _packed_words(one)} (estimate)"
        for index, one in enumerate(estimates_of(prepared))
    ]
    first = estimates_of(prepared)[0]
    more = f"{megabytes(first.prompt)} MB more while a prompt of {first.prompt_tokens:,} tokens is computed"
    return [*lines, f"{'':<12} beside the process itself; about {more} (estimate)"]


def _packed_words(found: MemoryEstimate) -> str:
    """How weights are counted."""
    how = "as they are stored" if found.kernels == "as stored" else f"as kernels of {found.kernels} hold them"
    return f" and {megabytes(found.weights)} MB weights {how}"
