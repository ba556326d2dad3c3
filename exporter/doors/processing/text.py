"""What a checkpoint's tokenizer does, as :class:`~edgepress.tasks.text.Text`: held against transformers' own."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Library

from edgepress.errors import InputError
from edgepress.processing.text import Encoder, Pair, text_feed
from edgepress.schema import read_bytes, read_object
from edgepress.tasks.task import Task
from edgepress.tasks.text import Text
from edgepress.text.tokenizer import open_library
from edgepress.text.tokenizer_limits import LARGEST

TEXT_TASKS = frozenset(
    {
        "feature-extraction",
        "fill-mask",
        "sentence-similarity",
        "text-classification",
        "token-classification",
        "zero-shot-image-classification",
    }
)
"""Tasks whose input is text."""

_TOKENIZER = "tokenizer.json"
_SAVE = "save it again with transformers (AutoTokenizer.from_pretrained(…).save_pretrained(…))"
_UNLIMITED = 1_000_000  # tokens from which a tokenizer's length means "any"; transformers writes 10³⁰
_MOST = 512  # tokens where no file says how many a model takes
_AFTER_PADDING = frozenset(
    {
        *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text"),
        *("ibert", "longformer", "mpnet", "xmod"),
    }
)
"""Model types whose positions begin behind the number of the padding token: two of them are never used."""
_PADDED = "siglip"
"""Model types that read the last position of a text, which is padded to the longest: so they were trained."""
_PROBES: tuple[str | Pair, ...] = (
    "A man is eating food.",
    "",
    "Ünïcödé,   spaces\tand 1,234.50 numbers — and “quotes” 🙂",
    ("Is it raining?", "No, it has stopped."),
    "word " * 700,
)


def read_text(folder: Path, config: Mapping[str, object], task: Task) -> Text:
    """How the checkpoint's own tokenizer makes the graph's inputs.

    Raises:
        InputError: there is no tokenizer.json or it is damaged, or it does what :class:`Text` cannot say.

    """
    open_tokenizer(folder)
    tokenizer = _transformers_tokenizer(folder)
    names = {edge.name: edge for edge in task.inputs}
    length = names["input_ids"].shape[-1] if "input_ids" in names else "tokens"
    longest = _longest(folder, config, int(tokenizer.model_max_length))
    if str(config.get("model_type")).startswith(_PADDED):
        length = longest if isinstance(length, str) else length
    prompts, prompt = _prompts(folder)
    text = Text(
        tokenizer=_TOKENIZER,
        mask="attention_mask" if "attention_mask" in names else None,
        types="token_type_ids" if "token_type_ids" in names else None,
        longest=min(longest, length) if isinstance(length, int) else longest,
        length=length if isinstance(length, int) else None,
        pad=tokenizer.pad_token_id or 0,
        side=tokenizer.padding_side,
        prompts=prompts,
        prompt=prompt,
    )
    _hold_against(tokenizer, text, folder)
    return text


def open_tokenizer(folder: Path) -> Library:
    """The tokenizers library's tokenizer of a checkpoint.

    Raises:
        InputError: there is none, or it is damaged.

    """
    path = folder / _TOKENIZER
    if not path.is_file():
        raise InputError(f"{folder} has no {_TOKENIZER}, which says how texts become tokens; {_SAVE}")
    return open_library(read_bytes(path, _SAVE, largest=LARGEST), path, _SAVE)


def _transformers_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    opened: Any = AutoTokenizer
    try:
        return opened.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # what transformers raises on files it does not understand is of any kind
        raise InputError(f"{folder}: its tokenizer cannot be opened: {error}; {_SAVE}") from error


def _longest(folder: Path, config: Mapping[str, object], of_tokenizer: int) -> int:
    """Tokens of the longest text that the model takes."""
    found = [of_tokenizer] if 0 < of_tokenizer < _UNLIMITED else []
    nested = config.get("text_config")  # of models of images and texts
    positions = {**(nested if isinstance(nested, dict) else {}), **config}.get("max_position_embeddings")
    if isinstance(positions, int) and positions > 0:
        found.append(positions - 2 if config.get("model_type") in _AFTER_PADDING else positions)
    path = folder / "sentence_bert_config.json"
    if path.is_file():
        of_sentences = read_object(path, "copy it again").get("max_seq_length")
        found += [of_sentences] if isinstance(of_sentences, int) and of_sentences > 0 else []
    return min(found, default=_MOST)


def _prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    """The prompts of sentence-transformers by their names, and the name of the one for any text."""
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return {}, None
    config = read_object(path, "copy it again")
    prompts, prompt = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(value, str) for value in prompts.values()):
        raise InputError(f"{path}: prompts is no object from names to texts")
    if prompt is not None and prompt not in prompts:
        raise InputError(f"{path}: default_prompt_name is {prompt!r}, and there is no prompt of that name")
    return {str(name): str(value) for name, value in prompts.items()}, None if prompt is None else str(prompt)


def _hold_against(tokenizer: Any, text: Text, folder: Path) -> None:
    """Raise an InputError where transformers' tokenizer gives other inputs for a sample than ours."""
    encoder = Encoder(text, folder, says_cut=False)  # some probes are longer on purpose
    inputs = {name: name for name in (text.ids, text.mask, text.types) if name is not None}
    for probe in _PROBES:
        first, *second = probe if isinstance(probe, tuple) else (probe,)
        before = "" if text.prompt is None else text.prompts[text.prompt]
        wanted = tokenizer(before + first, *second, truncation=True, max_length=text.longest, return_tensors="np")
        ours = text_feed(encoder.encode([probe]), replace(text, length=None), dict.fromkeys(inputs, "int64"))
        for name in inputs:
            if name in wanted and not np.array_equal(ours[name], wanted[name]):
                raise InputError(
                    f"{folder}: its tokenizer.json and transformers' tokenizer give other {name} for "
                    f"{str(probe)[:40]!r}: {ours[name][0, :8].tolist()} and {wanted[name][0, :8].tolist()}; {_SAVE}"
                )
