"""What do draft models and a layer of MTP gain on models whose weights are trained?

    python benchmarks/drafts.py [--models demo stories deep hybrid] [--times] [--again]

Greedy answers and drawn ones (temperature 0.8) to 32 beginnings of texts that no model has seen, of 64 and of 384
tokens at most, in int4. ``demo`` has a draft of two of its three layers; of ``stories``, tiny1m, stories260k is the
draft, a model of its own with the same tokens; ``deep`` and ``hybrid`` (:mod:`speculation_models`, trained here where
they are not there yet: 7 and 4 minutes of a core) have one of 2 of 12 layers, distilled, and MTP.

- ``gain``: what is proposed, what is right, and the speed that steps counted at the costs of the 135M shape give
  (benchmarks/speculation.py; a step of the draft costs the share of bytes that it reads): no time is measured, so it
  can run beside other work. "likeliest" proposals of a drawn text are what the draft holds for likeliest. Answers go on
  from what those before them have learned, as a model's do, or each learns anew, as the first does.
- ``agreement``: of both distributions at tokens of the text, how often a proposal is right by each way of drawing it.
- ``times``, with ``--times``: plain and speculated answers in turn, on one thread, by the steps' measured costs, so few
  or none are speculated where that pays little. It has to run quietly.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import speculation_models
from common import RESULTS, TARGET, WORK, group, load, save, spread, table

from edgepress.bundle.manifest import read_manifest
from edgepress.exporter import export
from edgepress.exporter.bundle.draft import COSTS
from edgepress.exporter.demo.train import TEXT_IN_DATA, split_text
from edgepress.runtime import Sampling, Speculation
from edgepress.runtime.config import BundleConfig, read_config
from edgepress.runtime.generation.choosing import Choosing
from edgepress.runtime.generation.generation import Generation
from edgepress.runtime.generation.sampling import softmax
from edgepress.runtime.generation.speculation.costs import StepCosts
from edgepress.runtime.generation.speculation.kinds import Drafter, Opening
from edgepress.runtime.generation.speculation.speculating import Speculating
from edgepress.runtime.generation.speculation.window import Learned, Window
from edgepress.runtime.model import Model
from edgepress.runtime.model import load as open_bundle
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.text.tokenizer import StopStrings

PROMPTS, PROMPT, ROUNDS = 32, 32, 2
ANSWERS = (64, 384)  # tokens at most
HOT = 0.8
DRAFTERS = {"demo": "draft", "stories": "draft", "deep": "draft", "hybrid": "mtp"}
NAMES = {
    "demo": "demo (1.9 M weights), 2 of 3 layers",
    "stories": "tiny1m (0.9 M weights), stories260k (0.26 M)",
    "deep": "12 layers (4.9 M weights), 2 of them distilled",
    "hybrid": "Qwen3.5's shape (3.3 M weights), its MTP",
}
PLAIN = "[weights]\nbits = 4\n"
RECIPES = {
    "demo": '[draft]\nprune = ["depth"]\ngain = 0\n[draft.options.depth]\nlayers = 2\n[weights]\nbits = 4\n',
    "deep": '[draft]\nprune = ["depth", "retrain"]\ngain = 0\n[draft.options.depth]\nlayers = 2\n'
    "[draft.options.retrain]\nsteps = 200\n[draft.weights]\nbits = 4\n[weights]\nbits = 4\n",
    "hybrid": "mtp = true\n[weights]\nbits = 4\n",
}
Sample = dict[str, Any]


# ---- subjects --------------------------------------------------------------------------------------------------------


def bundle_of(name: str) -> Path:
    """The bundle in int4, made where it is not there yet."""
    out = WORK / f"drafts-{name}"
    if not out.exists():
        calibration = []
        WORK.mkdir(parents=True, exist_ok=True)
        if name == "deep":
            calibration.append(WORK / "drafts-text.txt")
            calibration[0].write_text("\n\n".join(speculation_models.stories()), encoding="utf-8")
        recipe = WORK / f"drafts-{name}.toml"
        recipe.write_text(RECIPES.get(name, PLAIN), encoding="utf-8")
        export(checkpoint_of(name), out=out, target=TARGET, recipe=recipe, calibration=calibration, threads=1)
    return out


def checkpoint_of(name: str) -> str | Path:
    """What is exported."""
    stored = {"stories": "tiny1m", "stories260k": "stories260k"}
    if name in stored:
        return speculation_models.DATA / "models" / stored[name]
    return name if name == "demo" else speculation_models.checkpoint(name)


def draft_of(name: str) -> Path | None:
    """Another bundle that drafts; None where the bundle has what drafts."""
    return bundle_of("stories260k") if name == "stories" else None


def prompts(model: Model, name: str) -> list[list[int]]:
    """Beginnings of texts that the model has not seen."""
    if name == "demo":
        whole = (speculation_models.DATA / TEXT_IN_DATA).read_bytes().decode()
        tokens = model.tokenizer.encode(split_text(whole)[1])
        starts = np.random.default_rng(0).integers(0, len(tokens) - PROMPT, PROMPTS)
        return [[int(token) for token in tokens[start : start + PROMPT]] for start in starts]
    texts = speculation_models.held_out()[:PROMPTS]
    return [[int(token) for token in model.tokenizer.encode(text)[:PROMPT]] for text in texts]


def share_of(name: str) -> float:
    """What a step of the drafter costs, in steps of the model, by the bytes that each reads."""
    manifest, other = read_manifest(bundle_of(name)), draft_of(name)
    sizes = {str(one["name"]): int(str(one["bytes_after"])) for one in manifest.tensors}
    if other is not None:
        return sum(int(str(one["bytes_after"])) for one in read_manifest(other).tensors) / sum(sizes.values())
    if DRAFTERS[name] == "draft":
        return float(str(manifest.drafters[0].about["estimated_step"]))
    own = sum(size for tensor, size in sizes.items() if tensor.startswith("mtp."))
    return (own + sizes["embedding"]) / (sum(sizes.values()) - own)  # which is the head as well


# ---- counted ---------------------------------------------------------------------------------------------------------


class Likeliest:
    """A drafter whose proposals are the likeliest tokens, whatever the text's are chosen by."""

    def __init__(self, inner: Drafter) -> None:
        self._inner = inner
        self.begin, self.take, self.evidence = inner.begin, inner.take, inner.evidence
        self.cost, self.once = inner.cost, inner.once

    def propose(self, count: int, choosing: Choosing) -> list[int]:
        """See :class:`Drafter`."""
        del choosing
        return self._inner.propose(count, Choosing(Sampling(), [], 0))


