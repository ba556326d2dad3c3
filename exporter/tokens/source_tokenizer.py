"""A checkpoint's whole tokenizer: its tokenizer.json with the tokens that only the files beside it name.

transformers reads four files. ``tokenizer.json`` has the vocabulary. Added tokens may also be in
``tokenizer_config.json`` (``added_tokens_decoder``, by id), and named ones (``bos_token`` …, ``extra_special_tokens``).
Where that table is missing, ``special_tokens_map.json`` and ``added_tokens.json`` are read: transformers before 4.34
wrote them. What is read here, and in which order, is what transformers 5 does (``TokenizersBackend``); a test holds the
outcome against it. Ids that contradict each other, which transformers passes over in silence, are errors here.
"""

from __future__ import annotations

import codecs
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Library

from edgepress.disk.pointers import refuse_pointer
from edgepress.errors import CheckFailed, InputError
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.layout import TOKENIZER_FILES
from edgepress.schema import parse_object, read_bytes, read_object
from edgepress.text.tokenizer import Tokenizer, library_errors, open_library, read_tokenizer
from edgepress.text.tokenizer_limits import LARGEST
from edgepress.text.tokenizer_trial import try_tokenizer

_log = logging.getLogger("edgepress.export")

_SLOW = ("vocab.json", "tokenizer.model")  # what a tokenizer.json can be made of
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA = "extra_special_tokens"
_OLD_EXTRA = "additional_special_tokens"  # its name before transformers 5
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
_REMEDY = "correct it, or save the tokenizer again with transformers (AutoTokenizer … save_pretrained)"
_TOGETHER = "the files do not belong together: copy them again from where the checkpoint came from"
_SHOWN = 3  # tokens named in a message


@dataclass(frozen=True)
class SourceTokenizer:
    """``content`` of the whole tokenizer.json; ids of all added ``tokens`` by what they write.

    ``completed`` are those of them that the checkpoint's own tokenizer.json does not have, or has with other flags.
    """

    content: bytes
    tokens: Mapping[str, int]
    completed: tuple[str, ...]


def whole_tokenizer(checkpoint: Checkpoint) -> SourceTokenizer:
    """The checkpoint's tokenizer with every token that one of its files names; byte for byte its own if that has all.

    Raises:
        InputError: there is none, it cannot be read, or two of its files contradict each other.

    """
    paths = tuple((name, checkpoint.file(name)) for name in TOKENIZER_FILES)
    stamps = tuple(
        (name, path, path.stat().st_mtime_ns, path.stat().st_size) for name, path in paths if path is not None
    )
    return _whole(checkpoint.directory, stamps)


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """Raise InputError unless ``checkpoint`` has a readable tokenizer; before any work is done."""
    whole_tokenizer(checkpoint)


def tokenizer_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Content of those of :data:`TOKENIZER_FILES` that the checkpoint has, tokenizer.json whole.

    A byte order mark is left out: a bundle's files are read by others too, who may not know it.
    """
    paths = {name: path for name in TOKENIZER_FILES if (path := checkpoint.file(name)) is not None}
    found = {name: _content(path) for name, path in paths.items()}
    return found | {TOKENIZER_FILES[0]: whole_tokenizer(checkpoint).content}


def source_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The checkpoint's whole tokenizer, as the runtime reads it from a bundle."""
    return read_tokenizer(checkpoint.directory, content=whole_tokenizer(checkpoint).content)


def check_tokens(bundle: Path, tokens: Mapping[str, int]) -> None:
    """Read the bundle's tokenizer as a device does, and hold that it sees one token in the text of each special one.

    Raises:
        InputError: it does not.

    """
    library = read_tokenizer(bundle).library
    with library_errors(f"the tokenizer in {bundle} cannot be used", _REMEDY):
        _check_seen(bundle, library, tokens)


def _check_seen(bundle: Path, library: Library, tokens: Mapping[str, int]) -> None:
    exact = {token.content for token in library.get_added_tokens_decoder().values() if not token.normalized}
    texts = [text for text in tokens if text in exact]
    encoded = [encoding.ids for encoding in library.encode_batch(texts, add_special_tokens=False)]
    wrong = [
        f"{text!r} is {ids[:_SHOWN]}, not [{tokens[text]}]"
        for text, ids in zip(texts, encoded, strict=True)
        if ids != [tokens[text]]
    ]
    missing = [f"{text!r} is no added token" for text in tokens if library.token_to_id(text) != tokens[text]]
    if wrong or missing:
        raise InputError(
            f"{bundle}: the tokenizer does not see {len(wrong) + len(missing)} of the tokens that the checkpoint's "
            f"files name: {'; '.join([*wrong, *missing][:_SHOWN])}; {_REMEDY}"
        )


