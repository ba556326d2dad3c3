"""What float16 attention changes on ARM: bits per byte and greedy text of small models, on emulated processors.

Each bundle's graph in float16 and the one in float32 run on the same emulated processor (``edgepress emulator setup``
first), so that nothing else differs. Where the greedy texts part, the two tokens are named, with how far apart their
logits are in float32 on this machine.

    python benchmarks/arm_accuracy.py --data DIRECTORY [--models demo]
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import RESULTS, SIZES, group, save, table

from edgepress.exporter import export
from edgepress.runtime import load, read_documents
from edgepress.runtime.measures.emulated import compare_bundles
from edgepress.targets.emulator import Installation, setup

CPUS = ("cortex-a76", "neoverse-n2")
RECIPE = "int4"
PROMPTS = {"demo": "ROMEO:\n", "stories260k": "Once upon a time, ", "tiny1m": "Once upon a time, "}
STORIES = {"stories260k": "newline", "tiny1m": "blank"}  # how paragraphs end in the text that each was trained on
DOCUMENTS, CHARACTERS = 8, 1500  # of stories, and of the demo's text
TOKENS, CONTEXT = 32, 256


def texts_of(name: str, data: Path) -> list[str]:
    """Text that the model was not trained on."""
    if name in STORIES:
        return read_documents(data / "text" / "tinystories" / f"stories_heldout_{STORIES[name]}.jsonl")[:DOCUMENTS]
    text = (data / "text" / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    return [text[len(text) * 9 // 10 :][:CHARACTERS]]


def samples(name: str, data: Path, folder: Path, installation: Installation) -> Iterator[dict[str, Any]]:
    """Both graphs of one model's bundle on each processor."""
    bundle, prompt, texts = folder / name, PROMPTS[name], texts_of(name, data)
    manifest = export(name if name == "demo" else data / "models" / name, out=bundle, recipe=RECIPE)
    half, single = (entry.file for entry in manifest.graphs)
    for cpu in CPUS:
        found = {
            graph: compare_bundles(
                installation,
                [bundle],
                [cpu],
                prompt=prompt,
                max_tokens=TOKENS,
                documents=texts,
                context=CONTEXT,
                graph=graph,
            )[0]
            for graph in (half, single)
        }
        yield {
            "model": name,
            "recipe": RECIPE,
            "cpu": cpu,
            "bytes": sum(len(text.encode()) for text in texts),
            "bits_per_byte": {"float16": found[half].bits_per_byte, "float32": found[single].bits_per_byte},
            "tokens": {"float16": list(found[half].tokens), "float32": list(found[single].tokens)},
            "part": parting(bundle, single, prompt, found[single].tokens, found[half].tokens),
            "versions": found[half].versions,
        }


def parting(
    bundle: Path, graph: str, prompt: str, single: Sequence[int], half: Sequence[int]
) -> Mapping[str, Any] | None:
    """Where texts part: the index, both tokens, and by how much the logit of float32's is larger here; None nowhere."""
    at = next((index for index, pair in enumerate(zip(single, half, strict=True)) if len({*pair}) > 1), None)
    if at is None:
        return None
    model = load(bundle, threads=1, graph=graph)
    logits = model.prefill([*model.tokenizer.encode(prompt), *single[:at]])
    words = [model.tokenizer.decode([tokens[at]]) for tokens in (single, half)]
    return {"at": at, "float32": words[0], "float16": words[1], "gap": float(logits[single[at]] - logits[half[at]])}


def report(found: Sequence[Mapping[str, Any]]) -> str:
    """Bits per byte of both graphs, and whether they say the same."""
    rows = []
    for (name, cpu), [sample] in group(found, "model", "cpu").items():
        bits, part = sample["bits_per_byte"], sample["part"]
        text = f"the same, {len(sample['tokens']['float32'])} tokens"
        if part is not None:
            text = (
                f"from token {part['at']} on: {part['float16']!r} for {part['float32']!r}, "
                f"whose logits are {part['gap']:.3f} apart"
            )
        change = f"{bits['float16'] / bits['float32'] - 1:+.3%}"
        rows.append(
            (SIZES[name], cpu, f"{sample['bytes']:,}", f"{bits['float32']:.5f}", f"{bits['float16']:.5f}", change, text)
        )
    header = (
        "model",
        "processor",
        "bytes of text",
        "bits per byte, float32",
        "float16 attention",
        "change",
        "greedy text",
    )
    return table(header, rows)


def main() -> None:
    """Measure, keep the samples and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with models/ and text/")
    parser.add_argument("--models", nargs="*", default=list(PROMPTS), choices=PROMPTS)
    arguments = parser.parse_args()
    installation, path = setup(), RESULTS / "arm_accuracy.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
    found = [one for one in map(json.loads, lines) if one["model"] not in arguments.models]
    with TemporaryDirectory() as folder:
        for name in arguments.models:
            found += samples(name, arguments.data, Path(folder), installation)
            save("arm_accuracy", found)
    print(report(found))


if __name__ == "__main__":
    main()
