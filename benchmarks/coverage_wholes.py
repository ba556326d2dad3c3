"""Which models of text and images, video or sound give their text model: every class of transformers, from its config.

As coverage.py, with the classes that take more than text. The logits of text alone are compared with those of the
whole, of transformers' own class of it.

    python benchmarks/coverage_wholes.py              all of them, into results/coverage_wholes.jsonl (ten minutes)
    python benchmarks/coverage_wholes.py llava glm4v  print the verdicts of some
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import transformers
from common import RESULTS, save, table
from coverage import apart
from coverage_tables import VERDICTS, by_verdict, difference_or_reason
from tiny_configs import tiny_config
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

_FINDERS = {  # transformers' classes that find the class of a config
    "AutoModelForMultimodalLM": MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    "AutoModelForSeq2SeqLM": MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
}
_OTHER_PARTS = ("vision", "audio", "encoder", "talker")  # how the names of their sections begin


def classes() -> dict[str, tuple[str, str]]:
    """Every ``model_type`` of a whole in the installed transformers: its class, and the class that finds it."""
    found: dict[str, tuple[str, str]] = {}
    for finder, names in _FINDERS.items():
        for kind, cls in names.items():
            parts = getattr(transformers.CONFIG_MAPPING[kind], "sub_configs", {})
            if any(part.startswith(_OTHER_PARTS) for part in parts):
                found.setdefault(kind, (str(cls), finder))
    return found


def measure(kinds: Sequence[str]) -> list[dict[str, Any]]:
    """A sample for each class, printed as they come."""
    samples = []
    for number, kind in enumerate(kinds, 1):
        cls, finder = classes()[kind]
        verdict = apart(lambda kind=kind: tiny_config(kind), 1, peers=False, auto=getattr(transformers, finder))
        sample = {"model_type": kind, "class": cls, "text": _text_type(kind), **verdict}
        print(
            f"{number}/{len(kinds)} {kind} ({sample['text']}): {sample['verdict']} {difference_or_reason(sample)}",
            flush=True,
        )
        samples.append(sample)
    return samples


def _text_type(kind: str) -> str:
    """The ``model_type`` of the text model in the class's default config; "" where it has no section of its own."""
    parts = getattr(transformers.CONFIG_MAPPING[kind], "sub_configs", {})
    try:
        text = getattr(transformers.CONFIG_MAPPING[kind](), "text_config", None) if "text_config" in parts else None
    except Exception:  # whatever a library raises is said by the verdict
        return ""
    return str(getattr(text, "model_type", ""))


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """Counts of verdicts; each class with its text model and the reason."""
    counts = [[str(sum(one["verdict"] == verdict for one in samples)) for verdict in VERDICTS]]
    rows = [
        [f"`{one['model_type']}`", f"`{one['text']}`" if one["text"] else "", one["verdict"], difference_or_reason(one)]
        for one in by_verdict(samples)
    ]
    heading = ["class", "text model", "edgepress", "largest difference, or why not"]
    return "\n\n".join([table(list(VERDICTS), counts), table(heading, rows)])


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_types", nargs="*", help="some of transformers' model_types; all by default")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    unknown = sorted(set(args.model_types) - set(classes()))
    if unknown:
        sys.exit(f"transformers {transformers.__version__} has no such class of a whole: {', '.join(unknown)}")
    samples = measure(args.model_types or sorted(classes()))
    if not args.model_types:
        print(save("coverage_wholes", samples), RESULTS)
    print(report(samples))


if __name__ == "__main__":
    main()
