"""Static graphs of tiny checkpoints and of bundles, opened on the CPU."""

from pathlib import Path

import numpy as np
import onnxruntime

from edgepress.exporter.graph.static import write_static
from edgepress.runtime.sessions.session import Session
from edgepress.runtime.sessions.static import StaticSession
from edgepress.sessions import open_on_cpu, session_options

CONTEXT, SEQUENCE = 100, 16


def cpu(path: Path) -> onnxruntime.InferenceSession:
    return open_on_cpu(path, session_options(1))


def static_session(bundle: Path, out: Path, *, context: int = CONTEXT, sequence: int = SEQUENCE) -> StaticSession:
    """The bundle's decoder as static graphs, written into ``out``."""
    out.mkdir(exist_ok=True)
    prefill, decode = write_static(bundle / "model.onnx", out, context=context, sequence=sequence)
    return StaticSession(cpu(prefill), cpu(decode))


def logits(session: Session, tokens: np.ndarray, decoded: int) -> np.ndarray:
    """Logits of every position, (tokens, vocab): the last ``decoded`` one by one, those before in whole calls."""
    session.reset()
    prompt, rest = tokens[: tokens.size - decoded], tokens[tokens.size - decoded :]
    pieces = [prompt, *rest[:, None]] if prompt.size else rest[:, None]
    return np.concatenate([session.append(piece, 0, total=tokens.size).copy() for piece in pieces])


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
