"""What ``edgepress inspect`` prints: bundles and graphs as data, and as tables for reading."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import msgspec
import onnx

from edgepress.bundle.adapter_slots import AdapterSlots
from edgepress.bundle.drafters import DrafterEntry
from edgepress.bundle.graphs import GraphEntry, choose, describe_choice
from edgepress.bundle.kept_text import KeptText
from edgepress.bundle.manifest import MANIFEST_NAME, bundle_hash, check_links, read_manifest, refuse_pack
from edgepress.bundle.states import state_bytes
from edgepress.bundle.verified import was_verified
from edgepress.disk.files import refuse_aside
from edgepress.errors import InputError
from edgepress.exporter.bundle.files import MODEL_FILE
from edgepress.exporter.bundle.written.download import describe_saving
from edgepress.exporter.recipe.recipe import CHOSEN_BY_BUDGET
from edgepress.onnx_graph.files import parse_model
from edgepress.onnx_graph.walk import all_nodes
from edgepress.targets.footprint import footprint_lines
from edgepress.terminal.tables import format_table

Json = dict[str, object]

_UNVERIFIED = "not here, or a file has changed since; `edgepress verify {}` reads every byte"
_FILLS_ANY_WINDOW = 1 << 25  # tokens
_LONGEST_FACT = 60  # characters of what a step says of itself, in a table


def step_lines(steps: Sequence[Json]) -> list[str]:
    """A table of the steps: the size of the model after each, and what the manifest records of the step."""
    if not steps:
        return []
    known = ("name", "parameters", "bytes", "bits_per_byte", "curve")  # a curve is drawn in the bundle
    rows = [
        (
            str(step["name"]),
            f"{step['parameters']:,}",
            megabytes(step["bytes"]),
            "" if step["bits_per_byte"] is None else f"{step['bits_per_byte']:.4f}",
            "; ".join(f"{key.replace('_', ' ')} {_short(value)}" for key, value in step.items() if key not in known),
        )
        for step in steps
    ]
    return ["", format_table(("step", "parameters", "MB", "bits per byte", "what it did"), rows, right=(1, 2, 3))]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_FACT else f"{text[:_LONGEST_FACT]}…"


def budget_lines(budget: Json | None) -> list[str]:
    """How much of a budget is used and what it costs, as a line; none where there was no budget."""
    if budget is None:
        return []
    if "samples" in budget:
        return _graph_budget_lines(budget)
    tokens = cast("int", budget["sequences"]) * cast("int", budget["length"])
    methods = " and ".join(cast("list[str]", budget["rounded_by"]))
    return [
        f"budget       {budget['limit']}, {budget['used']} used; KL {budget['measured_kl']} nats a token measured, "
        f"{budget['predicted_kl']} predicted ({tokens} tokens, rounded by {methods})"
    ]


def _graph_budget_lines(budget: Json) -> list[str]:
    """The same of a model that is no language model."""
    methods, score = " and ".join(cast("list[str]", budget["rounded_by"])), cast("Json | None", budget.get("score"))
    lines = [
        f"budget       {budget['limit']}, {budget['used']} used; {budget['measured']} {budget['measured_in']} "
        f"measured, {budget['predicted']} predicted ({budget['samples']} samples, rounded by {methods})"
    ]
    if score is not None:
        low, high = cast("tuple[float, float]", score["difference_interval"])
        lines.append(
            f"             {score['metric']} {score['value']:.4f}, of the float model {score['reference']:.4f} "
            f"(95 % of the difference {low:+.4f} to {high:+.4f}); {score['changed']:.2%} of the answers changed"
        )
    return lines


def kept_lines(kept: KeptText | None) -> list[str]:
    """What stays of a text, and what is known of its price; none where all does."""
    if kept is None:
        return []
    lost = "what that loses is told by a text: name one in [calibration]" if kept.loss is None else str(kept.loss)
    return [
        f"keeps        {kept.tokens:,} tokens of a text: of a longer one the first {kept.first} and the last stay, and "
        f"{kept.forgotten:,} go at a time",
        f"{'':<12} {lost}",
    ]


def slots_to_json(slots: AdapterSlots | None) -> Json | None:
    """Where a bundle takes adapters, with the bytes of an adapter of the largest rank; None where it takes none."""
    if slots is None:
        return None
    return {
        "rank": slots.rank,
        "targets": list(slots.targets),
        "largest_bytes": slots.largest_bytes,
        "slots": [
            {
                "name": slot.name,
                "inputs": [slot.a, slot.b],
                "shape": [slot.rows, slot.columns],
                "tensors": list(slot.tensors),
                "largest_bytes": slot.size(slots.rank),
            }
            for slot in slots.slots
        ],
    }


def slot_lines(slots: AdapterSlots | None) -> list[str]:
    """The same as a line; none where a bundle takes no adapters."""
    described = slots_to_json(slots)
    return [] if described is None else [_slot_line(described)]


def _slot_line(slots: Json) -> str:
    targets, found = cast("list[str]", slots["targets"]), cast("list[Json]", slots["slots"])
    return (
        f"adapters     of rank {slots['rank']} and less for {', '.join(targets)}, beside {len(found)} products; a file "
        f"of that rank for all of them takes {megabytes(slots['largest_bytes'])} MB"
    )


def drafters_to_json(drafters: Sequence[DrafterEntry]) -> list[Json]:
    """What a bundle has beside its model to propose tokens with: each graph, and what it carries along."""
    return [
        {
            "drafter": entry.drafter,
            "file": entry.file,
            "state_bytes_per_token": state_bytes(filter(lambda state: state.grows, entry.states), 1),
            "about": entry.about,
        }
        for entry in drafters
    ]


def drafter_lines(drafters: Sequence[Json]) -> list[str]:
    """The same as a line each, and below it what is known of its worth and the steps that made it."""
    lines = []
    for entry in drafters:
        lines.append(
            f"drafter      {entry['drafter']} ({entry['file']}): `--speculate {entry['drafter']}`, "
            f"{entry['state_bytes_per_token']:,} bytes of states a token"
        )
        about = dict(cast("Json", entry["about"]))
        steps = cast("list[Json]", about.pop("steps", []))
        if about:
            facts = [f"{key} {value}".replace("_", " ", 1) for key, value in about.items()]
            lines.append(f"{'':<12} {', '.join(facts)}")
        lines += step_lines(steps)
    return lines


def _graphs(bundle: Path) -> list[Path]:
    """The graphs of a bundle: ``model.onnx``, or those of an encoder and a decoder."""
    task = read_manifest(bundle).task if (bundle / MANIFEST_NAME).is_file() else None
    if task is None or task.sequences is None:
        return [bundle / MODEL_FILE]
    return [bundle / name for name in task.sequences.graphs]


def inspect(path: Path) -> Json:
    """Describe a bundle or any ONNX file: operators, inputs, outputs, bytes per group of tensors.

    Raises:
        InputError: ``path`` is neither, or the file cannot be parsed.

    """
    paths = _graphs(path) if path.is_dir() else [path]
    if not all(model_path.is_file() for model_path in paths):
        refuse_aside(path)
        refuse_pack(path)
        raise InputError(f"{path} is neither a bundle (no {paths[0].name}) nor a file; name one of them")
    if path.is_dir():
        check_links(path, paths)
    models = [parse_model(model_path) for model_path in paths]
    for model, model_path in zip(models, paths, strict=True):
        if not model.graph.node and not model.graph.output:
            raise InputError(f"{model_path} is not an ONNX model: it has no nodes and no outputs")
    model, graphs = models[0], [model.graph for model in models]
    nodes = (node for graph in graphs for node in all_nodes(graph.node))
    operators = Counter(f"{node.domain}.{node.op_type}".lstrip(".") for node in nodes)
    result: Json = {
        "path": str(path),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "nodes": operators.total(),
        "operators": dict(operators.most_common()),
        "inputs": [_value_to_json(value) for graph in graphs for value in graph.input],
        "outputs": [_value_to_json(value) for graph in graphs for value in graph.output],
        "groups": _groups([tensor for graph in graphs for tensor in graph.initializer]),
    }
    if path.is_dir() and (path / MANIFEST_NAME).exists():
        manifest = read_manifest(path)
        result["bundle"] = {
            "sha256": bundle_hash(path),
            "verified": was_verified(path),
            "model_type": manifest.model_type,
            "task": None if manifest.task is None else manifest.task.as_json(),
            "targets": manifest.targets,
            "recipe": manifest.recipe,
            "totals": manifest.totals,
            "parity": manifest.parity,
            "sparsity": manifest.sparsity,
            "budget": manifest.budget,
            "graphs": _graphs_to_json(manifest.graphs),
            "adapter_slots": slots_to_json(manifest.adapter_slots),
            "kept": None if manifest.kept is None else asdict(manifest.kept),
            "drafters": drafters_to_json(manifest.drafters),
            "steps": list(manifest.steps),
            "chosen": {
                str(tensor["name"]): tensor["reason"]
                for tensor in manifest.tensors
                if str(tensor.get("reason")).startswith(CHOSEN_BY_BUDGET)
            },
            "files": {name: entry.size for name, entry in manifest.files.items()},
            "notes": list(manifest.notes),
        }
    return result


def _graphs_to_json(graphs: Sequence[GraphEntry]) -> list[Json]:
    """Each graph of a bundle that has several: what it requires, its states, and whether it runs on this processor."""
    if not graphs:
        return []
    chosen = choose(graphs)
    return [
        {
            "file": entry.file,
            "requires": list(entry.requires),
            "states": dict(Counter(state.type for state in entry.states)),
            "state_bytes_per_token": state_bytes(filter(lambda state: state.grows, entry.states), 1),
            "window_bytes": state_bytes(
                (state for state in entry.states if state.window is not None), _FILLS_ANY_WINDOW
            ),
            "runs_here": describe_choice(entry, chosen),
        }
        for entry in graphs
    ]


def graph_lines(graphs: Sequence[Json]) -> list[str]:
    """A table of a bundle's graphs; none where there is one only."""
    if not graphs:
        return []
    rows = [
        (
            str(graph["file"]),
            ", ".join(cast("list[str]", graph["requires"])),
            ", ".join(f"{count} {kind}" for kind, count in cast("dict[str, int]", graph["states"]).items()),
            f"{graph['state_bytes_per_token']:,}",
            f"{graph['window_bytes']:,}",
            str(graph["runs_here"]),
        )
        for graph in graphs
    ]
    names = ("graph", "requires", "states", "bytes a token", "bytes of windows", "runs here")
    return ["", format_table(names, rows, right=(3, 4))]


