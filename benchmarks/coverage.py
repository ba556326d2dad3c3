"""Which decoders that transformers knows are exported, and right: every causal-LM class, from its own default config.

Each class's default config is made small (tiny_configs.py), filled with random weights, exported in float32 and run:
prefill of a prompt and cached decode of greedy tokens, one at a time, beside transformers' own logits of the same text.

- right: no logit differs by more than ``TOLERANCE`` of the largest, and every greedy token is transformers'
- wrong: anything else that was exported
- refused: the export says why
- not made: transformers itself does not make or run a model of that config

The same checkpoints go through onnxruntime-genai's model builder, in float32; its text is right where each greedy
token has, within the same tolerance, the largest of transformers' logits.

    python benchmarks/coverage.py                     all of them, into results/coverage.jsonl (half an hour)
    python benchmarks/coverage.py --no-peers          ours anew; the builder's samples stay, while versions are these
    python benchmarks/coverage.py llama mamba2        print the verdicts of some
    python benchmarks/coverage.py --zoo FOLDER        of configs in files, {"config": …, "tiny": …}: printed
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import resource
import runpy
import sys
import tempfile
import traceback
import unittest.mock
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # the models are tiny
os.environ["HF_HUB_OFFLINE"] = "1"

import edgepress  # noqa: F401 - before onnxruntime, whose telemetry it switches off

# isort: split
import numpy as np
import torch
import transformers
from common import RESULTS, host, save
from coverage_tables import report
from numpy.typing import NDArray
from tiny_configs import VOCABULARY, draw, tiny_config
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import load

TOLERANCE = 1e-4  # of the largest logit
PROMPT, STEPS = 24, 32
SECONDS = 240  # for one class; the slowest take 20
BYTES = 8 << 30

Tokens = NDArray[np.int64]
Floats = NDArray[np.float32]
Verdict = dict[str, Any]


class Reference:
    """transformers' model, its logits of every position."""

    def __init__(self, checkpoint: Path, auto: Any) -> None:
        self.model = auto.from_pretrained(checkpoint, attn_implementation="eager", dtype=torch.float32).eval()

    def __call__(self, tokens: Tokens) -> Floats:
        """Logits (length, vocabulary) of a text (length,)."""
        with torch.inference_mode():
            found: Floats = self.model(torch.from_numpy(tokens)[None], use_cache=False).logits[0].float().numpy()
        return found


def try_class(
    config: transformers.PreTrainedConfig,
    seed: int,
    folder: Path,
    peers: bool,
    auto: Any = transformers.AutoModelForCausalLM,
) -> Verdict:
    """Verdicts on one small config: of edgepress, and with ``peers`` of onnxruntime-genai's builder.

    ``auto`` is one of transformers' classes that find a config's own.
    """
    checkpoint = folder / "checkpoint"
    try:
        _make(config, seed, checkpoint, auto)
        reference = Reference(checkpoint, auto)
        reference(_prompt())
    except Exception as error:  # whatever a library raises is a verdict
        return {"verdict": "not made", "reason": _said(error)}
    found = {**_ours(checkpoint, folder / "bundle", reference)}
    if peers:
        found["genai"] = _genai(checkpoint, folder, reference)
    return found


def _make(config: transformers.PreTrainedConfig, seed: int, checkpoint: Path, auto: Any) -> None:
    torch.manual_seed(seed)
    model = auto.from_config(config).eval()
    draw(model, seed)
    model.save_pretrained(checkpoint)
    tokenizer = Tokenizer(models.BPE(vocab={chr(256 + n): n for n in range(VOCABULARY)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    names = {f"{name}_token": chr(256 + number) for number, name in enumerate(("pad", "bos", "eos"))}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _prompt() -> Tokens:
    return np.random.default_rng(0).integers(3, VOCABULARY, PROMPT)


def _ours(checkpoint: Path, bundle: Path, reference: Reference) -> Verdict:
    try:
        manifest = export(checkpoint, recipe="fp32", out=bundle, threads=1, target="x86-cpu")
        if manifest.task is not None:
            return {"verdict": "refused", "reason": f"it is exported for {manifest.task.name}, and generates no text"}
    except InputError as error:
        return {"verdict": "refused", "reason": _said(error)}
    except Exception as error:  # whatever a library raises is a verdict
        traceback.print_exc()
        return {"verdict": "wrong", "reason": f"the export failed: {_said(error)}"}
    try:
        session = load(bundle, threads=1, prepared=False).session
        rows = [np.array(session.append(_prompt(), 0))]
        tokens = [*_prompt()]
        for _ in range(STEPS):
            tokens.append(int(rows[-1][-1].argmax()))
            rows.append(np.array(session.append([tokens[-1]])))
    except Exception as error:  # whatever a library raises is a verdict
        traceback.print_exc()
        return {"verdict": "wrong", "reason": f"it does not run: {_said(error)}"}
    found, expected = np.concatenate(rows), reference(np.array(tokens))
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    same = _near_greedy(expected, tokens)
    verdict = "right" if difference <= TOLERANCE and same else "wrong"
    reason = "" if verdict == "right" else f"logits differ by {difference:.1e} of the largest"
    return {"verdict": verdict, "reason": reason, "difference": difference}


def _near_greedy(expected: Floats, tokens: list[int]) -> bool:
    """Whether each token after the prompt has the largest logit, or one as large within the tolerance."""
    chosen = expected[np.arange(PROMPT - 1, len(tokens) - 1), tokens[PROMPT:]]
    return bool((expected[PROMPT - 1 : len(tokens) - 1].max(-1) - chosen <= TOLERANCE * np.abs(expected).max()).all())


def _genai(checkpoint: Path, folder: Path, reference: Reference) -> Verdict:
    out = folder / "genai"
    words = ["builder", "-i", str(checkpoint), "-o", str(out), "-p", "fp32", "-e", "cpu", "-c", str(folder / "cache")]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), unittest.mock.patch("sys.argv", words):
            runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__", alter_sys=True)
    except (Exception, SystemExit) as error:
        if not isinstance(error, SystemExit) or error.code:
            return {"verdict": "refused", "reason": _said(error) if str(error) else _last_line(said.getvalue())}
    try:
        import onnxruntime_genai as og

        model = og.Model(str(out))
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=PROMPT + STEPS, min_length=PROMPT + STEPS, do_sample=False)
        generator = og.Generator(model, parameters)
        generator.append_tokens(_prompt().astype(np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        tokens = [int(token) for token in generator.get_sequence(0)]
    except Exception as error:  # whatever a library raises is a verdict
        return {"verdict": "wrong", "reason": f"it does not run: {_said(error)}"}
    right = len(tokens) > PROMPT and _near_greedy(reference(np.array(tokens)), tokens)
    return {"verdict": "right" if right else "wrong", "reason": "" if right else "another text"}


def _said(error: BaseException) -> str:
    """The first line of an error, without the list of all that is known instead."""
    text = str(error).strip().partition("\n")[0].partition("; known: ")[0] or type(error).__name__
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text[:200]}"


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()] or [""]
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])[:200]


