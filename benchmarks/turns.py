"""What turns of a conversation take: follow-ups, beginnings from a file, and several conversations at once.

Weights are random, of the shapes named; time does not depend on what they are. Three questions, each a table:

- A follow-up after a conversation of so many tokens: the time from the messages to the logits of its first token (the
  template rendered, everything encoded, what is known found, the rest computed), beside what computing its own new
  tokens at that place takes, and beside onnxruntime-genai, whose generator computes the whole text anew.
- A conversation whose system prompt is mapped from a file (``--prefix``), opened and checked, beside computing it.
- Several conversations side by side: tokens a second of all together, and whether each says what it says alone.

    python benchmarks/turns.py [--shapes smollm2-135m qwen2.5-0.5b] [--threads 1] [--rounds 3] [--recipe int4]

About 2 minutes a shape and thread count on a quiet machine. Each shape has a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from common import WORK, group, save, spread, table
from decode_speed import Genai, bundle_of, rest

from edgepress.chat.prompt import ChatEncoder
from edgepress.chat.template import ChatTemplate
from edgepress.runtime import Model, Sampling, load
from edgepress.runtime.turns.side_by_side import in_turn, side_by_side

HISTORIES, QUESTION = (512, 2048), 32  # words said before, and of a follow-up; a word is a token or two
TEXTS, STEPS = (1, 2, 4, 8), 24
TEMPLATE = """{% for m in messages %}[{{ m.role }}] {{ m.content }}
{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"""
SENTENCE = "the river runs down to the sea and nobody knows how long it takes to get there by boat or on foot"
GREEDY = Sampling()


def words(count: int, first: int = 0) -> str:
    """A text of so many words."""
    known = SENTENCE.split()
    return " ".join(known[(first + number * 7) % len(known)] for number in range(count))


def opened(bundle: Path, threads: int) -> Model:
    """The bundle with a template of ours, whatever it came with."""
    model: Model = load(bundle, threads=threads)
    model.chat_encoder = ChatEncoder(ChatTemplate(TEMPLATE), model.tokenizer)
    return model


def follow_up(model: Model, genai: Genai | None, history: int) -> dict[str, object]:
    """One follow-up, and what it is compared with; seconds."""
    before = [{"role": "user", "content": words(history)}, {"role": "assistant", "content": words(8)}]
    asked = [*before, {"role": "user", "content": words(QUESTION, 3)}]
    model.reset()
    model.begin(model.chat_encoder.encode(before, answer=False), reuse=True)
    rest()
    start = perf_counter()
    answer = model.chat(asked, sampling=GREEDY, max_tokens=1)
    asking = perf_counter() - start
    answer.text()
    own = answer.prompt[answer.reused :]
    model.session.roll_back(answer.reused)
    rest()
    start = perf_counter()
    model.session.append(own)
    alone = perf_counter() - start
    model.reset()
    rest()
    start = perf_counter()
    model.prefill(answer.prompt)
    anew = perf_counter() - start
    model.reset()
    theirs = None
    if genai is not None:
        rest()
        start = perf_counter()
        genai.start(answer.prompt)
        theirs = perf_counter() - start
    found = {"tokens": len(answer.prompt), "new": len(own), "first_s": asking + answer.timings.prefill}
    return {**found, "encode_s": asking, "own_s": alone, "anew_s": anew, "genai_s": theirs}


def prefix(model: Model, length: int) -> dict[str, object]:
    """A beginning of so many words from a file, and computed; seconds."""
    system = [{"role": "system", "content": words(length)}]
    asked = [*system, {"role": "user", "content": words(QUESTION, 3)}]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "system.prefix"
        model.reset()
        rest()
        start = perf_counter()
        count = model.prefix(file, system)
        made = perf_counter() - start
        other = model.with_adapter(None)
        other.chat_encoder = model.chat_encoder
        rest()
        start = perf_counter()
        other.prefix(file, system)
        mapped = perf_counter() - start
        answer = other.chat(asked, sampling=GREEDY, max_tokens=1)
        answer.text()
        size = file.stat().st_size
    assert answer.reused == count
    times = {"made_s": made, "mapped_s": mapped, "first_s": mapped + answer.timings.prefill}
    return {"tokens": count, "bytes": size, **times}


def together(model: Model, count: int) -> dict[str, object]:
    """So many texts side by side, greedy; seconds of all their steps after the first token."""
    rows = side_by_side(model, count, context=512)
    prompts = [model.tokenizer.encode(words(20 + 30 * number, number)) for number in range(count)]
    # of random weights the likeliest token may be one that no text is for, and a step is seen by its text
    spoken = dict.fromkeys(model.tokenizer.encode(SENTENCE), 1e4)
    answers = [row.generate(text, max_tokens=STEPS, bias=spoken) for row, text in zip(rows, prompts, strict=True)]
    for answer in answers:
        next(answer)  # the prompt is computed
    begun = sum(len(answer.tokens) for answer in answers)
    rest()
    start = perf_counter()
    for _ in in_turn(list(answers)):  # type: ignore[arg-type] # a list is no list of wider things
        pass
    seconds = perf_counter() - start
    same = 0
    for answer, prompt in zip(answers, prompts, strict=True):
        alone = model.generate(prompt, max_tokens=STEPS, bias=spoken)
        alone.text()
        same += alone.tokens == answer.tokens
    steps = sum(len(answer.tokens) for answer in answers) - begun
    return {"texts": count, "in a call": rows[0].session.together, "steps": steps, "seconds": seconds, "same": same}  # type: ignore[attr-defined]


def measure(bundle: Path, threads: int, rounds: int) -> Iterator[dict[str, object]]:
    """All samples of a bundle; each of the first round is warm-up and not given."""
    model = opened(bundle, threads)
    try:
        genai = Genai(bundle, threads)
    except ModuleNotFoundError:
        genai = None
    for number in range(rounds + 1):
        for history in HISTORIES:
            if number or history == HISTORIES[0]:
                found = follow_up(model, genai, history)
                yield from [{"what": "follow-up", "history": history, **found}] if number else []
        for length in HISTORIES if number else ():
            yield {"what": "prefix", "history": length, **prefix(model, length)}
        for count in TEXTS if number else ():
            yield {"what": "together", **together(model, count)}


def of_apart(bundle: Path, threads: int, rounds: int) -> list[dict[str, object]]:
    """:func:`measure` in a process of its own, with a cache of prepared bundles that is the benchmarks' own."""
    command = [sys.executable, __file__, "--child", str(bundle), str(threads), str(rounds)]
    environment = os.environ | {"EDGEPRESS_CACHE": str(WORK / "prepared")}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in output.splitlines()]


