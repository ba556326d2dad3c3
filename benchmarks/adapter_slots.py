"""What do slots for adapters cost: empty, with an adapter in them, and beside a bundle without any?

Instructions are counted on an emulated processor (``edgepress emulator setup --system`` first), one thread, of the
first layers of a model of real shape with random weights, and scaled to all of them; so are bytes of graph and file.
Times are of the whole model on this host: three sessions take turns, and each sample has the load of the machine
before it. The adapter has the same rank for every projection of the layers.

    python benchmarks/adapter_slots.py [--only counts times] [--models smollm2-135m qwen2.5-0.5b] [--rank 16]

What is measured anew replaces the same samples of before; all others stay.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from common import RESULTS, SIZES, WORK, group, save, spread, table
from export_cost import TOKENIZER
from make_checkpoint import SHAPES, make
from safetensors.numpy import save_file

from edgepress.bundle.adapter_slots import AdapterSlots
from edgepress.bundle.manifest import read_manifest
from edgepress.exporter import export
from edgepress.exporter.bundle.adapter_file import write_adapter
from edgepress.runtime import load
from edgepress.runtime.measures.counting import count_bundles
from edgepress.targets.emulator import find_system, setup

NAME = "adapter_slots"
CPU, RECIPE, RANK = "cortex-a76", "int4-128", 16
DEMO, DEMO_LAYERS = "demo", 3
LAYERS = (1, 2)  # of the others, that are counted
CONTEXT, PREFILL = 64, 128  # slots do not look at the tokens before a call
TURNS, STEPS, PROMPT = 6, 32, 128
PLAIN, EMPTY, FILLED = "without slots", "empty slots", "an adapter"
MODELS = (DEMO, "smollm2-135m", "qwen2.5-0.5b")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model of so many ``layers``: a bundle with slots, one without, and an adapter's file."""

    model: str
    layers: int
    rank: int

    @property
    def folder(self) -> Path:
        """Where all of it lies."""
        return WORK / NAME / f"{self.model}-{self.layers}-layers-rank-{self.rank}"

    @property
    def of_layers(self) -> int:
        """How many the whole model has."""
        return DEMO_LAYERS if self.model == DEMO else SHAPES[self.model].layers

    @property
    def bundles(self) -> dict[str, tuple[Path, Path | None]]:
        """What is measured: a bundle, and the file that it applies."""
        slots, file = self.folder / "slots", self.folder / "adapter.onnx_adapter"
        return {PLAIN: (self.folder / "plain", None), EMPTY: (slots, None), FILLED: (slots, file)}

    def made(self) -> "Case":
        """The same, when its files are there."""
        (plain, _), (slots, file) = self.bundles[PLAIN], self.bundles[FILLED]
        checkpoint = DEMO if self.model == DEMO else self.folder / "checkpoint"
        if isinstance(checkpoint, Path) and not checkpoint.exists():
            shape = dataclasses.replace(SHAPES[self.model], layers=self.layers)
            make(shape, checkpoint, tokenizer=TOKENIZER)
        if not plain.exists():
            export(checkpoint, out=plain, recipe=RECIPE)
        if not slots.exists():
            export(checkpoint, out=slots, recipe=RECIPE, adapter_slots=[str(self.rank)])
        found = read_manifest(slots).adapter_slots
        if file is None or found is None:
            raise ValueError(f"{slots} has no slots")
        if not file.exists():
            write_adapter(slots, _adapter(self.folder / "adapter", found, self.rank), file)
        return self


