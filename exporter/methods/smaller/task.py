"""What a pruning step is given: the model so far, the original, text, and a way to write the smaller one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.methods.smaller.checkpoint import NewTensor, write_checkpoint
from edgepress.exporter.methods.tasks import Schemes
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.reading import first_token
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.documents import Documents
from edgepress.exporter.streams.text import read_calibration
from edgepress.exporter.tokens.source_tokenizer import source_tokenizer
from edgepress.targets import Target
from edgepress.terminal.progress import Progress, silent


@dataclass
class PruneTask:
    """One step: it reads the model in ``checkpoint`` and calls :meth:`write` once.

    - ``original`` and ``original_decoder``: the model as the user gave it, before any step
    - ``kept_tokens`` int64 (vocabulary,): the original's id of each token, None while the vocabulary is whole; a step
      that removes tokens sets it
    - ``texts``: the documents of the text without the held-out ones, on which steps are scored
    - ``folder``: exists until the step is done, after a kill too, for what a long step has done so far
    - ``schemes()``: how the recipe will store each weight of the model so far
    - ``report``: what the manifest records of the step; JSON values
    - ``out``: where :meth:`write` puts the checkpoint
    """

    checkpoint: Checkpoint
    decoder: Decoder
    original: Checkpoint
    original_decoder: Decoder
    recipe: Recipe
    targets: tuple[Target, ...]
    texts: Documents
    folder: Path
    out: Path
    device: torch.device
    context_length: int
    schemes: Callable[[], Schemes]
    kept_tokens: NDArray[np.int64] | None = None
    progress: Progress = silent
    report: dict[str, object] = field(default_factory=dict)
    written: tuple[Checkpoint, Decoder] | None = None

    @property
    def seed(self) -> int:
        """The seed of every random choice."""
        return self.recipe.calibration.seed

    @property
    def bos(self) -> int | None:
        """The token that begins every text under the current tokenizer, None when the model has none."""
        return first_token(self.checkpoint, self.decoder)

    @property
    def block(self) -> int:
        """Columns that share a scale in the recipe's weights, to which sizes are best rounded; 32 where none do."""
        weights = self.recipe.weights
        block = max(weights.block_size) if isinstance(weights.block_size, tuple) else weights.block_size
        return block if block and weights.bits < 16 else 32

    def tokens(self, count: int) -> NDArray[np.int64]:
        """Sequences of about ``count`` tokens of the text in all, (sequences, length), under the current tokenizer.

        Raises:
            InputError: the text cannot be used.

        """
        if count < 2:
            raise InputError(f"a step is to use {count} tokens of the text; give at least 2 (option tokens)")
        length = min(self.recipe.calibration.length, self.context_length)
        return read_calibration(
            self.texts.files,
            tokenizer=source_tokenizer(self.checkpoint),
            bos=self.bos,
            settings=replace(self.recipe.calibration, tokens=count, length=length),
            vocab_size=self.decoder.vocab_size,
            context_length=self.context_length,
        ).tokens

    def read(self, weight: Weight) -> Tensor:
        """A weight of the current model in float32 on ``device``."""
        return torch.from_numpy(read_weight(self.checkpoint, weight)).to(self.device)

    def read_original(self, weight: Weight) -> Tensor:
        """A weight of the original model in float32 on ``device``."""
        return torch.from_numpy(read_weight(self.original, weight)).to(self.device)

    def write(
        self,
        *,
        config: Mapping[str, object],
        tensors: Sequence[NewTensor],
        files: Mapping[str, bytes | None] | None = None,
    ) -> tuple[Checkpoint, Decoder]:
        """Write the step's checkpoint and read it back; see :func:`.checkpoint.write_checkpoint`."""
        self.written = write_checkpoint(self.checkpoint, self.out, config=config, tensors=tensors, files=files)
        return self.written