def drafter_of(model: Model, name: str, share: float) -> Drafter:
    """The drafter of a model, whose steps cost ``share`` of the model's."""
    costs = StepCosts({rows: share * seconds for rows, seconds in COSTS.seconds.items()}, exact=1)

    def opened(config: BundleConfig) -> tuple[CpuSession, StepCosts]:
        return CpuSession(config, threads=1, context=min(model.context, config.context_length), prepared=False), costs

    how = Speculation(DRAFTERS[name], exact=False, bundle=draft_of(name))
    return how.open(Opening(model.config, model.session, COSTS, opened, how.bundle))


def measure_gain(name: str, temperature: float, way: str, most: int) -> Sample:
    """Answers of ``most`` tokens by steps whose costs are given: each learning anew, and all going on."""
    model, share = open_bundle(bundle_of(name), threads=1, prepared=False), share_of(name)
    inner = drafter_of(model, name, share)
    asked = prompts(model, name)
    found: Sample = {"share": share, "answers": len(asked)}
    for learning in ("anew", "going on"):
        counts = {"tokens": 0, "steps": 0, "proposed": 0, "right": 0, "spent": 0.0, "slowest": 9.0}
        learned = {drawn: Learned() for drawn in (False, True)}
        for seed, prompt in enumerate(asked):
            known = learned if learning == "going on" else None
            window = Window(COSTS, 16)
            ahead = Speculating(model, inner if way == "drawn" else Likeliest(inner), window, 15, known)
            generation = Generation(ahead, prompt, Sampling(temperature=temperature, seed=seed), most, StopStrings([]))
            for _piece in generation:
                pass
            tokens = len(generation.tokens) - 1  # the first comes with the prompt
            counts["tokens"] += tokens
            counts["spent"] += window.spent
            counts["slowest"] = min(counts["slowest"], tokens / window.spent) if tokens else counts["slowest"]
            for key in ("steps", "proposed", "right"):
                counts[key] += getattr(ahead.tally, key)
        found[learning] = counts
    return found


# ---- distributions ---------------------------------------------------------------------------------------------------


def same_token(p: np.ndarray, q: np.ndarray) -> float:
    """How likely the same noise draws one token of both: Σᵢ 1 / Σⱼ max(pⱼ / pᵢ, qⱼ / qᵢ)."""
    return float(sum(1 / np.maximum(p / one, q / other).sum() for one, other in zip(p, q, strict=True)))


