"""The directory that a build step ships: which files go into it and how its manifest is made."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx

from edgepress import __version__
from edgepress.bundle import mtp as mtp_graph
from edgepress.bundle.drafters import DrafterEntry
from edgepress.bundle.graphs import GraphEntry
from edgepress.bundle.kept_text import KeptLoss
from edgepress.bundle.manifest import MANIFEST_NAME, FileEntry, Manifest, describe_files, read_manifest
from edgepress.disk.files import sha256_file, write_json
from edgepress.exporter.bundle.stream import TensorReport
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.rope import key_rotations
from edgepress.exporter.model.rotation import factors
from edgepress.exporter.model.subject import Description
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.plan.planned import Subject
from edgepress.exporter.recipe.decisions import Decisions
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.tokens.source_tokenizer import check_tokens, tokenizer_files, whole_tokenizer
from edgepress.tasks.task import Task

MODEL_FILE = "model.onnx"
HALF_FILE = "model_fp16.onnx"  # beside it, for processors that compute in float16
DATA_FILE = "model.onnx.data"
GENAI_FILE = "genai_config.json"


def copy_tokenizer(checkpoint: Checkpoint, bundle: Path) -> None:
    """Write the tokenizer's files by content, tokenizer.json with every token that one of them names; read it back.

    onnxruntime-genai also needs a tokenizer_config.json to be there.

    Raises:
        InputError: the tokenizer that was written lacks one of its tokens.

    """
    for name, content in tokenizer_files(checkpoint).items():
        (bundle / name).write_bytes(content)
    config = bundle / "tokenizer_config.json"
    if not config.exists():
        write_json(config, {"tokenizer_class": "PreTrainedTokenizerFast"})
    check_tokens(bundle, whole_tokenizer(checkpoint).tokens)


def write_tables(path: Path, plan: Plan, decoder: Description) -> None:
    """Write the rotation's factors into their regions of the data file."""
    if decoder.rotation is None:
        return
    tables = dict(zip(("rotation.left", "rotation.right"), factors(decoder.rotation), strict=True))
    with path.open("r+b") as file:
        for planned in plan.tables:
            table = tables[planned.name]
            if table.shape != planned.shape:
                raise ValueError(f"{planned.name}: {table.shape}, the plan says {planned.shape}")
            file.seek(planned.region.offset)
            file.write(np.ascontiguousarray(table, "<f4").data)


def describe_tensors(plan: Plan, reports: Mapping[str, TensorReport]) -> tuple[dict[str, object], ...]:
    """One manifest entry a tensor: where its rows come from, how it is stored, and how well."""
    entries: list[dict[str, object]] = []
    for tensor in plan.tensors:
        report = reports[tensor.weight.name]
        scheme = tensor.scheme
        entries.append(
            {
                "name": tensor.weight.name,
                "kind": tensor.weight.kind,
                "shape": list(tensor.weight.shape),
                "sources": list(dict.fromkeys(part.tensor for part in tensor.weight.parts)),
                "scheme": None if scheme is None else asdict(scheme),
                "form": tensor.form,
                "reason": tensor.reason,
                "bytes_before": tensor.bytes_before,
                "bytes_after": tensor.bytes_after,
                "regions": {part: [region.offset, region.nbytes] for part, region in tensor.regions.items()},
                "sqnr_db": None if report.sqnr_db is None else round(report.sqnr_db, 4),
                **({} if report.few_tokens is None else {"few_tokens": report.few_tokens}),
            }
        )
    return tuple(entries)


