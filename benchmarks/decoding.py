"""What do ways to choose tokens do to the texts of small models?

Each model continues the beginnings of held-out stories. Of what it writes: how much of it repeats itself (the share of
its sequences of 3 tokens that it has had already), and how likely another model, which it has nothing in common with,
thinks it is (bits per byte; human text of the same places stands beside). Texts that repeat are likely, and surprising
ones are not: both columns belong together. A contrast is with the model's own weights in 2 bits.

    python benchmarks/decoding.py [--data ../shared/data] [--prompts 20] [--tokens 120] [--ways "4 beams" …]

With ``--ways`` only those are written by; the rows of others are kept as they are, with the commit that they are of.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from common import RESULTS, SIZES, TARGET, WORK, group, save, spread, table
from subjects import STORIES, add_data, make_subject

from edgepress.exporter import export
from edgepress.runtime import Beams, Model, load
from edgepress.runtime.generation.contrast import Contrast
from edgepress.runtime.generation.several.best_of import best_of
from edgepress.runtime.generation.several.kinds import find_chooser
from edgepress.runtime.turns.compression import information_of

NAME = "decoding"
JUDGES = {"stories260k": "tiny1m", "tiny1m": "stories260k"}  # of each other, as they know the same kind of story
AMATEUR = "weights.bits = 2\nweights.block_size = 32\n"
BEGINNING, REPEATED = 24, 3  # words of a prompt; tokens of a sequence
Write = Callable[[Model, Model, str, int, int], str]


def drawn(**settings: Any) -> Write:
    """A text drawn by these settings, temperature 1 unless they say otherwise."""
    settings = {"temperature": 1.0, **settings}
    return lambda model, _, prompt, tokens, seed: model.generate(
        prompt, max_tokens=tokens, seed=seed, **settings
    ).text()


def contrasted(model: Model, amateur: Model, prompt: str, tokens: int, _: int) -> str:
    """The greedy text of a contrast."""
    return model.generate(prompt, max_tokens=tokens, contrast=Contrast(amateur)).text()


def chosen(model: Model, _: Model, prompt: str, tokens: int, seed: int) -> str:
    """The likeliest of 8."""

    def one(number: int) -> Any:
        return model.generate(prompt, max_tokens=tokens, temperature=1.0, seed=number)

    return best_of(one, 8, find_chooser("likelihood"), seed=1000 * seed).text


WAYS: dict[str, Write] = {
    "greedy": drawn(temperature=0.0),
    "greedy, no 3 tokens twice": drawn(temperature=0.0, no_repeat_ngram=REPEATED),
    "greedy, repetition penalty 1.2": drawn(temperature=0.0, repetition_penalty=1.2),
    "greedy, contrast with 2 bits": contrasted,
    "4 beams": drawn(temperature=0.0, beams=Beams(4)),
    "4 beams, no 3 tokens twice": drawn(temperature=0.0, beams=Beams(4), no_repeat_ngram=REPEATED),
    "temperature 1": drawn(),
    "temperature 0.7": drawn(temperature=0.7),
    "top-p 0.9": drawn(top_p=0.9),
    "min-p 0.1": drawn(min_p=0.1),
    "typical 0.9": drawn(typical_p=0.9),
    "likeliest of 8, temperature 1": chosen,
}
PEOPLE = "people"


def samples(
    data: Path, prompts: int, tokens: int, folder: Path, asked: Sequence[str] = (*WAYS, PEOPLE)
) -> Iterator[dict[str, Any]]:
    """Each model's texts by each way that is ``asked`` for, measured; one sample for all prompts of a way."""
    subjects = {name: make_subject(name, data, prompts / STORIES) for name in JUDGES}
    opened, amateurs = {}, {}
    for name, subject in subjects.items():
        export(subject.model, out=folder / name, recipe="fp32", target=TARGET)
        recipe = folder / f"{name}.toml"
        recipe.write_text(AMATEUR, encoding="utf-8")
        export(subject.model, out=folder / f"{name}-2", recipe=recipe, target=TARGET)
        opened[name], amateurs[name] = (load(folder / file, threads=1) for file in (name, f"{name}-2"))
    for name, judge in JUDGES.items():
        begun = [beginning(text) for text in subjects[name].texts]
        both = opened[name], amateurs[name]
        ways = {
            way: [write(*both, prompt, tokens, number) for number, prompt in enumerate(begun)]
            for way, write in WAYS.items()
            if way in asked
        }
        if PEOPLE in asked:
            pairs = zip(begun, subjects[name].texts, strict=True)
            ways[PEOPLE] = [end_of(opened[name], prompt, text, tokens) for prompt, text in pairs]
        for way, texts in ways.items():
            bits = [bits_of(opened[judge], prompt, text) for prompt, text in zip(begun, texts, strict=True) if text]
            yield {
                "model": name,
                "way": way,
                "repeated": [repeated(opened[name], text) for text in texts],
                "bits_per_byte": bits,
                "judge": judge,
            }


def beginning(text: str) -> str:
    """Its first words."""
    return " ".join(text.split(" ")[:BEGINNING])


def end_of(model: Model, prompt: str, text: str, tokens: int) -> str:
    """What stands behind the prompt in a text by people, as many tokens of it."""
    rest = model.tokenizer.encode_plain(text[len(prompt) :])[:tokens]
    return str(model.tokenizer.decode(rest))


def repeated(model: Model, text: str) -> float:
    """The share of its sequences of 3 tokens that stood there before."""
    tokens = model.tokenizer.encode_plain(text)
    found = list(zip(*(tokens[start:] for start in range(REPEATED)), strict=False))
    return 1 - len(set(found)) / max(1, len(found))


def bits_of(judge: Model, prompt: str, text: str) -> float:
    """Bits per byte of a text after its prompt, by a model that did not write it."""
    before, after = judge.tokenizer.encode_plain(prompt), judge.tokenizer.encode_plain(text)
    bits = information_of(judge, [*before, *after])[len(before) :].sum() / np.log(2)
    return float(bits / len(text.encode()))


def kept(asked: Sequence[str]) -> list[dict[str, Any]]:
    """The samples of the last run that no way of ``asked`` takes the place of."""
    lines = (RESULTS / f"{NAME}.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    return [sample for sample in map(json.loads, lines) if sample["way"] not in asked]


def in_order(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples as the table has them: by model, then by way."""
    models, ways = list(JUDGES), [*WAYS, PEOPLE]
    return sorted(found, key=lambda sample: (models.index(sample["model"]), ways.index(sample["way"])))


def report(found: Sequence[Mapping[str, Any]]) -> str:
    """A row for each model and way."""
    rows = []
    for (model,), of_model in group(found, "model").items():
        for one in of_model:
            mean = float(np.mean(one["repeated"]))
            rows.append([SIZES[model], one["way"], f"{mean:.1%}", spread(one["bits_per_byte"])])
    return table(["model", "way", "repeats itself", "bits per byte by the other model"], rows)


def main() -> None:
    """Write, judge, keep the samples and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data(parser)
    parser.add_argument("--prompts", type=int, default=20, help=f"of {STORIES} stories")
    parser.add_argument("--tokens", type=int, default=120, help="of each text at most")
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, PEOPLE], metavar="WAY", help="only these (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    WORK.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=WORK, prefix="decoding-") as name:
        asked = arguments.ways or [*WAYS, PEOPLE]
        found = list(samples(arguments.data, arguments.prompts, arguments.tokens, Path(name), asked))
    found = in_order([*kept(asked), *found]) if arguments.ways else found
    save(NAME, found)
    print(report(found))


if __name__ == "__main__":
    main()
