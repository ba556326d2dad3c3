"""``edgepress export``: checkpoint → bundle."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgepress.terminal.stdio import say

if TYPE_CHECKING:
    from edgepress.bundle.manifest import Manifest

NAME = "export"
HELP = "quantize a model and write a bundle directory"


def add_revision_argument(parser: argparse.ArgumentParser) -> None:
    """Add the revision of a model that is named by its hub id."""
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a model on the hub (default: its main branch)"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``export`` and ``plan`` share: the model, target, recipe and context."""
    parser.add_argument(
        "model",
        help="`demo`, a directory in Hugging Face form, a hub id, a GGUF or ONNX file, or package.module:function "
        "that returns a torch module",
    )
    parser.add_argument(
        "--target",
        action="append",
        help="what the bundle must run on; may be given several times (default: arm64-cpu)",
    )
    parser.add_argument(
        "--soc",
        action="append",
        default=[],
        metavar="CHIP",
        help="compile ahead for this chip of the target (qnn-htp: sm8650 …); may be given several times",
    )
    parser.add_argument(
        "--recipe",
        help="a preset (int4, int4-fast, int8, int8-dynamic, int8-static, fp16, fp32 …) or a TOML file (default: what "
        "suits the targets: int4 for CPUs, int8-static-a16 for qnn-htp, int4-channel for both)",
    )
    parser.add_argument(
        "--calibration",
        action="append",
        default=[],
        metavar="FILE",
        help="text for a calibrated recipe or one that prunes, .jsonl with a `text` on each line or plain; of a model "
        "with another task what that takes: a folder of images or WAV files, .csv, .jsonl, .npz, a saved dataset or "
        "package.module:callable; may be given several times (default: the recipe's, else the model's own generations)",
    )
    add_revision_argument(parser)
    parser.add_argument(
        "--task",
        metavar="NAME",
        help="what a model that is no language model is for, or a .json file that says it whole",
    )
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="DIR",
        help="LoRA adapter, as peft saves it, to merge into the weights; several are merged in turn",
    )
    parser.add_argument(
        "--adapter-slots",
        action="append",
        default=[],
        metavar="RANK[:NAMES]|DIR",
        help="take adapters that are swapped when the bundle runs: of at most this rank for every projection, or for "
        "those that are named (16:q_proj,v_proj), or as the adapter in DIR needs it; may be given several times",
    )
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="tokens a text may have (default: the model's; running takes as many as memory suits)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_model_arguments(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="the bundle's directory")
    parser.add_argument(
        "--force", action="store_true", help="replace DIR when it is a bundle and nothing else is in it"
    )
    parser.add_argument("--check", action="store_true", help="compare with the reference model")
    parser.add_argument("--threads", type=int, metavar="N", help="threads that quantize (default: all cores)")


def describe(value: object) -> str:
    """What is found of one thing, or of several by their names, as words."""
    if not isinstance(value, dict):
        return str(value)
    return "; ".join(f"{key.replace('_', ' ')} {describe(found)}" for key, found in value.items())


