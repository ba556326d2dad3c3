"""Ids of tokens in the files beside tokenizer.json, renumbered for a smaller vocabulary.

``config.json`` and ``generation_config.json`` name tokens under keys that end in ``_token_id`` (a number, or a list of
them), and in lists of tokens that generation keeps from coming: where such a token is dropped it cannot come, so its
entry goes. ``tokenizer_config.json`` and ``added_tokens.json`` have tables of added tokens; ``vocab.json`` and
``merges.txt`` say again what tokenizer.json says. ``tokenizer.model`` has no place for this and is left out: nothing
that reads a bundle reads it.
"""

import json
import re
from collections.abc import Mapping

from edgepress.errors import InputError
from edgepress.exporter.tokens.tokenizer import PrunedTokenizer

LEFT_OUT = ("tokenizer.model",)
_NAMED = re.compile(r"\w+_token_ids?")
_SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")
_SEQUENCES = "bad_words_ids"


def named_tokens(content: Mapping[str, object], where: str) -> set[int]:
    """Ids under the keys of ``content`` that end in ``_token_id``; negative ones stand for none.

    Raises:
        InputError: such a value is no id.

    """
    found: set[int] = set()
    for key, value in content.items():
        if _NAMED.fullmatch(key) and value is not None:
            for token in value if isinstance(value, list) else [value]:
                if not isinstance(token, int) or isinstance(token, bool):
                    raise InputError(f"{where}: {key} is {value!r}, not the id of a token; correct it")
                found.add(token)
    return {token for token in found if token >= 0}


def renumber(content: Mapping[str, object], new: Mapping[int, int]) -> dict[str, object]:
    """``content`` of config.json or generation_config.json with new ids (old id → new id in ``new``)."""
    found = dict(content)
    for key, value in content.items():
        if value is None:
            continue
        if _NAMED.fullmatch(key):
            found[key] = [_id(one, new) for one in value] if isinstance(value, list) else _id(value, new)
        elif key in _SUPPRESSED and isinstance(value, list):
            found[key] = [new[old] for old in value if old in new]
        elif key == _SEQUENCES and isinstance(value, list):
            whole = [sequence for sequence in value if all(old in new for old in sequence)]
            found[key] = [[new[old] for old in sequence] for sequence in whole] or None
    return found


def _id(old: object, new: Mapping[int, int]) -> object:
    return new[old] if isinstance(old, int) and old >= 0 else old


def renumber_files(files: Mapping[str, bytes], pruned: PrunedTokenizer) -> dict[str, bytes]:
    """New content of the tokenizer's files by name: those of ``files`` that name tokens by id, and tokenizer.json.

    Raises:
        InputError: a file is not what its name says.

    """
    new = {int(old): index for index, old in enumerate(pruned.kept)}
    found = {"tokenizer.json": pruned.serialize()}
    for name, content in files.items():
        if name == "generation_config.json":
            found[name] = _dump(renumber(_object(name, content), new))
        elif name == "tokenizer_config.json":
            found[name] = _dump(_tokenizer_config(_object(name, content), new))
        elif name in ("added_tokens.json", "vocab.json"):
            table = _object(name, content)
            found[name] = _dump({text: new[old] for text, old in table.items() if isinstance(old, int) and old in new})
        elif name == "merges.txt":
            found[name] = _merges(content, pruned)
    return found


def _tokenizer_config(content: dict[str, object], new: Mapping[int, int]) -> dict[str, object]:
    found = renumber(content, new)
    table = content.get("added_tokens_decoder")
    if isinstance(table, dict):
        kept = {int(old): entry for old, entry in table.items() if old.isdecimal() and int(old) in new}
        found["added_tokens_decoder"] = {str(new[old]): kept[old] for old in sorted(kept)}
    return found


def _merges(content: bytes, pruned: PrunedTokenizer) -> bytes:
    """Lines ``a b`` whose parts and result are tokens; the line with the version stays."""
    model = pruned.content["model"]
    vocab = model.get("vocab", {}) if isinstance(model, dict) else {}
    lines = []
    for line in content.decode("utf-8").split("\n"):
        a, _, b = line.partition(" ")
        if line.startswith("#version") or not line or (a in vocab and b in vocab and a + b in vocab):
            lines.append(line)
    return "\n".join(lines).encode()


def _object(name: str, content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{name} is not a JSON object")
    return found


def _dump(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()