def _value_to_json(value: onnx.ValueInfoProto) -> Json:
    tensor = value.type.tensor_type
    shape = [dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim]
    known = onnx.TensorProto.DataType.values()
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower() if tensor.elem_type in known else "unknown"
    return {"name": value.name, "dtype": dtype, "shape": shape}


def _groups(initializers: Iterable[onnx.TensorProto]) -> Json:
    """Bytes per group: the initializer's name without layer numbers; bytes that two names share are counted once."""
    groups: dict[str, dict[str, int]] = {}
    seen: set[tuple[str, str]] = set()
    for tensor in initializers:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        place = (entries.get("location", tensor.name), entries.get("offset", ""))
        length = entries.get("length", "0")
        if not re.fullmatch("[0-9]{1,18}", length):
            raise InputError(f"{tensor.name} has a length of {length!r} bytes in the graph; export the model again")
        nbytes = 0 if place in seen else int(length) or _inline_bytes(tensor)
        seen.add(place)
        name = ".".join("*" if piece.isdigit() else piece for piece in tensor.name.split("."))
        group = groups.setdefault(name, {"tensors": 0, "bytes": 0})
        group["tensors"] += 1
        group["bytes"] += nbytes
    return {name: groups[name] for name in sorted(groups, key=lambda name: -groups[name]["bytes"])}