# ---- one process for each class --------------------------------------------------------------------------------------


def _child(send: Any, make: Callable[[], transformers.PreTrainedConfig], *how: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    with tempfile.TemporaryDirectory(prefix="edgepress-coverage-") as folder:
        try:
            config = make()
        except Exception as error:  # whatever a library raises is a verdict
            send.send({"verdict": "not made", "reason": _said(error)})
            return
        seed, peers, auto = how
        send.send(try_class(config, seed, Path(folder), peers, auto))


def apart(
    make: Callable[[], transformers.PreTrainedConfig],
    seed: int,
    peers: bool,
    auto: Any = transformers.AutoModelForCausalLM,
) -> Verdict:
    """:func:`try_class` in a process of its own, whose end, of memory or by a signal, is a verdict, too."""
    context = multiprocessing.get_context("fork")  # transformers is imported once
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(send, make, seed, peers, auto))
    process.start()
    send.close()
    try:
        if not receive.poll(SECONDS):
            process.kill()
            return {"verdict": "not made", "reason": f"not done in {SECONDS} s"}
        found: Verdict = receive.recv()
        return found
    except EOFError:
        process.join()
        return {"verdict": "wrong", "reason": f"the process ended with {process.exitcode}"}
    finally:
        process.join()


def classes() -> dict[str, str]:
    """Every ``model_type`` with a causal-LM class in the installed transformers, and that class."""
    return {kind: str(cls) for kind, cls in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()}


def measured_peers() -> dict[str, Verdict]:
    """The builder's verdicts of the committed samples, by class, where they are of today's versions."""
    path = RESULTS / "coverage.jsonl"
    if not path.is_file():
        return {}
    head, *samples = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    before, now = head["host"]["versions"], host()["versions"]
    if any(before[name] != now[name] for name in ("onnxruntime-genai", "transformers")):
        return {}
    return {sample["model_type"]: sample["genai"] for sample in samples if sample.get("genai")}


def measure(kinds: list[str], peers: bool) -> list[Verdict]:
    """A sample for each class, printed as they come."""
    samples, kept = [], {} if peers else measured_peers()
    for number, kind in enumerate(kinds, 1):
        beside = {"genai": kept[kind]} if kind in kept else {}
        verdict = apart(lambda kind=kind: tiny_config(kind), 1, peers)
        sample = {"model_type": kind, "class": classes()[kind], **beside, **verdict}
        print(f"{number}/{len(kinds)} {_line(sample)}", flush=True)
        samples.append(sample)
    return samples


def zoo(folder: Path) -> None:
    """Print the verdict on each file of a folder of real configs: ``config`` with the sizes of ``tiny``."""
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        values = {key: value for key, value in (content["config"] | content["tiny"]).items() if key != "dtype"}
        kind = values.pop("model_type")
        if not content["tiny"]:
            continue  # a wrapper of one of the others
        small = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1)
        verdict = apart(lambda: transformers.CONFIG_MAPPING[kind](**(values | small)), 1, peers=False)  # noqa: B023 - called within the loop
        print(_line({"model_type": path.stem, **verdict}), flush=True)


def _line(sample: Mapping[str, Any]) -> str:
    peer = sample.get("genai")
    beside = f" | genai {peer['verdict']} {peer['reason'][:60]}" if peer else ""
    difference = f" {sample['difference']:.1e}" if "difference" in sample else ""
    return f"{sample['model_type']}: {sample['verdict']}{difference} {sample['reason'][:160]}{beside}"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model_types", nargs="*", help="some of transformers' model_types; all by default")
    parser.add_argument("--no-peers", action="store_true", help="edgepress alone; the builder's samples stay")
    parser.add_argument("--zoo", type=Path, metavar="FOLDER", help="configs in files in the place of the classes")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if args.zoo:
        zoo(args.zoo)
        return
    if not args.no_peers:
        import onnxruntime_genai.models.builder  # noqa: F401 - once, not in each process
    unknown = sorted(set(args.model_types) - set(classes()))
    if unknown:
        sys.exit(f"transformers {transformers.__version__} has no causal-LM class for {', '.join(unknown)}")
    samples = measure(args.model_types or sorted(classes()), not args.no_peers)
    if not args.model_types:
        print(save("coverage", samples), RESULTS)
    print(report(samples))


if __name__ == "__main__":
    main()