def _median(ones: Sequence[Mapping[str, Any]], of: Any) -> str:
    return spread([of(one) for one in ones])


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """Three tables, from raw samples."""

    def cases(what: str, key: str) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
        return group([one for one in samples if one["what"] == what], "shape", "recipe", "threads", key)

    tables = (
        _follow_ups(cases("follow-up", "history")),
        _prefixes(cases("prefix", "history")),
        _together(cases("together", "texts")),
    )
    return "\n\n".join(tables)


_CASE = ("shape", "recipe", "threads")
Cases = Mapping[tuple[Any, ...], Sequence[Mapping[str, Any]]]


def _follow_ups(cases: Cases) -> str:
    rows = []
    for case, ones in cases.items():
        times = _median(ones, lambda one: 1e3 * one["first_s"])
        own = _median(ones, lambda one: one["first_s"] / one["own_s"])
        anew = _median(ones, lambda one: one["anew_s"] / one["first_s"])
        theirs = [one["genai_s"] / one["first_s"] for one in ones if one["genai_s"] is not None]
        sizes = (str(ones[0]["tokens"]), str(ones[0]["new"]))
        rows.append((*map(str, case[:3]), *sizes, times, own, anew, spread(theirs) if theirs else "not there"))
    header = ("tokens", "of them new", "first token ms", "÷ its new tokens alone", "anew ÷ it", "genai anew ÷ it")
    return table((*_CASE, *header), rows)


def _prefixes(cases: Cases) -> str:
    rows = []
    for case, ones in cases.items():
        sizes = (str(ones[0]["tokens"]), f"{ones[0]['bytes'] / 1e6:.1f}")
        times = (_median(ones, lambda one, of=of: 1e3 * one[of]) for of in ("mapped_s", "made_s"))
        rows.append((*map(str, case[:3]), *sizes, *times))
    header = ("tokens of a beginning", "MB", "mapped and checked ms", "computed and written ms")
    return table((*_CASE, *header), rows)


def _together(cases: Cases) -> str:
    def of_one(ones: Sequence[Mapping[str, Any]]) -> float:
        return statistics.median(one["steps"] / one["seconds"] for one in ones)

    rows = []
    for case, ones in cases.items():
        alone = of_one(cases[*case[:3], 1])
        speed = _median(ones, lambda one: one["steps"] / one["seconds"])
        times = _median(ones, lambda one, alone=alone: one["steps"] / one["seconds"] / alone)
        same = f"{sum(one['same'] for one in ones)} of {sum(one['texts'] for one in ones)}"
        rows.append((*map(str, case[:3]), str(case[3]), str(ones[0]["in a call"]), speed, times, same))
    header = ("texts", "in a call", "tokens/s of all", "÷ one text's", "same tokens as alone")
    return table((*_CASE, *header), rows)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["smollm2-135m", "qwen2.5-0.5b"])
    parser.add_argument("--recipe", default="int4")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        bundle, threads, rounds = arguments.child
        for sample in measure(Path(bundle), int(threads), int(rounds)):
            print(json.dumps(sample), flush=True)
        return
    samples = [
        {"shape": shape, "recipe": arguments.recipe, "threads": threads, "load": os.getloadavg()[0], **sample}
        for shape in arguments.shapes
        for threads in arguments.threads
        for sample in of_apart(bundle_of(shape, arguments.recipe), threads, arguments.rounds)
    ]
    print(report(samples))
    save("turns", samples)


if __name__ == "__main__":
    main()