def compare_with_transformers(bundle: Path, checkpoint: Checkpoint) -> int | None:
    """Hold the bundle's tokens against those of transformers' own tokenizer, on texts with each added token.

    Returns the number of texts, None where transformers cannot read the checkpoint's tokenizer: the log says why.

    Raises:
        CheckFailed: a text has other tokens.

    """
    reference = reference_tokenizer(checkpoint)
    if reference is None:
        return None
    library = read_tokenizer(bundle).library
    texts = [text for token in whole_tokenizer(checkpoint).tokens for text in (token, f"say {token}it{token} ")]
    ours = library.encode_batch(texts, add_special_tokens=False)
    theirs = reference(texts, add_special_tokens=False)["input_ids"] if texts else []
    for text, found, expected in zip(texts, ours, theirs, strict=True):
        if list(found.ids) != list(expected):
            raise CheckFailed(
                f"the bundle's tokenizer gives {text!r} the tokens {list(found.ids)[:8]}, and transformers' own "
                f"{list(expected)[:8]}"
            )
    return len(texts)


def reference_tokenizer(checkpoint: Checkpoint) -> Any:
    """Transformers' own tokenizer of the checkpoint; None where it cannot read it: the log says why."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    kind = AutoTokenizer if checkpoint.file(TOKENIZER_FILES[0]) is None else PreTrainedTokenizerFast
    try:
        return kind.from_pretrained(checkpoint.directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever transformers meets
        _log.warning("transformers cannot read the tokenizer, so that it is not compared: %s", error)
        return None


@lru_cache(maxsize=2)  # a large vocabulary takes a second to read, and an export asks several times
def _whole(directory: Path, stamps: Sequence[tuple[str, Path, int, int]]) -> SourceTokenizer:
    files = {name: path for name, path, _, _ in stamps}
    path = files.get(TOKENIZER_FILES[0])
    for name, beside in files.items():
        with beside.open("rb") as file:
            refuse_pointer(directory / name, file.read(200))
    if path is not None:
        try_tokenizer(directory)
    with library_errors(f"the tokenizer in {directory} cannot be used", _REMEDY):
        return _completed(directory, files, path)


def _completed(directory: Path, files: Mapping[str, Path], path: Path | None) -> SourceTokenizer:
    own = _converted(directory, files) if path is None else _content(path)
    library = _read(own, directory / TOKENIZER_FILES[0] if path is None else path)
    before = {token.content: _flags(token) for token in library.get_added_tokens_decoder().values()}
    by_id, others = _declared(directory, files, library.get_added_tokens_decoder())
    library.add_tokens([token for _, token in sorted(by_id.items())])
    seen = {token.content for token in library.get_added_tokens_decoder().values()}
    library.add_tokens([token for token in others if token.content not in seen])
    _check_ids(directory, library, by_id)
    after = library.get_added_tokens_decoder()
    completed = tuple(token.content for token in after.values() if before.get(token.content) != _flags(token))
    tokens = {token.content: number for number, token in after.items()}
    if not completed:
        return SourceTokenizer(own, tokens, ())
    if library.post_processor is None:  # as transformers writes one that adds nothing
        library.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    return SourceTokenizer(library.to_str(pretty=True).encode(), tokens, completed)


def _content(path: Path) -> bytes:
    return read_bytes(path, _REMEDY, largest=LARGEST).removeprefix(codecs.BOM_UTF8)


def _read(content: bytes, where: Path) -> Library:
    try:
        return open_library(content, where, _REMEDY)
    except InputError:
        parse_object(content, where, _REMEDY)  # says more of what is no JSON
        raise


def _flags(token: AddedToken) -> tuple[bool, ...]:
    return tuple(bool(getattr(token, name)) for name in _FLAGS)


def _declared(
    directory: Path, files: Mapping[str, Path], own: Mapping[int, AddedToken]
) -> tuple[dict[int, AddedToken], list[AddedToken]]:
    """Tokens that the checkpoint's files give ids to, and those that they only name, in transformers' order.

    ``own`` are tokenizer.json's.
    """
    where = directory / "tokenizer_config.json"
    config = _object(directory, files, where.name)
    named, extra = _named(config), _extra(config)
    table = config.get("added_tokens_decoder")
    if table is not None:
        if not isinstance(table, dict):
            raise InputError(f"{where}: added_tokens_decoder must be an object of tokens by id; {_REMEDY}")
        by_id = {_id(key, where): _token(entry, where) for key, entry in table.items()}
    else:
        saved = _object(directory, files, "special_tokens_map.json")
        named |= _named(saved)
        extra += [value for value in _extra(saved, _EXTRA) if value not in extra]
        by_id = _legacy(directory, files, own, {_text(value) for value in (*named.values(), *extra)})
        extra = extra or _extra(saved)
        named |= _models(saved)
    named = {key: named[key] for key in _NAMED if key in named} | named | _models(config)  # transformers' order
    for token in by_id.values():
        token.special = token.special or token.content in {_text(value) for value in named.values()}
    return by_id, [_token(value, where, special=True) for value in (*named.values(), *extra)]


def _legacy(
    directory: Path, files: Mapping[str, Path], own: Mapping[int, AddedToken], special: Collection[object]
) -> dict[int, AddedToken]:
    """Tokens of added_tokens.json by id, and tokenizer.json's own over them."""
    where = directory / "added_tokens.json"
    found = {}
    for text, value in _object(directory, files, where.name).items():
        number, known = _id(value, where), text in special
        if number in own and own[number].content != text:
            raise InputError(
                f"{where} says that token {number} is {text!r}, and tokenizer.json that it is "
                f"{own[number].content!r}; {_TOGETHER}"
            )
        found[number] = AddedToken(text, normalized=not known, special=known)
    return found | dict(own)


