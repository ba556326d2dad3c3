"""Facts that an estimate of instructions on ARM is made from: what an operator takes for what it works through.

Fitted to the committed samples of arm_instructions.py, by least squares of relative errors; nothing is counted. Writes
``targets/legality/arm_instructions.json`` with the error against those samples, and prints each.

    python benchmarks/arm_costs.py
"""

import dataclasses
import json
import statistics
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from arm_instructions import FLOAT_TARGET, HALF_TARGET, Sample, kept
from common import ROOT, group, read_sample, table
from export_cost import TOKENIZER
from make_checkpoint import SHAPES, config, tensors

from edgepress.exporter import decide
from edgepress.exporter.bundle.cpu_graph import make_graph, planned_graphs
from edgepress.exporter.decide.instructions import (
    APART,
    DECODE,
    LAST,
    OTHERS,
    PREFILL,
    TABLE,
    Costs,
    Work,
    cost_of,
    work_of,
)

WRITTEN = ROOT / "targets" / "legality" / TABLE
_ALIKE = "GroupQueryAttention"
_WIDE = "edges"  # told apart from weights where more than one model was counted

Works = Mapping[str, Work]
Row = tuple[Sample, Works]


def shaped_checkpoint(model: str, layers: int, folder: Path) -> str | Path:
    """A checkpoint of that shape without weights: a plan reads none. Its file is all holes. Of the demo its name."""
    if model not in SHAPES:
        return model
    shape, end, header = dataclasses.replace(SHAPES[model], layers=layers), 0, {}
    for name, dims in tensors(shape):
        start, end = end, end + 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(config(shape)), encoding="utf-8")
    for path in TOKENIZER.glob("*token*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def rows_of(samples: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Each sample of ours with the work that its graph has to do."""
    rows: list[Row] = []
    mine = (sample for sample in samples if sample["tool"] == "edgepress")
    with TemporaryDirectory() as folder:
        for (model, layers, form), of_form in group(mine, "model", "layers", "form").items():
            where = Path(folder) / f"{model}-{layers}"
            checkpoint = where if where.exists() else shaped_checkpoint(model, layers, where)
            recipe, _, half = form.partition(" ")
            prepared = decide(checkpoint, target=HALF_TARGET if half else FLOAT_TARGET, recipe=recipe)
            graph = make_graph(prepared.decoder, planned_graphs(prepared)[0].plan, prepared.cpu)
            for sample in (read_sample(Sample, one) for one in of_form):
                rows.append((sample, work_of(graph, phase_of(sample), sample.context)))
    return rows


def phase_of(sample: Sample) -> str:
    """Whether a sample is of a decoded token or a prompt."""
    return DECODE if sample.tokens == 1 else PREFILL


def fit(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Costs by processor, phase, operator and quantity.

    Products of all kinds are fitted together, as a sample has their sum only; attention for all processors together,
    which take the same instructions for it.
    """
    cpus = list(dict.fromkeys(sample.cpu for sample, _ in rows))
    costs: dict[str, dict[str, dict[str, dict[str, float]]]] = {cpu: {DECODE: {}, PREFILL: {}} for cpu in cpus}
    for phase in (DECODE, PREFILL):
        here = [row for row in rows if phase_of(row[0]) == phase]
        for operator in (*APART, OTHERS):
            parts = [(sample, {name: of for name, of in works.items() if name.startswith(operator)})
                     for sample, works in here]  # fmt: skip
            for cpu in cpus:
                cases = [part for part in parts if operator == _ALIKE or part[0].cpu == cpu]
                costs[cpu][phase] |= solved(cases, operator, costs[cpu][DECODE])
    return costs


def seen_with(cases: Sequence[Row], kind: str) -> set[str]:
    """The models that have an operator of this kind."""
    return {sample.model for sample, works in cases if kind in works}


def counted(sample: Sample, operator: str) -> float:
    """Instructions a token of an operator; of the others all that the two which are told apart have not."""
    operators = sample.operators or {}
    apart = sample.instructions - sum(operators[name] for name in APART)
    return (apart if operator == OTHERS else operators[operator]) / sample.tokens


def solved(cases: Sequence[Row], operator: str, decode: Costs) -> dict[str, dict[str, float]]:
    """Costs ≥ 0 by kind and quantity, with the least squares of errors as shares of the whole token.

    What the last token of a prompt takes alone is taken from ``decode``.
    """
    amounts, rests = [], []
    for sample, works in cases:
        share, row, rest = (
            sample.tokens / sample.instructions,
            dict[tuple[str, str], float](),
            counted(sample, operator),
        )
        for kind, of in works.items():
            for name, amount in of.items():
                if name.startswith(LAST):
                    rest -= amount * decode[kind].get(name.removeprefix(LAST), 0.0)
                elif name != _WIDE or len(seen_with(cases, kind)) > 1:
                    row[kind, name] = amount * share
        amounts.append(row)
        rests.append(rest * share)
    columns = sorted({key for row in amounts for key in row})
    while True:
        matrix = np.array([[row.get(key, 0.0) for key in columns] for row in amounts])
        scale = np.linalg.norm(matrix, axis=0)
        found = np.linalg.lstsq(matrix / scale, np.array(rests), rcond=None)[0]
        if found.min() >= 0:
            break
        del columns[int(found.argmin())]
    costs: dict[str, dict[str, float]] = {kind: {} for _, works in cases for kind in works}
    for (kind, name), cost in zip(columns, found / scale, strict=True):
        costs[kind][name] = float(f"{cost:.4g}")
    return costs


def errors(rows: Sequence[Row], costs: Mapping[str, Mapping[str, Costs]]) -> list[tuple[Sample, float]]:
    """How far the estimate of each sample is from it, as a share of it."""
    found = []
    for sample, works in rows:
        estimate = cost_of(works, costs[sample.cpu], phase_of(sample))
        if estimate is None:
            raise ValueError(f"{sample.model}, {sample.form}: no costs for {works.keys()}")
        found.append((sample, estimate * sample.tokens / sample.instructions - 1))
    return found


def main() -> None:
    """Fit, write the table, print each error."""
    rows = rows_of(kept())
    costs = fit(rows)
    found = errors(rows, costs)
    sizes = [abs(error) for _, error in found]
    data = {
        "source": "benchmarks/arm_costs.py, from the whole models in benchmarks/results/arm_instructions.jsonl",
        "unit": "instructions",
        "largest_error": round(max(sizes), 4),
        "median_error": round(statistics.median(sizes), 4),
        "costs": costs,
    }
    WRITTEN.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    lines = [
        (one.model, f"{one.layers}", one.cpu, one.form, f"{one.tokens} after {one.context:,}", f"{error:+.2%}")
        for one, error in found
    ]
    print(table(("model", "layers", "processor", "form", "call", "estimate off by"), lines))


if __name__ == "__main__":
    main()
