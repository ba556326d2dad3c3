"""Bits per byte in pieces of the head are those of whole logits in float64."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from prune_tasks import described_logits, prune_task, tiny
from tiny_models import TEXT

from edgepress.errors import InputError
from edgepress.exporter.learn.pruning import score
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.streams import head
from edgepress.runtime.measures.evaluate import log_softmax
from edgepress.terminal.progress import silent
from edgepress.text.tokenizer import read_tokenizer
from edgepress.text.windows import windows

pytestmark = pytest.mark.usefixtures("one_thread")


def scored(task: PruneTask, documents: list[str]) -> float:
    return score.bits_per_byte(
        task.checkpoint,
        task.decoder,
        documents,
        bos=task.bos,
        context_length=task.context_length,
        folder=task.folder,
        device=torch.device("cpu"),
        progress=silent,
        label="test",
    )


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text-version4", "granite", "phi3", "llama-longrope"])
@pytest.mark.parametrize(("tokens", "rows"), [(2048, 2048), (100, 37), (1, 1000)])
def test_pieces_add_up_to_the_whole(
    name: str, tokens: int, rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents shorter and longer than a window, and one that is only its first token."""
    monkeypatch.setattr(score, "_TOKENS", tokens)
    monkeypatch.setattr(head, "ROWS", rows)
    task = prune_task(tiny(name, tmp_path), tmp_path / "task")
    documents = [TEXT * 2, "To be, or not", "T", "the slings and arrows of " * 3]
    tokenizer, total = read_tokenizer(task.checkpoint.directory), 0.0
    for document in documents:
        ids = [*([] if task.bos is None else [task.bos]), *tokenizer.encode_plain(document)]
        for window in windows(np.array(ids), 128, 64):
            logs = log_softmax(described_logits(task.checkpoint, task.decoder, window.tokens))
            rows_of_scored = np.arange(len(window.tokens))[-window.scored - 1 : -1]
            total -= logs[rows_of_scored, window.tokens[-window.scored :]].sum()
    expected = total / math.log(2) / sum(len(document.encode()) for document in documents)
    assert scored(task, documents) == pytest.approx(expected, abs=1e-4)
    assert list(task.folder.iterdir()) == []


def test_text_of_one_token_cannot_be_scored(tmp_path: Path) -> None:
    task = prune_task(tiny("gpt2", tmp_path), tmp_path / "task")
    with pytest.raises(InputError, match="longer than one token"):
        scored(task, ["T" if task.bos is None else ""])
