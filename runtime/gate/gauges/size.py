"""Bytes that an app ships: all files of the bundle."""

from edgepress.runtime.gate.figures import Figure, Gauge, Request


def _take(requests: list[Request]) -> list[list[Figure]]:
    return [[_size(request)] for request in requests]


def _size(request: Request) -> Figure:
    size = sum(path.stat().st_size for path in request.bundle.rglob("*") if path.is_file())
    return Figure("bundle_megabytes", "MB", "less", (size / 1e6,), exact=True)


GAUGE = Gauge("size", {"bundle_megabytes": "all files of the bundle"}, {}, _take)
