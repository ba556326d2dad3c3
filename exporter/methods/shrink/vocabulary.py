"""Tokens removed: those that the app's text does not use, with their rows of the embedding and the head.

Which tokens stay, and why any text can still be encoded and decoded, is in :mod:`edgepress.exporter.tokens.corpus` and
:mod:`edgepress.exporter.tokens.tokenizer`. Rows are copied bit for bit, so the smaller model's logits are those of the
larger one at the tokens that are kept. Rows that pad the embedding beyond the tokenizer's tokens are removed too.

Source: the trimming of Abdaoui et al. 2020, Load What You Need (arXiv:2010.05609), with merges closed under what the
kept tokens are made of.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import numpy as np

from edgepress.errors import InputError
from edgepress.exporter.methods.kinds import Pruning, Size
from edgepress.exporter.methods.options import Option, Options, whole_number
from edgepress.exporter.methods.smaller.config import described
from edgepress.exporter.methods.smaller.picks import Pick, picked_tensors, whole
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.tokens.corpus import Choice, Usage, choose_tokens, count_usage, script_costs, script_warnings
from edgepress.exporter.tokens.source_tokenizer import source_tokenizer, tokenizer_files, whole_tokenizer
from edgepress.exporter.tokens.token_ids import LEFT_OUT, named_tokens, renumber, renumber_files
from edgepress.exporter.tokens.tokenizer import PrunedTokenizer, Vocabulary, prune_tokenizer, read_vocabulary
from edgepress.schema import parse_object

_log = logging.getLogger("edgepress.pruning")


def remove_tokens(task: PruneTask, options: Options) -> None:
    """Write the checkpoint with only the tokens that the text needs."""
    size, least = int(options["size"]), int(options["least"])
    checkpoint, rows, vocabulary = task.checkpoint, task.decoder.vocab_size, _vocabulary(task)
    library = source_tokenizer(checkpoint).library
    always = {*_named(checkpoint, vocabulary)}
    for text in (str(options["always"]), *str(options["always"])):
        always.update(library.encode(text, add_special_tokens=False).ids)
    usage = count_usage(_counted(task), library)
    choice = choose_tokens(vocabulary, usage, size=size, least=least, always=always)
    if len(choice.keep) == rows:
        raise InputError(f"[options.vocabulary] keeps all {rows} tokens; set a smaller size, or leave the step out")
    warnings = [*choice.warnings, *script_warnings(script_costs(usage.characters, vocabulary, library))]
    for warning in warnings:
        _log.warning("vocabulary: %s", warning)
    task.report |= _described(vocabulary, usage, choice, rows, warnings)
    keep_tokens(task, prune_tokenizer(vocabulary, choice.keep))


def check(task: PruneTask, _: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Pruning`."""
    list(_named(task.checkpoint, _vocabulary(task)))


def check_order(changed: Set[Size], _: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.Pruning`."""
    if "vocabulary" in changed:
        raise InputError("vocabulary is in `prune` twice, and would keep the same tokens again; name it once")


def _vocabulary(task: PruneTask) -> Vocabulary:
    content = whole_tokenizer(task.checkpoint).content
    where = task.checkpoint.directory / "tokenizer.json"
    return read_vocabulary(parse_object(content, where, "save the tokenizer again"), rows=task.decoder.vocab_size)


def keep_tokens(task: PruneTask, pruned: PrunedTokenizer) -> None:
    """Write the checkpoint that has only the rows of ``pruned``'s tokens."""
    checkpoint, old, kept = task.checkpoint, task.decoder, pruned.kept
    new_ids = {int(token): index for index, token in enumerate(kept)}
    config = {**renumber(checkpoint.config, new_ids), "vocab_size": len(kept)}
    new = described(checkpoint, config)
    picks = whole(old, new)
    for weight in (old.embedding, old.head.weight, old.head.bias):
        if weight is not None:
            picks[weight.name] = Pick(weight, rows=kept)
    files: dict[str, bytes | None] = dict.fromkeys(LEFT_OUT)
    files |= renumber_files(tokenizer_files(checkpoint), pruned)
    task.write(config=config, tensors=picked_tensors(checkpoint, new, picks), files=files)
    task.kept_tokens = kept if task.kept_tokens is None else task.kept_tokens[kept]


def _named(checkpoint: Checkpoint, vocabulary: Vocabulary) -> Iterator[int]:
    """Tokens that the config and the settings of tokenizer and generation name by id."""
    contents = {"config.json": checkpoint.config} | {
        name: checkpoint.json(name) for name in ("generation_config.json", "tokenizer_config.json")
    }
    for name, content in contents.items():
        for token in sorted(named_tokens(content, name)):
            if token not in vocabulary.tokens:
                raise InputError(
                    f"{name} names token {token}, and tokenizer.json has none of that id; correct it there"
                )
            yield token


def _counted(task: PruneTask) -> Iterator[str]:
    """The documents, with a bar over the bytes of their files."""
    with task.progress(_bytes(task.texts.files), "counting tokens", " bytes") as advance:
        for document in task.texts:
            yield document
            advance(len(document.encode()))


def _bytes(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files)


def _described(
    vocabulary: Vocabulary, usage: Usage, choice: Choice, rows: int, warnings: Sequence[str]
) -> dict[str, object]:
    """The manifest's entry for the step; ``filled`` counts tokens that are kept only to reach the size."""
    facts: dict[str, object] = {
        "vocabulary": [rows, len(choice.keep)],
        "text_tokens": usage.tokens,
        "text_uses": int(np.count_nonzero(usage.counts)),
        "text_kept": float(f"{choice.coverage:.6g}"),
        "filled": choice.filled,
        "without_a_row": list(vocabulary.left_out),
        "warnings": list(warnings),
    }
    return {key: value for key, value in facts.items() if value != []}


METHOD = Pruning(
    "vocabulary",
    remove_tokens,
    declared={"size": whole_number(0, 0), "least": whole_number(1), "always": Option("")},
    needs_text=True,
    check=check,
    looks_at=frozenset({"vocabulary"}),
    changes=frozenset({"vocabulary"}),
    check_order=check_order,
)
