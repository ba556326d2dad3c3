"""A draft model beside the model: whether it is worth its bytes, and what of them the model's data file has already.

What it is worth is estimated, so that the same inputs give the same bundle. Of tokens that it proposes the share a is
right that both find likeliest on text that neither has seen; a step over k of them and one token gives
E(k) = 1 + a + a² … aᵏ tokens (Leviathan et al. 2023, equation 1) and takes c(k + 1) steps of the model, and k of the
draft, each of which costs the share of the model's bytes that it reads. Decoding reads all weights for each token, and
waits for them more than for anything else. The device measures both costs itself, and speculates where that pays there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.bundle.drafters import DrafterEntry
from edgepress.exporter.bundle.files import DATA_FILE, MODEL_FILE
from edgepress.exporter.plan.layout import Layout
from edgepress.onnx_graph.files import parse_model
from edgepress.onnx_graph.walk import tensors
from edgepress.runtime.config import read_config
from edgepress.runtime.generation.speculation.costs import MOST_PROPOSED, StepCosts
from edgepress.runtime.measures.evaluate import evaluate
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.terminal.progress import Progress

DRAFTER = "draft"
DRAFT_FILE = "draft.onnx"
DRAFT_DATA = "draft.onnx.data"
COSTS = StepCosts({1: 1.0, 2: 1.33, 3: 1.58, 4: 1.74, 8: 2.71, 16: 5.34}, exact=16)
"""Of steps over several tokens, in steps over one: benchmarks/speculation.py, the 135M shape, one thread on x86."""
_PIECE = 1 << 20  # bytes hashed or copied at a time


@dataclass(frozen=True)
class Worth:
    """What a draft is estimated to be worth.

    ``acceptance`` is measured: how many of ``tokens`` both models find likeliest. ``step`` is what one of its tokens
    costs, ``speed`` how much faster an answer goes with ``width`` tokens proposed a step; both are estimates.
    """

    acceptance: float
    tokens: int
    step: float
    width: int
    speed: float

    def to_json(self) -> dict[str, object]:
        """As the manifest has it."""
        return {
            "acceptance": round(self.acceptance, 4),
            "tokens": self.tokens,
            "estimated_step": round(self.step, 4),
            "estimated_width": self.width,
            "estimated_speed": round(self.speed, 3),
        }

    def __str__(self) -> str:
        return (
            f"{self.acceptance:.1%} of what it proposes is right, each token costs {self.step:.2f} of a step, so an "
            f"answer goes {self.speed:.2f} × as fast (estimate)"
        )


class _Logits:
    """The logits of a bundle, as a reference."""

    def __init__(self, bundle: Path, context: int, threads: int) -> None:
        config = read_config(bundle, MODEL_FILE)
        self._session = CpuSession(config, threads=threads, context=context, prepared=False)

    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits (length, vocab) of ``tokens`` (length,)."""
        self._session.reset()
        return self._session.append(tokens, 0).copy()


def measure_draft(
    bundle: Path, draft: Path, documents: Sequence[str], step: float, *, context: int, threads: int, progress: Progress
) -> Worth:
    """What the bundle ``draft`` is worth beside ``bundle``, on ``documents`` that it was not made with.

    ``step`` is what one of its tokens costs, in steps of the model; ``context`` tokens are seen at most.
    """
    with progress(sum(len(document.encode()) for document in documents), "measuring the draft", "B") as advance:
        found = evaluate(
            draft,
            documents,
            context=context,
            stride=context // 2,
            reference=_Logits(bundle, context, threads),
            threads=threads,
            prepared=False,
            graph=MODEL_FILE,
            progress=advance,
        )
    assert found.top1_agreement is not None  # there is a reference
    return estimate_worth(found.top1_agreement, found.scored_tokens, step)


def estimate_worth(acceptance: float, tokens: int, step: float) -> Worth:
    """The width at which an answer goes fastest, and how fast."""

    def speed(width: int) -> float:
        expected = sum(acceptance**power for power in range(width + 1))
        return expected / (COSTS.of(width + 1) + step * width)

    best = max(range(1, MOST_PROPOSED + 1), key=speed)
    return Worth(acceptance, tokens, step, best, speed(best))


def add_draft(bundle: Path, draft: Path, about: dict[str, object]) -> tuple[DrafterEntry, list[str]]:
    """Put the graph of the bundle ``draft`` and those of its weights that ``bundle`` has not into ``bundle``.

    Bytes that the model's data file has are read from there: an embedding that training left as it was, a head.

    Args:
        bundle: which is written, but its manifest.
        draft: whose tokens are the same.
        about: what the manifest says of it; the bytes that it adds and shares are put in.

    Returns:
        What the manifest lists, and the files that are new.

    """
    graph, shared = parse_model(draft / MODEL_FILE), 0
    placed: dict[tuple[int, int], tuple[str, int]] = {}  # where regions of the draft's data file are now
    wanted = {region for _, region in _regions(graph)}
    known = _digests(bundle / DATA_FILE, _regions(parse_model(bundle / MODEL_FILE)), {length for _, length in wanted})
    layout = Layout()
    with (draft / DATA_FILE).open("rb") as read, (bundle / DRAFT_DATA).open("wb") as written:
        for offset, length in sorted(wanted):
            same = known.get((length, _digest(read, offset, length)))
            if same is not None:
                placed[offset, length], shared = (DATA_FILE, same), shared + length
                continue
            at = layout.place(length).offset
            written.seek(at)
            read.seek(offset)
            for start in range(0, length, _PIECE):
                written.write(read.read(min(_PIECE, length - start)))
            placed[offset, length] = (DRAFT_DATA, at)
    for tensor, region in _regions(graph):
        location, at = placed[region]
        for entry in tensor.external_data:
            entry.value = {"location": location, "offset": str(at)}.get(entry.key, entry.value)
    (bundle / DRAFT_FILE).write_bytes(graph.SerializeToString(deterministic=True))
    files, config = [DRAFT_FILE, DRAFT_DATA], read_config(draft, MODEL_FILE)
    if not layout.end:  # the model has all of them
        files.remove(DRAFT_DATA)
        (bundle / DRAFT_DATA).unlink()
    own = sum((bundle / name).stat().st_size for name in files)
    sizes: dict[str, object] = {"bytes": own, "shared_bytes": shared}
    return DrafterEntry(DRAFTER, DRAFT_FILE, config.states, config.long_from, about | sizes), files


def _regions(graph: onnx.ModelProto) -> list[tuple[onnx.TensorProto, tuple[int, int]]]:
    """Each tensor that lies in the data file, with its offset and length there."""
    found = []
    for tensor in tensors(graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            found.append((tensor, (int(entries["offset"]), int(entries["length"]))))
    return found


def _digests(
    path: Path, regions: Sequence[tuple[onnx.TensorProto, tuple[int, int]]], lengths: set[int]
) -> dict[tuple[int, str], int]:
    """Where there are which bytes, by length and SHA-256, of the regions that are so long."""
    with path.open("rb") as file:
        return {
            (length, _digest(file, offset, length)): offset
            for offset, length in sorted({region for _, region in regions if region[1] in lengths}, reverse=True)
        }


def _digest(file: BinaryIO, offset: int, length: int) -> str:
    file.seek(offset)
    digest = hashlib.sha256()
    for start in range(0, length, _PIECE):
        digest.update(file.read(min(_PIECE, length - start)))
    return digest.hexdigest()