def _adapter(folder: Path, slots: AdapterSlots, rank: int) -> Path:
    """Random factors for every tensor, as peft saves them."""
    draw, tensors = np.random.default_rng(0), {}
    columns = {tensor: slot.columns for slot in slots.slots for tensor in slot.tensors}
    for tensor, width in columns.items():
        module = f"base_model.model.{tensor.removesuffix('.weight')}"
        for side, shape in (("A", (rank, width)), ("B", (slots.rows_of(tensor), rank))):
            tensors[f"{module}.lora_{side}.weight"] = draw.normal(0, 0.01, shape).astype(np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def counted(model: str, rank: int) -> Iterator[dict[str, Any]]:
    """Instructions of each call, and bytes: bundles without an adapter in one boot, each adapter in one of its own."""
    machine = setup(), find_system()
    depths = (DEMO_LAYERS,) if model == DEMO else LAYERS
    cases = [Case(model, layers, rank).made() for layers in depths]
    plain = [(case, what, *case.bundles[what]) for case in cases for what in (PLAIN, EMPTY)]
    for together in (plain, *([(case, FILLED, *case.bundles[FILLED])] for case in cases)):
        bundles, file = [bundle for _, _, bundle, _ in together], together[0][3]
        costs = count_bundles(*machine, bundles, [CPU], prefill=[PREFILL], contexts=[CONTEXT], adapter=file)
        for (case, what, bundle, _), cost in zip(together, costs, strict=True):
            of_bundle = {
                "kind": "count",
                "model": model,
                "rank": rank,
                "layers": case.layers,
                "of_layers": case.of_layers,
                "what": what,
                "load": cost.load,
                "graph_bytes": (bundle / cost.graph).stat().st_size,
                "file_bytes": 0 if file is None else file.stat().st_size,
                "versions": cost.versions,
            }
            for call in cost.calls:
                asked = {"tokens": call.tokens, "context": call.context, "instructions": call.instructions}
                yield of_bundle | asked


def timed(model: str, rank: int) -> Iterator[dict[str, Any]]:
    """Seconds of opening, of a prompt and of decode steps, in turns, on one thread."""
    case = Case(model, DEMO_LAYERS if model == DEMO else SHAPES[model].layers, rank).made()
    of_case = {"kind": "time", "model": model, "rank": rank}
    models = {}
    for what, (bundle, file) in case.bundles.items():
        load(bundle, threads=1)  # its prepared form is made
        load_average, start = os.getloadavg()[0], perf_counter()
        opened = load(bundle, threads=1)
        models[what] = opened if file is None else opened.with_adapter(file)
        seconds = perf_counter() - start
        yield {**of_case, "what": what, "turn": 0, "part": "open", "seconds": [seconds], "load_average": load_average}
    prompt = np.random.default_rng(0).integers(3, 1000, PROMPT).tolist()
    for turn in range(TURNS):
        for what, opened in models.items():
            load_average, took = os.getloadavg()[0], []
            opened.reset()
            for tokens in (prompt, *([token] for token in prompt[:STEPS])):
                start = perf_counter()
                opened.prefill(tokens)
                took.append(perf_counter() - start)
            for part, seconds in (("prefill", took[:1]), ("decode", took[1:])):
                yield {
                    **of_case,
                    "what": what,
                    "turn": turn,
                    "part": part,
                    "seconds": seconds,
                    "load_average": load_average,
                }


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """All tables."""
    counts, times = ([one for one in samples if one["kind"] == kind] for kind in ("count", "time"))
    return "\n\n".join([count_table(counts), size_table(counts), time_table(times)])


def _scaled(of_case: Iterable[Mapping[str, Any]], key: str) -> float:
    """What all layers take, by what one more of them adds; of a model that was counted whole what it took."""
    *_, more = ordered = sorted(of_case, key=lambda one: one["layers"])
    if more["layers"] == more["of_layers"]:
        return float(more[key])
    fewer = ordered[-2]
    each = (more[key] - fewer[key]) / (more["layers"] - fewer["layers"])
    return float(more[key] + each * (more["of_layers"] - more["layers"]))


def _named(model: str) -> str:
    return SIZES.get(model, f"{model} shape, random weights")


def count_table(counts: Sequence[Mapping[str, Any]]) -> str:
    """Instructions a token, of all layers."""
    rows = []
    for (model, rank, tokens), of_call in group(counts, "model", "rank", "tokens").items():
        total = {what: _scaled(ones, "instructions") / tokens / 1e6 for (what,), ones in group(of_call, "what").items()}
        empty, filled = (f"{total[what]:.2f} ({total[what] / total[PLAIN] - 1:+.1%})" for what in (EMPTY, FILLED))
        layers = sorted({one["layers"] for one in of_call})
        how = (
            "counted" if len(layers) == 1 else f"scaled from {layers[-2]} and {layers[-1]} of {of_call[0]['of_layers']}"
        )
        call = "decode" if tokens == 1 else "prefill"
        rows.append([_named(model), call, f"{total[PLAIN]:.2f}", empty, f"{filled}, rank {rank}", how])
    return table(["model", "call", f"{PLAIN}: M a token", EMPTY, FILLED, "layers"], rows)


def size_table(counts: Sequence[Mapping[str, Any]]) -> str:
    """Bytes, and instructions of opening, of all layers."""
    rows = []
    for (model, rank), of_model in group((one for one in counts if one["tokens"] == 1), "model", "rank").items():
        found = {what: ones for (what,), ones in group(of_model, "what").items()}
        graph, opening = ({w: _scaled(found[w], key) for w in (PLAIN, EMPTY)} for key in ("graph_bytes", "load"))
        rows.append(
            [
                _named(model),
                f"{(graph[EMPTY] - graph[PLAIN]) / 1e3:.0f} kB (of {graph[PLAIN] / 1e3:.0f})",
                f"{_scaled(found[FILLED], 'file_bytes') / 1e6:.2f} MB, rank {rank}",
                f"{opening[EMPTY] / opening[PLAIN] - 1:+.0%}",
            ]
        )
    return table(["model", "slots in a graph", "an adapter's file", "instructions to open, empty slots"], rows)


def time_table(times: Sequence[Mapping[str, Any]]) -> str:
    """Milliseconds a step, and their ratios turn by turn; the load of the machine says what they are worth."""
    rows = []
    for (model, part), of_part in group(times, "model", "part").items():
        by_what = {what: ones for (what,), ones in group(of_part, "what").items()}
        middle = {what: [statistics.median(one["seconds"]) for one in ones] for what, ones in by_what.items()}
        cells = [spread([1e3 * second for second in middle[PLAIN]], 1)]
        for what in (EMPTY, FILLED):
            cells.append(spread([mine / plain for mine, plain in zip(middle[what], middle[PLAIN], strict=True)], 3))
        rows.append([_named(model), part, *cells, spread([one["load_average"] for one in of_part], 1)])
    return table(["model", "", f"{PLAIN}: ms", EMPTY, FILLED, "load of the machine"], rows)


def read() -> list[Mapping[str, Any]]:
    """The samples that there are."""
    path = RESULTS / f"{NAME}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []


def keep(made: Sequence[Mapping[str, Any]]) -> None:
    """Put samples in the place of the same ones of before."""
    anew = {(one["kind"], one["model"], one["rank"]) for one in made}
    save(NAME, [*(one for one in read() if (one["kind"], one["model"], one["rank"]) not in anew), *made])


def main() -> int:
    """Measure what is asked, keep it, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("counts", "times"), default=["counts", "times"])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rank", type=int, default=RANK)
    arguments = parser.parse_args()
    measure = {"counts": counted, "times": timed}
    for part in arguments.only:
        for model in arguments.models:
            keep(list(measure[part](model, arguments.rank)))
    print(report(read()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
