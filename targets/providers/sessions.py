"""Sessions on a provider of a wheel of its own: opened with one set of rules, and asked where each node went."""

import ctypes
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgepress.sessions import session_options


def open_on(
    devices: Sequence[Any],
    model: Path | bytes,
    options: Mapping[str, str],
    *,
    fallback: bool,
    config: Mapping[str, str] | None,
    optimize: bool,
    verbose: bool,
) -> Any:
    """Return an onnxruntime.InferenceSession on ``devices``, which takes every node or, with ``fallback``, some.

    Without ``fallback`` a node that the provider leaves is an error, and so is a provider that fails: onnxruntime
    would run the model on the CPU and say so on stdout only. Raises what onnxruntime raises; its errors have no
    common base.
    """
    import onnxruntime

    # What is left to the CPU is computed as on ARM. It is little: more threads would spin for nothing, and did so for
    # half of the time that a small model takes to open.
    session = session_options(threads=1)
    if verbose:
        session.log_severity_level = 0
    if not optimize:
        session.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session.add_session_config_entry("session.disable_cpu_ep_fallback", str(int(not fallback)))
    for key, value in (config or {}).items():
        session.add_session_config_entry(key, value)
    session.add_provider_for_devices(list(devices), dict(options))
    with stdout_to_stderr():
        return onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model, session, enable_fallback=0
        )


def assignment(session: Any) -> list[tuple[str, str, str, str]]:
    """Return (name, operator, domain, provider) of every node that a session computes, in no particular order.

    Nodes that onnxruntime folded away are not among them; those that it made or renamed are.
    """
    return [
        (node.name, node.op_type, node.domain, part.ep_name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what native code prints on stdout."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # what C's stdio still holds
        os.dup2(kept, 1)
        os.close(kept)
