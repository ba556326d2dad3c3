"""The demo model's card: its header read by machines, its figures handed over by `train.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from edgepress.disk.workspace import listed
from edgepress.errors import InputError

METRIC = "bits_per_byte"
_WRITTEN_BY = "Written by `exporter/demo/train.py`"
_FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}

TEMPLATE = """---
{header}
---

# edgepress demo model

A small Llama with grouped-query attention, made so that `edgepress` has a real model to compress,
run and measure without downloading one. It writes text in the manner of Shakespeare; it knows
nothing else. Written by `exporter/demo/train.py`, this card included.

**{bits_per_byte:.4f} held-out bits per byte**, measured on the files of this folder as they were
read back from disk.

| | |
|---|---|
{facts}

Bits per byte: the held-out part is one document, scored from its own beginning-of-sequence token,
which is context and not scored. {protocol} The summed negative log-likelihood is divided by ln 2
and by the document's UTF-8 bytes.

## A sample

Drawn from the files of this folder with the settings of `generation_config.json` after
`{prompt}`; the seed is the training seed and no other sample was tried.

```text
{sample}
```

## Limits

- The held-out part also chose which weights to keep (see the table), so the figure is slightly
  kinder than one on text never looked at.
- The text is all of one kind and about one megabyte long: the model is a test subject, not a writer.

## Again

```sh
{command}
```

The data is not part of the project: it is the `tinyshakespeare` text of karpathy/char-rnn (public
domain), found by its SHA-256 above. The same versions on the same kind of processor are needed for
the same weights to the bit.
"""


def write_card(
    directory: Path,
    bits_per_byte: float,
    facts: Mapping[str, str],
    *,
    protocol: str,
    prompt: str,
    sample: str,
    command: str,
) -> None:
    """Write `directory`/README.md, the held-out figure in the model-index of its header."""
    header = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["llama", "shakespeare"],
        model_name="edgepress-demo",
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type="tinyshakespeare",
                dataset_name="tinyshakespeare, held-out last tenth",
                metric_type=METRIC,
                metric_value=round(bits_per_byte, 5),
            )
        ],
    )
    text = TEMPLATE.format(
        header=header.to_yaml(),
        bits_per_byte=bits_per_byte,
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        protocol=protocol,
        prompt=prompt,
        sample=sample,
        command=command,
    )
    (directory / "README.md").write_text(text, encoding="utf-8")


def read_bits_per_byte(directory: Path) -> float:
    """The held-out figure that the card in `directory` states."""
    results = ModelCard.load(directory / "README.md").data.eval_results or []
    values = [result.metric_value for result in results if result.metric_type == METRIC]
    if len(values) != 1:
        raise ValueError(f"{directory / 'README.md'} states {len(values)} values of {METRIC}; it must state one")
    return float(values[0])


def refuse_other_models(directory: Path) -> None:
    """Raise InputError unless ``directory`` is missing, empty, or holds a model that the script wrote and no more."""
    if not directory.exists():
        return
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else [directory.name]
    card = directory / "README.md"
    is_ours = card.is_file() and _WRITTEN_BY in card.read_text(encoding="utf-8", errors="replace")
    if names and (set(names) - _FILES or not is_ours):
        raise InputError(
            f"{directory} holds {listed(names)}, and not just a model that this script wrote; choose another folder"
        )
