"""Are answers of a random model valid for 1,000 random schemas, how long does a mask take, how many steps are saved?

The model is random numbers, so that nothing but the form makes what it says valid. Schemas are random: objects, lists,
choices, references, numbers in ranges, texts of lengths, patterns and formats. Each is asked for once as the whole
answer, and once as the arguments of a tool whose call is written in one of the formats that models have. What is said
is parsed and validated by jsonschema.

    python benchmarks/structured.py [--schemas 1000] [--tiktoken FILE]

``--tiktoken`` names a vocabulary of 151,643 tokens, Qwen's, which the package dashscope carries
(dashscope/resources/qwen.tiktoken; `pip download --no-deps dashscope`, and unzip). About 5 minutes with it.
"""

import argparse
import base64
import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import thread_time
from typing import Any

import jsonschema
import numpy as np
from common import group, save, table
from export_cost import TOKENIZER

from edgepress.chat.spans.finding import call_formats
from edgepress.chat.spans.kinds import AnswerFormat
from edgepress.chat.spans.splitting import Splitter
from edgepress.runtime.generation.constraints import Constraint, Form, Matcher, token_table
from edgepress.runtime.generation.tool_calls import ToolGuide
from edgepress.text.tokenizer import Tokenizer, read_tokenizer

Json = dict[str, Any]
NAMES = ("name", "n", "place", "übung", "with space", "is_on", "unit")
MEDIAN = 0.5
QUANTILES = (0, 0.01, 0.1, 0.25, MEDIAN, 0.75, 0.9, 0.99, 0.999, 1)  # of times
MOST = 4000  # tokens of an answer; no schema here needs so many


def schema(random: np.random.Generator, depth: int = 0) -> Json:
    """A random schema; nested at most three deep, lists and texts bounded, objects closed."""
    makers = [_number, _text, _choice, _flag]
    if depth < 3:
        makers += [_object, _list, _any_of] * (3 - depth)
    return makers[int(random.integers(len(makers)))](random, depth)


def _number(random: np.random.Generator, _: int) -> Json:
    low, high = sorted(int(one) for one in random.integers(-1000, 1000, 2))
    kind = ("integer", "number")[int(random.integers(2))]
    bounds = {"minimum": low, "maximum": high}
    return {"type": kind, **bounds} if kind == "integer" or random.random() < 0.5 else {"type": "integer"}


def _text(random: np.random.Generator, _: int) -> Json:
    least = int(random.integers(3))
    kinds: list[Json] = [
        {"minLength": least, "maxLength": least + int(random.integers(8))},
        {"pattern": "^[a-f]{2,4}-[0-9]+$", "maxLength": 9},
        {"format": ("date", "time", "uuid", "ipv4", "date-time")[int(random.integers(5))]},
    ]
    return {"type": "string", **kinds[int(random.integers(len(kinds)))]}


def _choice(random: np.random.Generator, _: int) -> Json:
    values = ["yes", "<é>", 'a "quote"', 3, None, True, [1, {"a": None}], "</tool_call>"]
    found = [values[int(one)] for one in random.permutation(len(values))[: 1 + int(random.integers(4))]]
    return {"enum": found} if len(found) > 1 else {"const": found[0]}


def _flag(random: np.random.Generator, _: int) -> Json:
    return {"type": ("boolean", "null")[int(random.integers(2))]}


def _object(random: np.random.Generator, depth: int) -> Json:
    names = [NAMES[int(one)] for one in random.permutation(len(NAMES))[: int(random.integers(5))]]
    properties = {name: schema(random, depth + 1) for name in names}
    needed = [name for name in names if random.random() < 0.6]
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


def _list(random: np.random.Generator, depth: int) -> Json:
    least = int(random.integers(3))
    return {"type": "array", "items": schema(random, depth + 1), "minItems": least, "maxItems": least + 2}


def _any_of(random: np.random.Generator, depth: int) -> Json:
    return {"anyOf": [schema(random, depth + 1) for _ in range(1 + int(random.integers(3)))]}