def run(arguments: argparse.Namespace) -> int:
    """Export, then say what was written and what it cost."""
    import time

    from edgepress.bundle.manifest import bundle_hash
    from edgepress.exporter import export
    from edgepress.exporter.bundle.written.download import describe_saving
    from edgepress.exporter.decide.encoder_decoder import is_encoder_decoder
    from edgepress.exporter.decide.opening import choose_recipe
    from edgepress.exporter.doors.kinds import find_door
    from edgepress.exporter.recipe.recipe import describe_promise
    from edgepress.processor import FEATURES
    from edgepress.targets import FALLBACK
    from edgepress.targets.footprint import footprint_lines
    from edgepress.terminal.progress import progress

    start = time.perf_counter()
    target = arguments.target or FALLBACK
    is_graph = is_encoder_decoder(arguments.model, arguments.revision) or find_door(arguments.model) is not None
    recipe, why = (arguments.recipe, "") if is_graph else choose_recipe(arguments.recipe, target)
    manifest = export(
        arguments.model,
        out=arguments.out,
        target=target,
        recipe=recipe,
        socs=arguments.soc,
        context_length=arguments.context,
        calibration=arguments.calibration,
        revision=arguments.revision,
        task=arguments.task,
        adapters=arguments.adapter,
        adapter_slots=arguments.adapter_slots,
        check=arguments.check,
        force=arguments.force,
        threads=arguments.threads,
        progress=progress,
    )
    steps = cast("Sequence[Mapping[str, float]]", manifest.steps)
    before = int(str(steps[0]["bytes"] if steps else manifest.totals["bytes_before"]))
    after = int(str(manifest.totals["bytes_after"]))
    targets = ", ".join(manifest.targets)
    print(
        f"{arguments.out}: {manifest.model_type}, recipe {manifest.recipe['name']}{why and f' ({why})'}, "
        f"target {targets}"
    )
    share = f" ({after / before:.0%})" if before else ""  # a graph may have no weights at all
    print(
        f"  weights in the checkpoint {before / 1e6:,.1f} MB → bundle {after / 1e6:,.1f} MB{share}, "
        f"{manifest.totals['bits_per_weight']:.2f} bits a weight"
    )
    if steps:
        print(f"  {_passed(steps)}")
    worst = sorted((t for t in manifest.tensors if t["sqnr_db"] is not None), key=lambda t: float(str(t["sqnr_db"])))
    if worst:
        print(f"  {len(worst)} tensors quantized; lowest SQNR {worst[0]['sqnr_db']} dB in {worst[0]['name']}")
    if few := sum("few_tokens" in tensor for tensor in manifest.tensors):
        print(f"  {few} matrices of experts rounded to nearest, as too few tokens of the text came to them")
    promise = cast("dict[str, float]", manifest.recipe["promise"])
    if promise and not is_graph:  # it is of language models
        print(f"  promise: {describe_promise(promise)}")
    for graph in manifest.graphs[:-1]:
        needs = " and ".join(FEATURES[word] for word in graph.requires)
        print(f"  {graph.file} for processors that have {needs}, {manifest.graphs[-1].file} for all others")
    slots = manifest.adapter_slots
    if slots is not None:
        print(f"  takes adapters of rank {slots.rank} and less for {', '.join(slots.targets)}: see `edgepress adapter`")
    kept = cast("dict[str, str]", manifest.decisions.get("kept_layers", {}))
    for name, reason in kept.items():
        print(f"  {name} computes in float32: {reason}")
    for line in (
        *_drafters(manifest),
        *footprint_lines(manifest.targets),
        *(f"note: {note}" for note in manifest.notes),
    ):
        print(f"  {line}")
    if manifest.sparsity is not None:
        print(f"  zeros: {describe_saving(manifest.sparsity)}")
    if manifest.parity is not None:
        for key, value in manifest.parity.items():
            print(f"  {key.replace('_', ' ')}: {describe(value)}")
    print(f"  {len(manifest.files) + 1} files written and read back in {time.perf_counter() - start:.1f} s")
    print(f"  hash {bundle_hash(Path(arguments.out))}")
    say(f"next: edgepress {_next(manifest, arguments.out)}")
    return 0


def _drafters(manifest: "Manifest") -> list[str]:
    """What there is for speculation, and why there is no draft model where one was asked for."""
    lines = []
    for entry in manifest.drafters:
        worth = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in entry.about.items() if key != "steps")
        lines.append(f"{entry.file} for --speculate {entry.drafter}" + (f": {worth}" if worth else ""))
    left_out: Mapping[str, str] = manifest.decisions.get("left_out", {})  # type: ignore[assignment]
    return lines + [f"no draft model: {left_out[name]}" for name in ("draft",) if name in left_out]


def _next(manifest: "Manifest", out: object) -> str:
    """The command that tries a bundle: a conversation, where its model was made for them."""
    from edgepress.chat.template import TEMPLATE_FILE

    if manifest.task is None and TEMPLATE_FILE in manifest.files:
        return f"chat {shlex.quote(str(out))}"
    return f"run {shlex.quote(str(out))} {_taken(manifest)}"


def _taken(manifest: "Manifest") -> str:
    """What `edgepress run` is given for a bundle."""
    task = manifest.task
    if task is None or (task.sequences is not None and task.sequences.source == "tokens"):
        return "--prompt …"
    if task.sequences is not None or task.sound is not None:
        return "sound.wav"
    files = {"photo.jpg": task.images, "texts.txt": task.text}
    return " ".join(name for name, taken in files.items() if taken is not None) or "--inputs arrays.npz"


def _passed(steps: Sequence[Mapping[str, object]]) -> str:
    """What each step of a recipe that prunes came to: bits per byte, or multiply-adds of a graph that reads no text."""
    if all(step["bits_per_byte"] is None for step in steps):
        what, written = "multiply-adds", [f"{step['multiply_adds']:,}" for step in steps]
    else:
        what, written = "bits per byte of held-out text", [f"{step['bits_per_byte']:.4f}" for step in steps]
    return f"{what}: " + " → ".join(f"{step['name']} {value}" for step, value in zip(steps, written, strict=True))
