"""``edgepress run --prompts``: many prompts of a file, answered side by side, a JSON line for each in their order."""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.terminal.stdio import say

if TYPE_CHECKING:
    from edgepress.runtime import Generation, Model

_AT_ONCE = 4
_KEYS = ("prompt", "id")


@dataclass(frozen=True)
class Prompt:
    """One line of a file: its ``number``, from 1, the prompt, and whatever it has as its ``id``."""

    number: int
    text: str
    id: object = None


def add_prompts_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what answers a file of prompts."""
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help='answer a prompt a line, of JSON lines (.jsonl) each {"prompt": "…"} with an "id" if you like; - reads '
        "lines from stdin. Answers are JSON lines in the same order",
    )
    parser.add_argument(
        "--at-once", type=int, metavar="N", help=f"with --prompts: answer N side by side (default: {_AT_ONCE})"
    )


def read_prompts(source: str) -> list[Prompt]:
    """The prompts of a file, or of stdin; empty lines are left out.

    Raises:
        InputError: a line is not what it must be, which is named before anything is computed, or there is none.

    """
    from edgepress.errors import InputError
    from edgepress.schema import parse_object
    from edgepress.text.documents import is_lines, read_standard_input, read_text

    path, where = Path(source), "stdin" if source == "-" else source
    lines = (read_standard_input() if source == "-" else read_text(path)).split("\n")  # JSON may have U+2028 as it is
    of_json = source != "-" and is_lines(path)
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not of_json:
            found.append(Prompt(number, line.removesuffix("\r")))
            continue
        entry = parse_object(line.encode(), f"{where}, line {number}", 'write {"prompt": "…"}')
        prompt, others = entry.get("prompt"), sorted(entry.keys() - set(_KEYS))
        if not isinstance(prompt, str) or others:
            wrong = f"has {others[0]!r}" if others else f"has the prompt {prompt!r:.60}"
            raise InputError(f'{where}, line {number} {wrong}; a line has a "prompt", a text, and an "id" if you like')
        found.append(Prompt(number, prompt, entry.get("id")))
    if not found:
        raise InputError(f"{where} has no prompt; give one a line")
    return found


def answer_prompts(
    model: "Model",
    prompts: list[Prompt],
    generate: "Callable[[Model, str], Generation]",
    at_once: int | None,
    *,
    begin: "Callable[[Model], object]",
    alone: bool,
) -> int:
    """Print the answers; return 1 when there is none to one of the prompts, else 0.

    ``begin`` is called with each of the models that answer. With ``alone`` prompts are answered one after the other in
    the model's own text: how they are found takes more texts than one, or an accelerator holds no other.
    """
    from edgepress.errors import InputError
    from edgepress.runtime.turns.side_by_side import in_order, side_by_side
    from edgepress.whole import whole_number

    if at_once is not None and alone:
        raise InputError(
            "--at-once is for prompts that are answered on the CPU, a token each in turn; leave it out with --beams, "
            "--speculate, --contrast and an accelerator"
        )
    count = whole_number("--at-once", _AT_ONCE if at_once is None else at_once)
    models = [model] if alone else side_by_side(model, min(count, len(prompts)))
    for one in models:
        begin(one)
    failed = tokens = 0
    for prompt, answered in zip(
        prompts, in_order(models, prompts, lambda one, it: generate(one, it.text)), strict=True
    ):
        line: dict[str, object] = {"line": prompt.number} | ({} if prompt.id is None else {"id": prompt.id})
        if answered.error is None and answered.generation is not None:
            tokens += len(answered.generation.tokens)
            line |= {"answer": answered.text, "tokens": len(answered.generation.tokens)}
            line |= {"ended_by": answered.generation.stop_reason}
        else:
            failed += 1
            line["error"] = str(answered.error)
        print(json.dumps(line, ensure_ascii=False), flush=True)
    say(f"{len(prompts)} prompts, {len(models)} side by side: {tokens} tokens" + (f"; {failed} failed" * bool(failed)))
    return 1 if failed else 0