def arguments_schema(random: np.random.Generator) -> Json:
    """A tool's: an object, one of whose properties is a reference."""
    made = _object(random, 0)
    made["properties"]["referred"] = {"$ref": "#/$defs/one"}
    return {**made, "required": [*made["required"], "referred"], "$defs": {"one": schema(random, 2)}}


@dataclass(frozen=True)
class Said:
    """What the random model said, and what it took: seconds of this thread's CPU, which other work hardly changes."""

    tokens: list[int]
    steps: int
    masks_s: list[float]
    takes_s: list[float]


def say(form: Form, vocabulary: int, random: np.random.Generator) -> Said:
    """The tokens of an answer of this form, drawn at random, in how many steps, and the seconds of each."""
    tokens: list[int] = []
    masks, takes, was_held = [], [], False
    while not form.is_over and len(tokens) < MOST:
        logits = random.random(vocabulary, np.float32)
        start = thread_time()
        masked = form.masked(logits)
        masks.append(thread_time() - start)
        token = int(masked.argmax())
        start = thread_time()
        step = form.take(token)
        takes.append(thread_time() - start)
        tokens += step
        is_held = isinstance(form, ToolGuide) and form.is_held
        if token == END or (isinstance(form, ToolGuide) and (was_held or len(step) > 1) and not is_held):
            break  # the model ends its answer, or the call is whole
        was_held = is_held
    return Said(tokens, len(masks), masks, takes)


END = 0  # ends an answer, in each of the vocabularies here


def whole(tables: "Tables", count: int) -> Iterator[Json]:
    """A sample for each of so many schemas, as the form of the whole answer."""
    for number in range(count):
        random = np.random.default_rng(number)
        wanted = schema(random)
        said = say(Matcher(tables.table, Constraint.json_schema(wanted)), tables.size, random)
        text = tables.text([token for token in said.tokens if token != END])
        yield {"as": "the whole answer", "schema": number, **outcome(said, _is_valid(text, wanted))}


def calls(tables: "Tables", count: int) -> Iterator[Json]:
    """A sample for each of so many schemas, as a tool's, in each format in turn that calls can be held to."""
    formats = [form for form in call_formats() if form.grammar is not None]
    for number in range(count):
        random = np.random.default_rng(number)
        wanted, form = arguments_schema(random), formats[number % len(formats)]
        tools = [{"type": "function", "function": {"name": "tool", "parameters": wanted}}]
        guide = ToolGuide(tables.table, tables.tokenizer, tables.encode, AnswerFormat(None, form), tools, must=True)
        said = say(guide, tables.size, random)
        splitter = Splitter(AnswerFormat(None, form), tools)
        text = tables.text([token for token in said.tokens if token != END])
        found = [piece.call for piece in (*splitter.push(text), *splitter.finish()) if piece.call is not None]
        valid = bool(found) and all(_is_allowed(call.arguments, wanted) for call in found)
        yield {"as": f"a call, {form.name}", "schema": number, **outcome(said, valid)}


def outcome(said: Said, valid: bool) -> Json:
    """What is kept of one answer."""
    return {
        "valid": valid,
        "tokens": len(said.tokens),
        "steps": said.steps,
        "mask_s": [round(one, 7) for one in said.masks_s],
        "take_s": [round(one, 7) for one in said.takes_s],
    }


