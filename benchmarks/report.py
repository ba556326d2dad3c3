"""The tables of the README and of docs/, made from the raw samples in results/: nothing is measured.

python benchmarks/report.py [vocabulary pruning]    print all tables of these samples, by default of all
python benchmarks/report.py --write                 put the tables into the pages, between their markers

A marker names one of ``TABLES``::

    <!-- table: presets -->
    <!-- /table -->
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from common import RESULTS, ROOT, SIZES, table

# Samples, and the script whose ``report`` makes tables of them. Those of cliffs.py and arm_cliffs.py are tables of
# the package: targets/legality/*.json.
REPORTS = {
    "adapter_slots": "adapter_slots",
    "any_model": "any_model",
    "accuracy": "accuracy_tables",
    "accuracy_grid": "accuracy_tables",
    "arm_accuracy": "arm_accuracy",
    "arm_encoders": "arm_encoders",
    "arm_half": "arm_half",
    "arm_ideas": "arm_ideas",
    "arm_instructions": "arm_instructions_tables",
    "calibration_cost": "calibration_cost",
    "cold_start": "cold_start",
    "comparison": "comparison",
    "coverage": "coverage_tables",
    "coverage_tasks": "coverage_tasks_tables",
    "coverage_wholes": "coverage_wholes",
    "decode_speed": "decode_speed",
    "device_lab": "device_lab_tables",
    "decoding": "decoding",
    "door_memory": "door_memory",
    "drafts": "drafts",
    "embedder": "embedder",
    "task_budgets": "task_budgets",
    "evictions": "evictions",
    "export_cost": "export_cost",
    "export_cost_large": "export_cost",
    "export_memory": "export_cost",
    "fusion": "fusion",
    "keyword_spotter": "keyword_spotter",
    "least_memory": "least_memory",
    "long_texts": "long_texts",
    "memory": "memory",
    "mobilenet_repair": "mobilenet_repair",
    "npu": "npu",
    "npu_sequences": "npu_sequences",
    "pruned_cnn": "pruned_cnn",
    "pruned_embedder": "pruned_embedder",
    "pruning": "pruning",
    "real_shapes": "real_shapes",
    "rounding_cnn": "rounding_cnn",
    "same_answers": "same_answers",
    "scales": "scales",
    "sequences_attention": "sequences_tables",
    "sequences_reversing": "sequences_tables",
    "sequences_shapes": "sequences_tables",
    "shipped_files": "shipped_files",
    "shipped_files_all": "shipped_files",
    "sparsity": "sparsity",
    "speculation": "speculation",
    "structured": "structured",
    "task_placement": "task_placement",
    "timm_models": "timm_models",
    "tool_speed": "tool_speed",
    "turns": "turns",
    "vocabulary": "vocabulary",
    "windows": "windows",
}

Row = tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """One table of a page: the ``index``-th of the samples ``names``, without columns ``less`` and some of its rows.

    ``keep`` says by a row's cells, under their headings, whether it stays. Several samples make one table where their
    headings agree.
    """

    names: tuple[str, ...]
    index: int = 0
    less: tuple[str, ...] = ()
    keep: Callable[[Mapping[str, str]], bool] = lambda _: True

    def markdown(self) -> str:
        """The table as it stands in the page."""
        parts = [tables_in(report(name))[self.index] for name in self.names]
        header = parts[0][0]
        if any(part[0] != header for part in parts):
            raise ValueError(f"tables of {', '.join(self.names)} have other columns than each other")
        if unknown := set(self.less) - set(header):
            raise ValueError(f"{', '.join(self.names)}: no column {', '.join(sorted(unknown))}")
        wanted = [i for i, name in enumerate(header) if name not in self.less]
        rows = [row for part in parts for row in part[1:] if self.keep(dict(zip(header, row, strict=True)))]
        return table([header[i] for i in wanted], [[sized(header[i], row[i]) for i in wanted] for row in rows])


PEERS = ("llama.cpp", "onnxruntime-genai")
PRESETS = ("int4", "int4-best", "int4-fast", "int4-small", "int8", "int8-dynamic", "int8-static")
LEARNING = (
    "gptq, 4 bits, block 128",
    "autoround, 4 bits, block 128, 100 steps of 4",
    "autoround, 4 bits, block 128",
    "int4-fast",
    "int4-channel",
)
TABLES = {
    "any_model texts": Cut(("any_model",)),
    "any_model resnet": Cut(("any_model",), 1),
    "any_model mobilenet": Cut(("any_model",), 2),
    "shipped files": Cut(("shipped_files_all",)),
    # peaks are left out: a process that this large one starts begins with its memory
    "shipped recognizer 4": Cut(("shipped_files",), less=("peak",)),
    "shipped recognizer 6": Cut(("shipped_files",), 1, less=("peak",)),
    "shipped classifier": Cut(("shipped_files",), 2, less=("peak",)),
    "shipped magika": Cut(("shipped_files",), 3, less=("peak",)),
    "comparison": Cut(("comparison",)),
    "coverage_counts": Cut(("coverage",)),
    "coverage": Cut(("coverage",), 1),
    "coverage_tasks_counts": Cut(("coverage_tasks",)),
    "coverage_tasks_right": Cut(("coverage_tasks",), 1),
    "coverage_tasks_others": Cut(("coverage_tasks",), 2),
    "door_memory": Cut(("door_memory",)),
    "coverage_wholes_counts": Cut(("coverage_wholes",)),
    "coverage_wholes": Cut(("coverage_wholes",), 1),
    "accuracy": Cut(("accuracy",), less=("against float32",)),
    "presets": Cut(
        ("accuracy",),
        less=("against float32",),
        keep=lambda row: row["tool"] in PEERS or row["recipe"] in PRESETS,
    ),
    "promise": Cut(("accuracy",), 1),
    "scales": Cut(("scales",)),
    "learning": Cut(
        ("accuracy",),
        less=("tool", "bits per byte", "against float32", "nats a token lost", "stored as"),
        keep=lambda row: row["tool"] == "edgepress" and row["recipe"] in LEARNING,
    ),
    "grid stories260k": Cut(("accuracy_grid",), 1),
    "grid tiny1m": Cut(("accuracy_grid",), 2),
    "grid demo": Cut(("accuracy_grid",), 3),
    "npu": Cut(("npu",)),
    "npu sequences": Cut(("npu_sequences",)),
    "timm models": Cut(("timm_models",)),
    "same answers": Cut(("same_answers",)),
    "task placement": Cut(("task_placement",)),
    "zeros": Cut(("sparsity",)),
    "layouts": Cut(("sparsity",), 1),
    "calibration_cost": Cut(("calibration_cost",)),
    "export_cost": Cut(("export_cost", "export_cost_large"), less=("edgepress MB", "without llvmlite MB")),
    "export_memory": Cut(("export_memory",)),
    "decode_speed": Cut(("decode_speed",)),
    "tools": Cut(("tool_speed",)),
    "cold starts": Cut(("cold_start",)),
    "tools' loss": Cut(("tool_speed",), 1),
    "follow-ups": Cut(("turns",)),
    "beginnings": Cut(("turns",), 1),
    "side by side": Cut(("turns",), 2),
    "speculation speed": Cut(("speculation",)),
    "speculation answers": Cut(("speculation",), 1),
    "drafts gain": Cut(("drafts",)),
    "drafts agreement": Cut(("drafts",), 1),
    "memory": Cut(("memory",)),
    "least memory": Cut(("least_memory",)),
    "lab memory": Cut(("device_lab",)),
    "lab repeats": Cut(("device_lab",), 1),
    "lab fit": Cut(("device_lab",), 2),
    "real_shapes": Cut(("real_shapes",)),
    "pruned cnn": Cut(("pruned_cnn",)),
    "pruned embedder": Cut(("pruned_embedder",)),
    "pruning": Cut(("pruning",)),
    "vocabulary bytes": Cut(("vocabulary",)),
    "vocabulary time": Cut(("vocabulary",), 1),
    "fusion": Cut(("fusion",)),
    "slots instructions": Cut(("adapter_slots",)),
    "slots bytes": Cut(("adapter_slots",), 1),
    "slots time": Cut(("adapter_slots",), 2),
    "arm accuracy": Cut(("arm_accuracy",)),
    "arm encoders": Cut(("arm_encoders",)),
    "arm half": Cut(("arm_half",), less=("processor",)),
    "arm ideas": Cut(("arm_ideas",)),
    "sequences reversing": Cut(("sequences_reversing",)),
    "sequences shapes": Cut(("sequences_shapes",)),
    "sequences attention": Cut(("sequences_attention",)),
    "embedder": Cut(("embedder",)),
    "rounding cnn": Cut(("rounding_cnn",)),
    "task_budgets": Cut(("task_budgets",)),
    "repair": Cut(("mobilenet_repair",)),
    "repair residual": Cut(("mobilenet_repair",), 1),
    "windows": Cut(("windows",)),
    "structured": Cut(("structured",)),
    "decoding": Cut(("decoding",)),
    "integer caches": Cut(("long_texts",)),
    "integer caches' cost": Cut(("long_texts",), 1),
    "forgetting": Cut(("long_texts",), 2),
    "evictions": Cut(("evictions",)),
    "keyword spotter": Cut(("keyword_spotter",)),
    "compression": Cut(("long_texts",), 3),
    "arm tokens": Cut(("arm_instructions",)),
    "arm operators": Cut(("arm_instructions",), 1),
    "arm layers": Cut(("arm_instructions",), 2),
    "arm peers": Cut(("arm_instructions",), 3),
    "arm classes": Cut(("arm_instructions",), 4),
}
"""Every table that a page may have, by the name in its marker."""

MARKED = re.compile(r"(<!-- table: (?P<name>[^\n]+?) -->\n).*?(?=<!-- /table -->)", re.DOTALL)


def report(name: str) -> str:
    """All tables of ``results/<name>.jsonl``."""
    lines = (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return str(import_module(REPORTS[name]).report([json.loads(line) for line in lines[1:]]))  # the first is the host


def tables_in(text: str) -> list[list[Row]]:
    """The Markdown tables of ``text``, each as rows of cells: its header, then the rest."""
    found: list[list[Row]] = []
    before = False
    for line in text.splitlines():
        inside = line.startswith("|")
        if inside and not before:
            found.append([])
        if inside and set(line) - set("|-"):
            cells = line.strip().removeprefix("|").removesuffix("|").split("|")
            cells = line.strip().removeprefix("|").removesuffix("|").split("|")
            found[-1].append(tuple(cell.strip() for cell in cells))
        before = inside
    return found


def sized(heading: str, cell: str) -> str:
    """A model's name with its size, where it is one of the small ones."""
    return SIZES.get(cell, cell) if heading == "model" else cell


def with_tables(text: str) -> str:
    """The page ``text`` with every marked table made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found['name']].markdown()}\n", text)


def main() -> None:
    """Print what is asked for, or write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(REPORTS)}; default: all")
    parser.add_argument("--write", action="store_true", help="write the tables into the README and docs/")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(REPORTS):
        parser.error(f"no tables of {', '.join(sorted(unknown))}; there are {', '.join(REPORTS)}")
    if arguments.write:
        for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
            text = page.read_text(encoding="utf-8")
            if (new := with_tables(text)) != text:
                page.write_text(new, encoding="utf-8")
                print(f"{page.relative_to(ROOT)}: written")
        return
    for name in arguments.names or REPORTS:
        print(f"{name}\n\n{report(name)}\n")


if __name__ == "__main__":
    main()