def _named(config: Mapping[str, object]) -> dict[str, object]:
    """Special tokens by name: ``bos_token``, ``image_token`` …, those that every tokenizer may have first."""
    found = {key: value for key in _NAMED if (value := config.get(key)) is not None}
    return found | {
        key: value
        for key, value in config.items()
        if key.endswith("_token") and key not in found and isinstance(value, str)
    }


def _models(config: Mapping[str, object]) -> dict[str, object]:
    """The form of ``extra_special_tokens`` that has names."""
    found = config.get(_EXTRA)
    return found if isinstance(found, dict) else {}


def _extra(config: Mapping[str, object], *keys: str) -> list[object]:
    """Special tokens without a name."""
    for key in keys or (_EXTRA, _OLD_EXTRA):
        value = config.get(key)
        if value and not isinstance(value, dict):
            return list(value) if isinstance(value, list) else [value]
    return []


def _text(value: object) -> object:
    return value.get("content") if isinstance(value, dict) else value


def _token(value: object, where: Path, *, special: bool = False) -> AddedToken:
    """A token from its text, which makes it special, or from its fields; ``special`` where they do not say."""
    if isinstance(value, str):
        return AddedToken(value, special=True)
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        flags: dict[str, Any] = {name: bool(value[name]) for name in _FLAGS if value.get(name) is not None}
        return AddedToken(value["content"], **{"special": special, **flags})
    raise InputError(f"{where}: {str(value)[:80]!r} is no token: neither its text nor an object with it; {_REMEDY}")


def _id(value: object, where: Path) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9:
        return value
    raise InputError(f"{where}: {str(value)[:80]!r} is no token's id; {_REMEDY}")


def _check_ids(directory: Path, library: Library, by_id: Mapping[int, AddedToken]) -> None:
    for number, token in sorted(by_id.items()):
        found = library.token_to_id(token.content)
        if token.content and found != number:
            holder = library.id_to_token(number)
            entries = f"{library.get_vocab_size(with_added_tokens=True)} entries, added ones counted"
            has = entries if holder is None else f"{holder!r} there"
            raise InputError(
                f"{directory}: token {token.content!r} is said to have id {number}; tokenizer.json, which has {has}, "
                f"gives it {found}; {_TOGETHER}"
            )


def _object(directory: Path, files: Mapping[str, Path], name: str) -> dict[str, object]:
    return read_object(directory / name, _REMEDY) if name in files else {}


def _converted(directory: Path, files: Mapping[str, Path]) -> bytes:
    """tokenizer.json made by transformers of the files of a tokenizer in Python.

    Raises:
        InputError: there is nothing to make it of, or transformers cannot.

    """
    saved = f"save it there with transformers: AutoTokenizer.from_pretrained(…).save_pretrained({str(directory)!r})"
    if not any(name in files for name in _SLOW):
        raise InputError(f"{directory} has no tokenizer.json; {saved}")
    found = ", ".join(name for name in _SLOW if name in files)
    try:
        from transformers import AutoTokenizer
    except ModuleNotFoundError as error:
        raise InputError(
            f"{directory} has no tokenizer.json, only {found}: to convert it, pip install 'edgepress[export]'"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
        text: str = tokenizer.backend_tokenizer.to_str(pretty=True)
    except Exception as error:  # whatever transformers meets, and ImportError where sentencepiece is not there
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        remedy = f"pip install sentencepiece, or {saved}" if "tokenizer.model" in files else saved
        raise InputError(
            f"{directory} has no tokenizer.json, and transformers cannot make one of {found} ({reason[:200]}); {remedy}"
        ) from error
    return text.encode()
