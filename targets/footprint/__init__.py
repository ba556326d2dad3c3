"""How large a runtime is that can run a model in ORT format: bounds, since nobody compiles one here.

onnxruntime's minimal build has the kernels of the operators that a configuration lists and no others. Its library
without any kernel is a published figure, taken on another machine and of another version: an estimate from below, in
a field of its own. With every kernel there is, it is the library that is installed here: measured, from above, and for
this machine's processor.
"""

import importlib.util
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgepress.errors import InputError
from edgepress.targets.devices import Figure

ENTRY = "smallest_runtime"
"""What the manifest calls it, in the entry of a target."""
WITHOUT_KERNELS = Figure(
    1_562_280,
    "onnxruntime's own check of its minimal build for Android arm64 without operators, on disk "
    "(github.com/microsoft/onnxruntime/pull/31691)",
    "2026-09-03",
)


def smallest_runtime(configuration: str) -> dict[str, object]:
    """What the manifest says of the smallest runtime for a configuration of operators.

    Raises:
        InputError: the text is no such configuration.

    """
    found = WITHOUT_KERNELS
    return {
        "operators": len(operators_in(configuration)),
        "estimate": {"at_least_bytes": int(found.value), "source": found.source, "date": found.date},
    }


def operators_in(configuration: str) -> list[str]:
    """Operators that a configuration lists, ``domain:name:opset``.

    Each line is ``domain;opset;Op{"inputs": …},Op``, with what is known of an operator's types in braces.

    Raises:
        InputError: a line is none of these.

    """
    found = []
    for number, line in enumerate(configuration.splitlines(), 1):
        if not line.strip() or line.startswith(("#", "!")):
            continue
        domain, opset, rest = (*line.split(";", 2), "", "")[:3]
        if not rest:
            raise InputError(f"line {number} of the operators is not domain;opset;operators: {line}")
        while rest:
            name = rest[: min(at for at in (rest.find(","), rest.find("{"), len(rest)) if at >= 0)]
            rest = rest[len(name) :]
            if rest.startswith("{"):
                try:
                    _, end = json.JSONDecoder().raw_decode(rest)
                except ValueError:
                    raise InputError(f"line {number} of the operators has no end of {name}'s types: {line}") from None
                rest = rest[end:]
            if not name.isidentifier() or not opset.isdigit() or rest[:1] not in {"", ","}:
                raise InputError(f"line {number} of the operators is not domain;opset;operators: {line}")
            found.append(f"{domain}:{name}:{opset}")
            rest = rest[1:]
    return found


def whole_library() -> int | None:
    """Bytes of onnxruntime's library as it is installed here, with every kernel; None where it is no file."""
    package = importlib.util.find_spec("onnxruntime")
    places = [] if package is None else list(package.submodule_search_locations or ())
    for place in places:
        for library in sorted(Path(place, "capi").glob("libonnxruntime.*")):
            return library.stat().st_size
    return None


def footprint_lines(targets: Mapping[str, Any]) -> list[str]:
    """A line for each target that has such a form."""
    lines = []
    for name, described in targets.items():
        if ENTRY not in described:
            continue
        entry = described[ENTRY]
        estimate, whole = entry["estimate"], whole_library()
        above = ""
        if whole is not None:
            import onnxruntime

            installed = f"onnxruntime {onnxruntime.__version__} for {platform.machine()}"
            above = f", and less than the {whole / 1e6:.1f} MB of {installed} with every kernel (measured)"
        lines.append(
            f"smallest runtime for {name}: the kernels of {entry['operators']} operators; an estimate, more than "
            f"{estimate['at_least_bytes'] / 1e6:.1f} MB ({estimate['source']}, {estimate['date']}){above}"
        )
    return lines
