"""The step that all methods take which remove channels of one kind from an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import onnx

from edgepress.errors import InputError
from edgepress.exporter.methods.kinds import GraphPruning
from edgepress.exporter.methods.narrower.choose import OF, choose, find_groups
from edgepress.exporter.methods.narrower.coupling import Kind
from edgepress.exporter.methods.narrower.cut import cut
from edgepress.exporter.methods.narrower.importance import IN_ONE_UNIT, NEED_SAMPLES, WAYS, scores_of
from edgepress.exporter.methods.narrower.mend import mend
from edgepress.exporter.methods.narrower.refit import refit
from edgepress.exporter.methods.narrower.task import GraphTask, rows_of
from edgepress.exporter.methods.options import Option, Options, whole_number

FEW = 64
"""Samples below which a step says that they are few, and so many are looked at where nothing else is asked."""


def options_of(*, share: float, multiple: int) -> Mapping[str, Option]:
    """The options of such a method with its own defaults."""
    return {
        "share": Option(share, above=0, below=1),
        "of": Option("multiply_adds", choices=OF),
        "by": Option("weights", choices=WAYS),
        "uniform": Option(False),
        "multiple": whole_number(multiple),
        "mend": Option(False),
        "samples": whole_number(FEW),
        "only": Option(""),
        "skip": Option(""),
    }


def removing(name: str, kind: Kind, *, share: float = 0.5, multiple: int = 1) -> GraphPruning:
    """The method ``name`` for graphs: channels of one kind go until a share of the work remains."""

    def check(task: GraphTask, options: Options) -> None:
        find_groups(task.coupling, (kind,), str(options["only"]), str(options["skip"]), name)
        looks = _looks(options)
        if looks and task.samples is None:
            raise InputError(
                f"[options.{name}] {looks} looks at what samples send through the graph, and there are none; give "
                "some, or leave it out"
            )

    def run(task: GraphTask, options: Options) -> None:
        check(task, options)
        coupling = task.coupling
        groups = find_groups(coupling, (kind,), str(options["only"]), str(options["skip"]), name)
        looks = task.samples is not None and _looks(options) != ""
        feeds = list(islice(task.samples(), int(options["samples"]))) if task.samples is not None and looks else []
        scores = scores_of(task.model, coupling, groups, str(options["by"]), feeds, seed=task.seed)
        kept = choose(
            coupling,
            groups,
            scores,
            share=float(options["share"]),
            of=str(options["of"]),
            uniform=bool(options["uniform"]),
            priced=str(options["by"]) in IN_ONE_UNIT,
            multiple=int(options["multiple"]),
            method=name,
        )
        model = onnx.ModelProto()
        model.CopyFrom(task.model)
        if options["mend"]:
            mend(model, coupling, kept, feeds)
        task.made = cut(model, coupling, kept)
        if options["mend"]:
            task.report["fitted"] = list(refit(task.made, task.model, coupling, kept, feeds))
        if looks:
            task.report["samples"] = sum(map(rows_of, feeds))
        task.report["kept"] = {group.name: [int(kept[group.channels].sum()), len(group)] for group in groups}

    return GraphPruning(name, run, declared=options_of(share=share, multiple=multiple), check=check)


def _looks(options: Options) -> str:
    """What of the options looks at samples, in a recipe's words; "" where nothing does."""
    way = str(options["by"])
    return f'by = "{way}"' if way in NEED_SAMPLES else "mend = true" if options["mend"] else ""


def few_samples(step: Mapping[str, object]) -> str:
    """What to tell of a step that looked at few samples, by what the manifest says of it; "" of any other."""
    samples, kept = step.get("samples"), step.get("kept")
    if not isinstance(samples, int) or not isinstance(kept, Mapping) or samples >= FEW:
        return ""
    channels = sum(whole for _, whole in kept.values())
    return (
        f"{step['name']} looked at {samples:,} samples to tell which of {channels:,} channels go, and these are few: "
        "what they choose and fit suits other inputs less (ResNet-20 by half has 78 % of its answers right with 16, "
        f"84 % with 64, 86 % with 1,000); give more by --calibration, and for more than {FEW} say "
        f"[options.{step['name']}] samples"
    )
