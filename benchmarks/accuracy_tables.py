"""The tables of accuracy.py: a row for each sample, whether the goal is met, and the grid at one look."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from accuracy_recipes import BLOCKS, ROUND_TO_NEAREST
from common import table

Sample = dict[str, Any]


def nats_lost(found: Sample) -> float:
    """Loss over float32 in nats a token."""
    return float(math.log(found["perplexity"] / found["reference_perplexity"]))


def row(found: Sample) -> tuple[str, ...]:
    """Return one table row."""
    if "refused" in found:
        return (found["model"], found["tool"], found["name"], *["–"] * 6, found["refused"])
    return (
        found["model"],
        found["tool"],
        found["name"],
        f"{found['bits_per_weight']:.2f}",
        f"{found['bits_per_byte']:.4f}",
        f"{round(found['bits_per_byte'] / found['reference_bits_per_byte'] - 1, 4) + 0.0:+.2%}",
        f"{round(nats_lost(found), 4) + 0.0:+.4f}",
        f"{found['kl']:.4f}",
        f"{found['top1_agreement']:.1%}",
        found["note"],
    )


HEADER = ("model", "tool", "recipe", "bits a weight", "bits per byte", "against float32", "nats a token lost")
HEADER += ("KL (nats)", "same top-1", "stored as")

GOAL = ("int4-fast", ROUND_TO_NEAREST.name, "Q4_K_M")
GOAL_HEADER = ("model", "loss in", "int4-fast", "block-32 rtn", "Q4_K_M")
GOAL_HEADER += ("at most half of rtn's", "less than Q4_K_M's", "fewer bits")


def goal(samples: Sequence[Sample]) -> str:
    """Whether int4-fast loses at most half of block-32 round-to-nearest, and less than Q4_K_M at fewer bits."""
    rows = []
    for model in dict.fromkeys(found["model"] for found in samples):
        named = {found["name"]: found for found in samples if found["model"] == model and "kl" in found}
        for words, loss in (("nats a token", nats_lost), ("KL", lambda found: float(found["kl"]))):
            rows.append((model, words, *answer(*(named[name] for name in GOAL), loss)))
    return table(GOAL_HEADER, rows)


def answer(fast: Sample, nearest: Sample, k_quant: Sample, loss: Callable[[Sample], float]) -> tuple[str, ...]:
    """The three losses, and yes or no to the three parts of the goal."""
    bits = [found["bits_per_weight"] for found in (fast, nearest, k_quant)]
    holds = loss(fast) <= loss(nearest) / 2, loss(fast) < loss(k_quant), bits[0] < min(bits[1:])
    losses = (f"{loss(found):.4f}" for found in (fast, nearest, k_quant))
    half, less, fewer = ("yes" if yes else "no" for yes in holds)
    return *losses, half, less, f"{fewer}: {bits[0]:.2f} against {bits[1]:.2f} and {bits[2]:.2f}"


def report(samples: Sequence[Sample]) -> str:
    """The tables, from raw samples: a row for each; then with peers whether the goal is met, else all at one look."""
    rest = goal(samples) if any(found["tool"] != "edgepress" for found in samples) else pivot(samples)
    return f"{table(HEADER, map(row, samples))}\n\n{rest}"


def pivot(samples: Sequence[Sample]) -> str:
    """Return a table for each model: a method a row, a block size a column, and what was refused."""
    parts = []
    for model in dict.fromkeys(found["model"] for found in samples):
        of_model = [found for found in samples if found["model"] == model]
        rows = [line for bits in sorted({found["bits"] for found in of_model}) for line in pivot_rows(of_model, bits)]
        parts.append(f"{model}:\n\n{table(('bits', 'method', *(f'block {block}' for block in BLOCKS)), rows)}")
    refused = [f"- {found['model']}, {found['name']}: {found['refused']}" for found in samples if "refused" in found]
    return "\n\n".join(parts + (["Refused:\n\n" + "\n".join(refused)] if refused else []))


def pivot_rows(of_model: Sequence[Sample], bits: int) -> Iterator[tuple[str, ...]]:
    """Yield ``KL (bits a weight)`` of each method; the least KL of a block size is bold."""
    at = {(found["title"], found["block_size"]): found for found in of_model if found["bits"] == bits}
    least = {
        block: min((found["kl"] for (_, size), found in at.items() if size == block and "kl" in found), default=0.0)
        for block in BLOCKS
    }
    for title in dict.fromkeys(title for title, _ in at):
        yield str(bits), title, *(cell(at.get((title, block)), least[block]) for block in BLOCKS)


def cell(found: Sample | None, least: float) -> str:
    """KL in three digits and bits a weight; nothing where it was not asked for."""
    if found is None:
        return ""
    if "refused" in found:
        return "refused"
    kl = np.format_float_positional(found["kl"], precision=3, unique=False, fractional=False)
    return f"{f'**{kl}**' if found['kl'] == least else kl} ({found['bits_per_weight']:.2f})"