def _inline_bytes(tensor: onnx.TensorProto) -> int:
    return len(tensor.raw_data) or tensor.ByteSize()


def _shape(sizes: Sequence[str | int]) -> str:
    """Such as ``batch × 2 × past × 32``."""
    return " × ".join(map(str, sizes)) or "scalar"


def format_inspection(inspection: Json) -> str:
    """Return :func:`inspect`'s result as tables."""
    operators = cast("dict[str, int]", inspection["operators"])
    groups = cast("dict[str, Json]", inspection["groups"])
    values = [
        (kind, str(value["name"]), str(value["dtype"]), _shape(cast("list[str | int]", value["shape"])))
        for kind in ("inputs", "outputs")
        for value in _folded(cast("list[Json]", inspection[kind]))
    ]
    opsets = ", ".join(f"{domain} {version}" for domain, version in cast("Json", inspection["opsets"]).items())
    parts = [
        f"{inspection['path']} ({inspection['producer'] or 'unknown producer'}), opsets {opsets}",
        "",
        format_table(("operator", "count"), [(name, str(count)) for name, count in operators.items()], right=(1,)),
        "",
        format_table(("", "name", "dtype", "shape"), values),
        "",
        format_table(
            ("group", "tensors", "MB"),
            [(name, str(group["tensors"]), megabytes(group["bytes"])) for name, group in groups.items()],
            right=(1, 2),
        ),
    ]
    if "bundle" in inspection:
        described = cast("Json", inspection["bundle"])
        files = cast("dict[str, int]", described["files"])
        parts += ["", format_table(("file", "MB"), [(n, megabytes(s)) for n, s in files.items()], right=(1,))]
        targets = ", ".join(cast("Json", described["targets"]))
        parts += graph_lines(cast("list[Json]", described["graphs"]))
        parts += ["", f"bundle {described['sha256']}: {described['model_type']} for {targets}"]
        if described["task"] is not None:
            task = cast("Json", described["task"])
            known = ", ".join(name for name in ("images", "sound", "text", "answers") if name in task)
            parts.append(f"task         {task['name']}{f' (--json has its {known})' if known else ''}")
        if described["adapter_slots"] is not None:
            parts.append(_slot_line(cast("Json", described["adapter_slots"])))
        if described["kept"] is not None:
            parts += kept_lines(msgspec.convert(described["kept"], KeptText))
        parts += drafter_lines(cast("list[Json]", described["drafters"]))
        parts += footprint_lines(cast("dict[str, Json]", described["targets"]))
        verified = "yes, and no file has changed since" if described["verified"] else _UNVERIFIED
        parts.append(f"verified     {verified.format(inspection['path'])}")
        chosen = cast("dict[str, str]", described["chosen"])
        if chosen:
            parts += ["", format_table(("tensor", "why"), list(chosen.items())), ""]
        parts += budget_lines(cast("Json | None", described["budget"]))
        parts += step_lines(cast("list[Json]", described["steps"]))
        if described["sparsity"] is not None:
            parts.append(f"zeros        {describe_saving(cast('Json', described['sparsity']))}")
        if described["parity"] is not None:
            parts.append(f"parity {described['parity']}")
        parts += [f"note         {note}" for note in cast("list[str]", described["notes"])]
    return "\n".join(parts)


def _folded(values: list[Json]) -> list[Json]:
    """Show one line for a numbered family of values such as ``present.*.key``."""
    folded: dict[str, Json] = {}
    for value in values:
        name = ".".join("*" if piece.isdigit() else piece for piece in str(value["name"]).split("."))
        folded.setdefault(name, {**value, "name": name})
    return list(folded.values())


def megabytes(nbytes: object) -> str:
    """Bytes in MB of 10⁶, three digits behind the point."""
    return f"{cast('int', nbytes) / 1e6:,.3f}"
