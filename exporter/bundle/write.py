"""The files that every bundle has: weights, graph, tokenizer and what runtimes need to know, written from a plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from edgepress.cores import usable_cores
from edgepress.disk.files import write_json
from edgepress.exporter.bundle.files import DATA_FILE, GENAI_FILE, copy_tokenizer, write_tables
from edgepress.exporter.bundle.stream import Made, TensorReport, write_weights
from edgepress.exporter.plan.planned import Planned, Subject
from edgepress.terminal.progress import Progress


def write_data(
    work: Path, planned: Subject, stages: Made | None, *, threads: int | None, progress: Progress
) -> dict[str, TensorReport]:
    """Write every weight and table into the data file; returns how well each tensor is stored.

    ``stages`` has the weights that calibration made, None where the checkpoint's are rounded as they are.
    """
    with progress(planned.plan.parameters, "quantizing", " weights") as advance:
        reports = write_weights(
            planned.source,
            planned.plan,
            work / DATA_FILE,
            threads=threads or usable_cores(),
            calibrated=stages,
            progress=advance,
        )
    write_tables(work / DATA_FILE, planned.plan, planned.description)
    return reports


def write_models(
    work: Path, planned: Planned, graphs: Mapping[str, onnx.ModelProto], genai_config: Mapping[str, object]
) -> None:
    """Write the CPU graphs by their files, the tokenizer, and ``genai_config.json``."""
    for file, graph in graphs.items():
        (work / file).write_bytes(graph.SerializeToString(deterministic=True))
    copy_tokenizer(planned.checkpoint, work)
    write_json(work / GENAI_FILE, genai_config)