def write_manifest(
    bundle: Path,
    planned: Subject,
    reports: Mapping[str, TensorReport],
    *,
    recipe: Recipe,
    targets: Mapping[str, dict[str, object]] | None = None,
    source: Mapping[str, str] | None = None,
    calibration: dict[str, object] | None = None,
    budget: dict[str, object] | None = None,
    parity: dict[str, object] | None = None,
    sparsity: dict[str, object] | None = None,
    notes: tuple[str, ...] = (),
    origin: dict[str, object] | None = None,
    decisions: Decisions | None = None,
    graphs: tuple[GraphEntry, ...] = (),
    task: Task | None = None,
) -> Manifest:
    """Hash what is on disk, as read back from there; write ``manifest.json`` and return it as read back too.

    ``recipe`` is what was asked, and ``decisions`` stand beside it. ``graphs`` are there where there are several,
    and ``task`` where it is no language model.
    """
    model, plan, files = planned.description, planned.plan, describe_files(bundle)
    manifest = Manifest(
        model_type=model.model_type,
        targets=dict(targets or {}),
        recipe=recipe.to_json(),
        versions={
            "edgepress": __version__,
            "numpy": np.__version__,
            "onnx": onnx.__version__,
            "python": platform.python_version(),
        },
        source=dict(source or {}),
        tensors=describe_tensors(plan, reports),
        totals={
            "bytes_before": plan.bytes_before,
            "bytes_after": sum(entry.size for entry in files.values()),
            "context_length": plan.context_length,
            "cache_bytes": plan.cache_bytes,
            "bits_per_weight": round(plan.bits_per_weight, 4),
        },
        files=files,
        calibration=calibration,
        budget=budget,
        parity=parity,
        sparsity=sparsity,
        long_from=model.long_from,
        states=plan.states,
        rotations=key_rotations(model) if isinstance(model, Decoder) else None,
        kept=recipe.cache.kept,
        graphs=graphs,
        adapter_slots=plan.adapter_slots,
        drafters=drafters_of(model),
        task=task,
        notes=notes,
        origin=origin,
        decisions={} if decisions is None else decisions.to_json(),
    )
    return _write_manifest(bundle, manifest)


def drafters_of(model: Description) -> tuple[DrafterEntry, ...]:
    """What a model predicts a token further with, as the manifest lists it; nothing where it has none."""
    mtp = model.mtp if isinstance(model, Decoder) else None
    return () if mtp is None else (DrafterEntry(mtp_graph.DRAFTER, mtp_graph.MTP_FILE, mtp.decoder.states()),)


def add_steps(bundle: Path, manifest: Manifest, steps: tuple[dict[str, object], ...]) -> Manifest:
    """Write the manifest again with what the steps of a recipe came to, the last of them the bundle itself."""
    return _write_manifest(bundle, replace(manifest, steps=steps))


def add_kept_loss(bundle: Path, manifest: Manifest, loss: KeptLoss) -> Manifest:
    """Write the manifest again with what is lost by what a bundle keeps of a text."""
    assert manifest.kept is not None
    return _write_manifest(bundle, replace(manifest, kept=replace(manifest.kept, loss=loss)))


def add_drafter(bundle: Path, manifest: Manifest, entry: DrafterEntry, files: Sequence[str]) -> Manifest:
    """Write the manifest again with a drafter's graph and the other ``files`` that are there for it."""
    added = {name: FileEntry((bundle / name).stat().st_size, sha256_file(bundle / name)) for name in files}
    size = sum(one.size for one in added.values())
    totals = {**manifest.totals, "bytes_after": int(str(manifest.totals["bytes_after"])) + size}
    every = dict(sorted({**manifest.files, **added}.items()))
    drafters = (*manifest.drafters, entry)
    return _write_manifest(bundle, replace(manifest, totals=totals, files=every, drafters=drafters))


def leave_out(bundle: Path, manifest: Manifest, name: str, why: str) -> Manifest:
    """Write the manifest again with something of the recipe that is left out after all."""
    left_out = {**manifest.decisions.get("left_out", {}), name: why}  # type: ignore[dict-item]
    return _write_manifest(bundle, replace(manifest, decisions={**manifest.decisions, "left_out": left_out}))


def _write_manifest(bundle: Path, manifest: Manifest) -> Manifest:
    (bundle / MANIFEST_NAME).write_text(manifest.serialize(), encoding="utf-8")
    return read_manifest(bundle)
