"""How much of the bundle a target's accelerator takes, by `edgepress check`: nodes, and pieces that it is cut into."""

from edgepress.errors import InputError
from edgepress.runtime.gate.figures import Figure, Gauge, Option, Request
from edgepress.targets import find_target

_FIGURES = {
    "nodes_share": "nodes that run on the accelerator, of all",
    "partitions": "pieces that the accelerator gets; data crosses to the CPU and back between them",
    "slow_kernels": "nodes that run where they should, by a slow kernel",
}


def _take(requests: list[Request]) -> list[list[Figure]]:
    return [_figures(request) for request in requests]


def _figures(request: Request) -> list[Figure]:
    try:
        from edgepress.targets.legality.check import check
    except ModuleNotFoundError as error:
        raise InputError(f"[accelerator] needs {error.name}; pip install 'edgepress[export]'") from error
    request.told(f"accelerator: {request.bundle} on {request.options['target']}")
    reports = check(request.bundle, find_target(request.options["target"]), request.options["soc"])
    nodes = [placement.runs_on == report.provider for report in reports for placement in report.placements]
    return [
        Figure("nodes_share", "", "more", (sum(nodes) / len(nodes),), exact=True),
        Figure("partitions", "", "less", (float(sum(report.partitions for report in reports)),), exact=True),
        Figure("slow_kernels", "", "less", (float(sum(len(report.warnings) for report in reports)),), exact=True),
    ]


GAUGE = Gauge("accelerator", _FIGURES, {"target": Option(str, required=True), "soc": Option(str, "")}, _take)
