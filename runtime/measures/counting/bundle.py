"""Bundles counted on emulated machines, as seen from the machine that boots them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgepress.errors import InputError
from edgepress.runtime.config import read_config
from edgepress.runtime.graph_file.first_use import verify_first
from edgepress.runtime.measures.counting.machine import count
from edgepress.runtime.measures.counting.operators import OperatorCost
from edgepress.runtime.measures.counting.touched import Weights, weights_of
from edgepress.targets.emulator import Call, Installation, System
from edgepress.targets.emulator.machine import check_cpu
from edgepress.targets.emulator.system import boot
from edgepress.whole import whole_number

OUTSIDE, BETWEEN = "Python", "between operators"


@dataclass(frozen=True)
class CallCost:
    """One call of a bundle's graph: ``tokens`` at once, after a text of ``context`` tokens; one thread.

    - ``instructions``: all of them; ``in_onnxruntime``: those while its session ran
    - ``operators``: those of each operator, the most expensive first; None where nobody asked
    - ``weight_bytes_loaded``, ``state_bytes_loaded``, ``state_bytes_stored``: computed from shapes, not measured: every
      constant once for each operator that reads it, of a table the rows of the tokens; every state once
    """

    tokens: int
    context: int
    instructions: int
    in_onnxruntime: int
    weight_bytes_loaded: int
    state_bytes_loaded: int
    state_bytes_stored: int
    operators: Mapping[str, OperatorCost] | None = None

    @property
    def parts(self) -> dict[str, int]:
        """Instructions of each operator and of what is around them; their sum is ``instructions``."""
        operators = {name: cost.instructions for name, cost in (self.operators or {}).items()}
        rest = {
            BETWEEN: self.in_onnxruntime - sum(operators.values()),
            OUTSIDE: self.instructions - self.in_onnxruntime,
        }
        return operators | rest

    def describe(self) -> str:
        """As lines for a terminal."""
        title = "decode" if self.tokens == 1 else "prefill"
        each = "" if self.tokens == 1 else f", {self.instructions / self.tokens:,.0f} a token"
        lines = [
            f"  {title:8} {self.instructions:15,} instructions{each}: {_tokens(self.tokens)} after {self.context:,}",
            f"           {self.weight_bytes_loaded / 1e6:.2f} MB of weights and {self.state_bytes_loaded / 1e6:.2f} MB "
            f"of states to load, {self.state_bytes_stored / 1e6:.3f} MB to store (computed from shapes)",
        ]
        if self.operators is not None:
            width = max(map(len, self.parts))
            for name, instructions in self.parts.items():
                count = f"  {self.operators[name].nodes} ×" if name in self.operators else ""
                lines.append(f"    {name:{width}} {instructions:15,}  {instructions / self.instructions:6.1%}{count}")
        return "\n".join(lines)


@dataclass(frozen=True)
class BundleCost:
    """Instructions that a bundle takes on one processor, with one thread: a deterministic cost, not a latency.

    Of opening it (``load``); of a prompt in one piece (``prefill``) and of each token after the first (``decode``),
    where there was a prompt; and of ``calls``. All but ``load`` are taken after a first run, which pays for memory.
    ``graph`` is the file of the bundle that was run.
    """

    bundle: str
    cpu: str
    graph: str
    load: int
    prompt_tokens: int | None
    prefill: int | None
    decode: tuple[int, ...]
    calls: tuple[CallCost, ...]
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)

    def describe(self) -> str:
        """As lines for a terminal."""
        lines = [self.cpu, f"  load     {self.load:15,} instructions"]
        if self.prefill is not None:
            lines.append(f"  prefill  {self.prefill:15,} instructions, {self.prompt_tokens} tokens")
        if self.decode:
            mean = sum(self.decode) / len(self.decode)
            lines.append(f"  decode   {mean:15,.0f} instructions a token, {len(self.decode)} tokens")
        return "\n".join([*lines, *(call.describe() for call in self.calls)])


def count_bundles(
    installation: Installation,
    system: System,
    bundles: Sequence[str | Path],
    cpus: Sequence[str],
    *,
    prompt: str | None = None,
    max_tokens: int = 32,
    prefill: Sequence[int] = (),
    contexts: Sequence[int] = (),
    by_operator: bool = False,
    graph: str | None = None,
    adapter: Path | None = None,
    timeout: float | None = None,
) -> list[BundleCost]:
    """Count the instructions of bundles on emulated machines; return the cost of each pair, by processor.

    After each of ``contexts`` one token is decoded, and as many as each of ``prefill`` says are computed at once (in
    pieces of the runtime's size). The text before them is made up: its keys and values are random numbers, which take
    as many instructions as real ones.

    Args:
        installation: what :func:`edgepress.targets.emulator.setup` returned.
        system: what :func:`edgepress.targets.emulator.setup_system` returned.
        bundles: directories that an export wrote.
        cpus: processors to emulate; each boots a machine, which takes half a minute.
        prompt: text to continue greedily; None counts no text.
        max_tokens: tokens to generate at most.
        prefill: lengths of prompts.
        contexts: tokens that a text has before them; without any, prompts begin a text and nothing is decoded.
        by_operator: split each call by operator, by running it once more in a session that profiles itself.
        graph: what is run of each bundle, by its file; by default the graph that is for the processor.
        adapter: a file that each bundle applies.
        timeout: seconds that one processor may take.

    Raises:
        InputError: a bundle, the prompt or a length cannot be used, or there is no such processor.
        CheckFailed: the machine ended without an answer.

    """
    for cpu in cpus:
        check_cpu(installation, cpu)
    calls = calls_of(prefill, contexts)
    for bundle in bundles:
        verify_first(Path(bundle))
        _check_room(Path(bundle), calls, graph)  # what is no bundle is said here, not by a machine after half a minute
    places = {f"bundle/{number}": Path(bundle).resolve() for number, bundle in enumerate(bundles)}
    asked = {
        "prompt": prompt,
        "max_tokens": max_tokens,
        "calls": calls,
        "context": max((sum(call) for call in calls), default=None) if prompt is None else None,
        "by_operator": by_operator,
        "graph": graph,
        "adapter": None if adapter is None else "/adapter",
    }
    file = {} if adapter is None else {"adapter": adapter.resolve()}
    found = []
    for cpu in cpus:
        answers = boot(
            installation,
            system,
            cpu,
            [Call(count, {"bundle": f"/{place}", **asked}) for place in places],
            places | file,
            timeout=timeout,
        )
        versions = installation.versions | system.versions
        found += [cost_of(str(bundle), cpu, told, versions) for bundle, told in zip(bundles, answers, strict=True)]
    return found


def calls_of(prefill: Sequence[int], contexts: Sequence[int]) -> list[tuple[int, int]]:
    """What is called: tokens at once, and tokens of the text before. InputError where one is no such number."""
    for length in prefill:
        whole_number("a prompt length", length)
    for context in contexts:
        whole_number("a context", context)
    if not contexts:
        return [(length, 0) for length in prefill]
    return [(tokens, context) for context in contexts for tokens in (1, *prefill)]


def _check_room(bundle: Path, calls: Sequence[tuple[int, int]], graph: str | None) -> None:
    longest = read_config(bundle, graph).context_length
    for tokens, context in calls:
        if tokens + context > longest:
            raise InputError(
                f"{_tokens(tokens)} after {context:,} do not fit in the context of {bundle}, {longest:,} tokens; "
                "give a shorter prompt or context"
            )


def cost_of(bundle: str, cpu: str, told: Mapping[str, Any], versions: dict[str, str]) -> BundleCost:
    """What a machine told of a bundle, with the bytes of its weights beside it."""
    weights = weights_of(Path(bundle) / told["graph"])
    prompt = told.get("prompt", {})
    return BundleCost(
        bundle=bundle,
        cpu=cpu,
        graph=told["graph"],
        load=told["load"],
        prompt_tokens=prompt.get("tokens"),
        prefill=prompt.get("prefill"),
        decode=tuple(prompt.get("decode", ())),
        calls=tuple(_call_cost(call, weights) for call in told["calls"]),
        versions=versions,
    )


def _call_cost(told: Mapping[str, Any], weights: Weights) -> CallCost:
    operators = told.get("operators")
    return CallCost(
        tokens=told["tokens"],
        context=told["context"],
        instructions=told["instructions"],
        in_onnxruntime=told["in_onnxruntime"],
        weight_bytes_loaded=weights.bytes_of(told["tokens"]),
        state_bytes_loaded=told["state_bytes_loaded"],
        state_bytes_stored=told["state_bytes_stored"],
        operators=None if operators is None else {name: OperatorCost(**cost) for name, cost in operators.items()},
    )


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count:,} tokens"