def measure_agreement(name: str, temperature: float) -> Sample:
    """Of the model and its draft at every token of held-out text, each given the 32 before it or more."""
    model, other = open_bundle(bundle_of(name), threads=1, prepared=False), draft_of(name)
    config = model.config.of_drafter("draft") if other is None else read_config(other)
    assert config is not None
    draft = CpuSession(config, threads=1, context=64, prepared=False)
    found: dict[str, list[float]] = {"likeliest": [], "drawn": [], "best": []}
    for prompt in prompts(model, name):
        rows = []
        for session in (model.session, draft):
            session.reset()
            rows.append([softmax(row / temperature) for row in session.append(np.array(prompt), 0)[PROMPT // 2 :]])
        for p, q in zip(*rows, strict=True):
            found["likeliest"].append(float(p[q.argmax()]))
            found["drawn"].append(same_token(p, q))
            found["best"].append(float(np.minimum(p, q).sum()))
    return {"tokens": len(found["best"]), **{way: float(np.mean(values)) for way, values in found.items()}}


# ---- times -----------------------------------------------------------------------------------------------------------


def measure_times(name: str) -> Iterator[Sample]:
    """All answers, greedy, plain and speculated in turn."""
    model = open_bundle(bundle_of(name), threads=1)
    speculated = Speculation(DRAFTERS[name], exact=False, bundle=draft_of(name))
    asked = prompts(model, name)
    model.generate(asked[0], max_tokens=8, speculate=speculated).text()  # costs are measured
    for _ in range(ROUNDS):
        sample: Sample = {"plain_s": 0.0, "speculated_s": 0.0, "tokens": 0, "same": 0, "proposed": 0, "right": 0}
        for prompt in asked:
            plain, quick = (model.generate(prompt, max_tokens=ANSWERS[0], speculate=how) for how in (None, speculated))
            for key, generation in (("plain_s", plain), ("speculated_s", quick)):
                start = perf_counter()
                generation.text()
                sample[key] += perf_counter() - start
            sample["tokens"] += len(quick.tokens)
            sample["same"] += plain.tokens == quick.tokens
            assert quick.tally is not None
            sample["proposed"] += quick.tally.proposed
            sample["right"] += quick.tally.right
        yield sample | {"answers": len(asked), "load": load()}


# ---- rows ------------------------------------------------------------------------------------------------------------


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """The tables, from raw samples."""
    kinds = {what: [one for one in samples if one["what"] == what] for what in ("gain", "agreement", "times")}
    gains = [
        (
            *(NAMES[one["model"]], one["drafter"], f"{one['temperature']:g}", one["proposals"]),
            f"{one['share']:.2f}",
            f"{one['most']}",
            *(f"{one[way]['tokens'] / one[way]['spent']:.2f}" for way in ("anew", "going on")),
            f"{one['going on']['slowest']:.2f}",
            *(f"{one['going on'][key]:,}" for key in ("tokens", "steps")),
            f"{one['going on']['right']:,} of {one['going on']['proposed']:,}",
        )
        for one in kinds["gain"]
    ]
    header = ("model", "drafter", "temperature", "proposals", "a step of the drafter", "of at most")
    header += ("speed, each learning anew", "speed, going on", "the slowest answer")
    parts = [table((*header, "tokens", "steps", "proposals right"), gains)]
    agreements = [
        (
            *(NAMES[one["model"]], f"{one['temperature']:g}", f"{one['tokens']:,}"),
            *(f"{one[way]:.1%}" for way in ("likeliest", "drawn", "best")),
        )
        for one in kinds["agreement"]
    ]
    header = ("model", "temperature", "tokens", "likeliest", "drawn by the same numbers", "the most there can be")
    parts.append(table(header, agreements))
    times = [
        (
            NAMES[name],
            f"{ones[0]['tokens']:,}",
            f"{ones[0]['same']} of {ones[0]['answers']}",
            f"{sum(one['right'] for one in ones):,} of {sum(one['proposed'] for one in ones):,}",
            spread([1e3 * one["plain_s"] / one["tokens"] for one in ones], 2),
            spread([1e3 * one["speculated_s"] / one["tokens"] for one in ones], 2),
            spread([one["plain_s"] / one["speculated_s"] for one in ones]),
            spread([one["load"] for one in ones], 1),
        )
        for (name,), ones in group(kinds["times"], "model").items()
    ]
    header = ("model", "tokens", "answers that are the plain ones", "proposals right", "plain ms/token")
    parts.append(table((*header, "speculated ms/token", "speed ÷ plain", "load"), times))
    return "\n\n".join(parts)


def kept() -> list[Sample]:
    """Samples of earlier runs."""
    path = RESULTS / "drafts.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[1:]] if path.exists() else []


def main() -> None:
    """Measure what is not there yet, keep it, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(DRAFTERS), choices=DRAFTERS)
    parser.add_argument("--times", action="store_true", help="measure times too, which has to run quietly")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    arguments = parser.parse_args()
    samples = [one for one in kept() if not (arguments.again and one["model"] in arguments.models)]
    for name in arguments.models:
        wanted: list[tuple[Sample, Any]] = []
        for most, (temperature, way) in product(ANSWERS, ((0.0, "drawn"), (HOT, "likeliest"), (HOT, "drawn"))):
            key = {"what": "gain", "model": name, "drafter": DRAFTERS[name], "temperature": temperature, "most": most}
            key |= {"proposals": way if temperature else "likeliest"}
            wanted.append((key, partial(measure_gain, name, temperature, way, most)))
        if DRAFTERS[name] == "draft":
            for temperature in (HOT, 1.0):
                key = {"what": "agreement", "model": name, "temperature": temperature}
                wanted.append((key, partial(measure_agreement, name, temperature)))
        if arguments.times:
            wanted.append(({"what": "times", "model": name}, partial(measure_times, name)))
        for key, measure in wanted:
            if any(key.items() <= one.items() for one in samples):
                continue
            found = measure()
            samples += [key | one for one in ([found] if isinstance(found, dict) else found)]
            save("drafts", samples)
            print(samples[-1], file=sys.stderr, flush=True)
    print(report(samples))


if __name__ == "__main__":
    main()
