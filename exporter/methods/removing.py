"""The step that all methods take which remove channels of one kind from an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import onnx

from edgepress.errors import InputError
from edgepress.exporter.interpreter.network import Feed
from edgepress.exporter.methods.kinds import GraphPruning
from edgepress.exporter.methods.narrower.choose import OF, choose, find_groups
from edgepress.exporter.methods.narrower.coupling import Kind
from edgepress.exporter.methods.narrower.cut import cut
from edgepress.exporter.methods.narrower.importance import IN_ONE_UNIT, NEED_SAMPLES, WAYS, scores_of
from edgepress.exporter.methods.narrower.mend import mend
from edgepress.exporter.methods.narrower.refit import refit
from edgepress.exporter.methods.narrower.task import GraphTask
from edgepress.exporter.methods.options import Option, Options, whole_number


def options_of(*, share: float, multiple: int) -> Mapping[str, Option]:
    """The options of such a method with its own defaults."""
    return {
        "share": Option(share, above=0, below=1),
        "of": Option("multiply_adds", choices=OF),
        "by": Option("weights", choices=WAYS),
        "uniform": Option(False),
        "multiple": whole_number(multiple),
        "mend": Option(False),
        "samples": whole_number(64),
        "only": Option(""),
        "skip": Option(""),
    }


def removing(name: str, kind: Kind, *, share: float = 0.5, multiple: int = 1) -> GraphPruning:
    """The method ``name`` for graphs: channels of one kind go until a share of the work remains."""

    def check(task: GraphTask, options: Options) -> None:
        way = str(options["by"])
        find_groups(task.coupling, (kind,), str(options["only"]), str(options["skip"]), name)
        looks = f'by = "{way}"' if way in NEED_SAMPLES else "mend = true" if options["mend"] else ""
        if looks and task.samples is None:
            raise InputError(
                f"[options.{name}] {looks} looks at what samples send through the graph, and there are none; give "
                "some, or leave it out"
            )

    def run(task: GraphTask, options: Options) -> None:
        check(task, options)
        coupling = task.coupling
        groups = find_groups(coupling, (kind,), str(options["only"]), str(options["skip"]), name)
        samples = () if task.samples is None else islice(task.samples(), int(options["samples"]))
        scores = scores_of(task.model, coupling, groups, str(options["by"]), samples, seed=task.seed)
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
        looked_at: list[Feed] = []
        if bool(options["mend"]):
            assert task.samples is not None  # checked
            looked_at = list(islice(task.samples(), int(options["samples"])))
            mend(model, coupling, kept, looked_at)
        task.made = cut(model, coupling, kept)
        if looked_at:
            task.report["fitted"] = list(refit(task.made, task.model, coupling, kept, looked_at))
        task.report["kept"] = {group.name: [int(kept[group.channels].sum()), len(group)] for group in groups}

    return GraphPruning(name, run, declared=options_of(share=share, multiple=multiple), check=check)