def summarized(samples: Sequence[Mapping[str, Any]]) -> list[Json]:
    """What is kept: for each vocabulary and what was asked for the sums, and the :data:`QUANTILES` of times, CPU ms."""
    found = []
    for (size, what), ones in group(samples, "vocabulary", "as").items():
        times = {name: sorted(1e3 * one for sample in ones for one in sample[f"{name}_s"]) for name in ("mask", "take")}
        found.append(
            {
                "vocabulary": size,
                "as": what,
                "load": [min(one["load"] for one in ones), max(one["load"] for one in ones)],
                "asked": len(ones),
                "valid": sum(one["valid"] for one in ones),
                "cut": sum(one["tokens"] >= MOST and not one["valid"] for one in ones),
                "tokens": sum(one["tokens"] for one in ones),
                "steps": sum(one["steps"] for one in ones),
                **{
                    f"{name}_ms": {f"{share:g}": round(quantile(values, share), 4) for share in QUANTILES}
                    for name, values in times.items()
                },
            }
        )
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Of sorted values the median, or the one behind that ``share`` of them."""
    return statistics.median(values) if share == MEDIAN else values[min(int(len(values) * share), len(values) - 1)]


def _is_valid(text: str, wanted: Json) -> bool:
    try:
        return _is_allowed(json.loads(text), wanted)
    except ValueError:
        return False


def _is_allowed(value: object, wanted: Json) -> bool:
    return bool(jsonschema.Draft202012Validator(wanted).is_valid(value))


class Tables:
    """A vocabulary as the runtime has it."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Tokenizer = read_tokenizer(folder)
        self.size = self.tokenizer.vocabulary
        self.table = token_table(folder / "tokenizer.json", self.size, frozenset({END}))

    def encode(self, text: str) -> list[int]:
        """Tokens of a text inside of one."""
        return self.tokenizer.encode_plain(text)

    def text(self, tokens: Sequence[int]) -> str:
        """Their text, special tokens spelled out."""
        return str(self.tokenizer.library.decode(list(tokens), skip_special_tokens=False))


def write_tokenizer(ranks: Path, folder: Path) -> None:
    """A byte-level tokenizer.json of a vocabulary in tiktoken's form, with token 0 as the end of a text.

    Of the pairs that make a token the one whose later half comes first is its merge, as tiktoken would take it.
    """
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Library

    letters = _letters()
    lines = ranks.read_bytes().splitlines()
    tokens = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in lines}
    spelled = {token: "".join(letters[byte] for byte in token) for token in tokens}
    vocabulary = {"<|end|>": END, **{spelled[token]: rank + 1 for token, rank in tokens.items()}}
    merges = []
    for token in sorted(tokens, key=tokens.__getitem__):
        pairs = [
            (token[:at], token[at:]) for at in range(1, len(token)) if token[:at] in tokens and token[at:] in tokens
        ]
        if pairs:
            left, right = min(pairs, key=lambda pair: max(tokens[pair[0]], tokens[pair[1]]))
            merges.append((spelled[left], spelled[right]))
    library = Library(models.BPE(vocab=vocabulary, merges=merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken("<|end|>", special=True)])
    library.save(str(folder / "tokenizer.json"))


def _letters() -> dict[int, str]:
    """How byte-level tokenizers write each byte: printable ones as they are, others from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + at) for at, byte in enumerate(others)}}


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """A table: by vocabulary and what was asked for."""
    rows = [
        (
            f"{one['vocabulary']:,}",
            str(one["as"]),
            f"{one['valid']} of {one['asked']}",
            str(one["cut"]),
            f"{one['mask_ms']['0.5']:.3f}",
            f"{one['mask_ms']['0.99']:.3f}",
            f"{one['take_ms']['0.5']:.3f}",
            f"{one['tokens'] / one['asked']:.0f}",
            f"{1 - one['steps'] / one['tokens']:.0%}",
        )
        for one in samples
    ]
    header = (
        "vocabulary",
        "schema of",
        "valid",
        f"cut at {MOST:,} tokens",
        "mask, CPU ms",
        "99 of 100",
        "taking a token, CPU ms",
        "tokens",
        "without a step",
    )
    return table(header, rows)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemas", type=int, default=1000)
    parser.add_argument("--tiktoken", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    samples = []
    with TemporaryDirectory() as name:
        folders = [TOKENIZER]
        if arguments.tiktoken is not None:
            write_tokenizer(arguments.tiktoken, Path(name))
            folders.append(Path(name))
        for folder in folders:
            tables = Tables(folder)
            for sample in (*whole(tables, arguments.schemas), *calls(tables, arguments.schemas)):
                samples.append({"vocabulary": tables.size, "load": os.getloadavg()[0], **sample})
    kept = summarized(samples)
    print(report(kept))
    save("structured", kept)


if __name__ == "__main__":
    main()
