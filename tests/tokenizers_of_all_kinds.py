"""Tokenizers of every kind that can be pruned, real and trained, and text in every script."""

import json
import os
import random
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edgepress.exporter.demo import DEMO_DIRECTORY

DATA = Path(os.environ.get("EDGEPRESS_DATA", Path(__file__).resolve().parents[1].parent / "shared" / "data"))
PROSE = (
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings and arrows.\n"
    "Voilà le café: naïve façade, coöperate. Übung macht den Meister, 12345 times!  Two  spaces,\ttabs.\n"
    "Съешь же ещё этих мягких французских булок. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.\n"
    "日本語のテキスト。 你好，世界！ 🙂🙂\n"  # noqa: RUF001 - they are meant
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _trained(model: models.Model, trainer: trainers.Trainer, **parts: object) -> Tokenizer:
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator([PROSE * 2], trainer)
    return tokenizer


def byte_level() -> dict[str, object]:
    """As GPT-2, Qwen and Llama 3; added tokens of several flags, one of them a word, and a template."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=letters, show_progress=False
    )
    tokenizer = _trained(
        models.BPE(),
        trainer,
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.add_tokens([AddedToken("the", single_word=True), AddedToken("<tool>", lstrip=True, rstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_padding(pad_id=1, pad_token="</s>")
    return parsed(tokenizer)


def ignoring_merges() -> dict[str, object]:
    """As Llama 3: whole words at once, some of which no merges give."""
    content = byte_level()
    model = content["model"]
    model["ignore_merges"] = True
    model["vocab"] |= {word: 420 + n for n, word in enumerate(["Ġslings", "arrows", "Ġwhether", "question"])}
    for number, entry in enumerate(entry for entry in content["added_tokens"] if entry["id"] >= 420):
        entry["id"] = 424 + number
    return content


SENTENCE_PIECE = {
    "normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    "decoder": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
}


def byte_fallback() -> dict[str, object]:
    """As Llama 2 and Gemma."""
    trainer = trainers.BpeTrainer(
        vocab_size=560, special_tokens=["<unk>", "<s>", "</s>", *BYTES], limit_alphabet=120, show_progress=False
    )
    model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    content = parsed(_trained(model, trainer, **SENTENCE_PIECE))
    content["added_tokens"] = content["added_tokens"][:3]
    return content


def every_split() -> dict[str, object]:
    """The same vocabulary with a merge for every way to cut a token in two, as converted SentencePiece models have."""
    content = byte_fallback()
    vocab = content["model"]["vocab"]
    merges = [
        [text[:cut], text[cut:]]
        for text, _ in sorted(vocab.items(), key=lambda item: item[1])
        for cut in range(1, len(text))
        if text not in BYTES and text[:cut] in vocab and text[cut:] in vocab
    ]
    content["model"]["merges"] = merges
    return content


def characters() -> dict[str, object]:
    """No bytes: what is not in the alphabet is unknown."""
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], limit_alphabet=80, show_progress=False)
    return parsed(_trained(models.BPE(unk_token="<unk>", fuse_unk=True), trainer, **SENTENCE_PIECE))


def _unigram(pieces: list[str]) -> Tokenizer:
    trainer = trainers.UnigramTrainer(
        vocab_size=260, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    space = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer = _trained(models.Unigram(), trainer, pre_tokenizer=space, decoder=decoders.Metaspace())
    content = parsed(tokenizer)
    content["model"]["vocab"] += [[piece, -20.0] for piece in pieces]
    return content


def unigram() -> dict[str, object]:
    return _unigram([])


def unigram_byte_fallback() -> dict[str, object]:
    content = _unigram(BYTES)
    content["model"]["byte_fallback"] = True
    content["decoder"] = json.loads(SENTENCE_PIECE["decoder"].__getstate__())
    return content


def _file(path: Path) -> Callable[[], dict[str, object]]:
    def read() -> dict[str, object]:
        if not path.exists():
            pytest.skip(f"{path} is not there; set EDGEPRESS_DATA to the data folder")
        return json.loads(path.read_text(encoding="utf-8"))

    return read


def gpt2() -> dict[str, object]:
    folder = DATA / "tokenizers" / "gpt2"
    if not folder.exists():
        pytest.skip(f"{folder} is not there; set EDGEPRESS_DATA to the data folder")
    library = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(["<|endoftext|>"])
    return parsed(library)


KINDS: dict[str, Callable[[], dict[str, object]]] = {
    "byte level": byte_level,
    "ignoring merges": ignoring_merges,
    "byte fallback": byte_fallback,
    "every split": every_split,
    "characters": characters,
    "unigram": unigram,
    "unigram, byte fallback": unigram_byte_fallback,
    "demo": _file(DEMO_DIRECTORY / "tokenizer.json"),
    "stories260k": _file(DATA / "models" / "stories260k" / "tokenizer.json"),
    "phi-3-mini": _file(DATA / "tokenizers" / "phi-3-mini" / "tokenizer.json"),
    "gpt2": gpt2,
}


def parsed(tokenizer: Tokenizer) -> dict[str, object]:
    return json.loads(tokenizer.to_str())


@cache
def content_of(kind: str) -> dict[str, object]:
    """Do not change it."""
    return KINDS[kind]()


@cache
def library_of(kind: str) -> Tokenizer:
    return plain(json.dumps(content_of(kind)))


def plain(text: str) -> Tokenizer:
    """The tokenizer without the padding of its training."""
    library = Tokenizer.from_str(text)
    library.no_padding()
    return library


@cache
def scripts() -> dict[str, list[str]]:
    """Characters by script (the first word of their names, which is a script's for letters) and by kind of the rest."""
    found: dict[str, list[str]] = {}
    for code in range(0x110000):
        letter = chr(code)
        category = unicodedata.category(letter)
        if category == "Cs" or (category == "Cn" and code % 0x1000 > 1) or (category == "Co" and code % 0x1000 > 1):
            continue
        name = unicodedata.name(letter, "")
        group = name.split(" ")[0].split("-")[0] if category[0] in "LM" and name else category
        found.setdefault(group, []).append(letter)
    return found


def text_of_every_script(seed: int) -> list[str]:
    """One text a script, with what stands beside letters in real ones, and texts of all scripts mixed."""
    generator = random.Random(seed)
    beside = " \n\t.,-'▁\u200d\u0301\ufe0f\u200f\x00�🙂<0x41>"
    texts = []
    for letters in scripts().values():
        chosen = [generator.choice(letters) for _ in range(12)]
        texts.append(
            "".join(letter + (generator.choice(beside) if generator.random() < 0.3 else "") for letter in chosen)
        )
    for _ in range(20):
        parts = [generator.choice(texts)[:6] for _ in range(8)]
        texts.append("".join(parts))
    return texts
