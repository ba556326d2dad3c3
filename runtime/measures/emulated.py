"""A bundle on emulated processors, compared with the host: text, logits and bits per byte.

    from edgepress.runtime.measures.emulated import compare_bundles
    from edgepress.targets.emulator import setup

    [found] = compare_bundles(setup(), ["bundle"], ["cortex-a53"], prompt="ROMEO:", max_tokens=32)
    assert found.same_text

Both sides run this runtime. Besides the greedy text, logits are compared where both have seen the same tokens: one
different token early in a text makes everything after it different, and says little. So the host's text is given to
both, once token by token (decode) and once in one piece (prefill), for these take different kernels.

Of a bundle with several graphs each processor runs the one that is for it, and the host the last, which every processor
can run: the float32 one, which the others are compared with.
"""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.manifest import MANIFEST_NAME, read_manifest
from edgepress.calls.guest import Answer, Arrays
from edgepress.errors import CheckFailed, InputError
from edgepress.runtime.graph_file.first_use import verify_first
from edgepress.runtime.measures.evaluate import evaluate
from edgepress.runtime.model import Model, load
from edgepress.targets.emulator import Agreement, Call, Installation, agreement, run
from edgepress.targets.emulator.machine import check_cpu, versions_on

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class BundleComparison:
    """What a bundle generates on one processor, and how that agrees with the host.

    - ``first_difference``: index of the first generated token that is another one; None when all are the same
    - ``agreements``: of the logits along the host's text, given token by token (``decode``) and at once (``prefill``)
    - ``bits_per_byte``: of the documents, here (``host_``) and there; None when none were given
    - ``graph``: what ran, here (``host_``) and there; None for a bundle with one graph
    """

    bundle: str
    cpu: str
    prompt_tokens: int
    host_text: str
    text: str
    host_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    first_difference: int | None
    agreements: dict[str, Agreement]
    host_bits_per_byte: float | None
    bits_per_byte: float | None
    host_graph: str | None
    graph: str | None
    versions: dict[str, str]

    @property
    def same_text(self) -> bool:
        """Whether every generated token is the host's."""
        return self.first_difference is None

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        agreements = {name: entry.to_json() for name, entry in self.agreements.items()}
        return asdict(self) | {"host": platform.machine(), "same_text": self.same_text, "agreements": agreements}

    def describe(self) -> str:
        """As lines for a terminal."""
        count = len(self.host_tokens)
        said = f"the same, {count} tokens" if self.same_text else f"another one from token {self.first_difference} on"
        lines = [f"{self.cpu}"]
        if self.graph is not None:
            lines.append(f"  graph          {self.graph}, here {self.host_graph}")
        lines.append(f"  greedy text    {said}")
        if not self.same_text:
            lines += [f"    here         {self.host_text!r}", f"    there        {self.text!r}"]
        lines += [f"  {name:14} {entry.describe()}" for name, entry in self.agreements.items()]
        if self.bits_per_byte is not None:
            lines.append(f"  bits per byte  {self.bits_per_byte:.4f}, here {self.host_bits_per_byte:.4f}")
        return "\n".join(lines)


def compare_bundles(
    installation: Installation,
    bundles: Sequence[str | Path],
    cpus: Sequence[str],
    *,
    prompt: str,
    max_tokens: int = 32,
    documents: Sequence[str] = (),
    context: int = 256,
    threads: int = 1,
    graph: str | None = None,
    timeout: float | None = None,
) -> list[BundleComparison]:
    """Run bundles on the host, then on each processor in one process; return a comparison for each pair, by processor.

    Args:
        installation: what :func:`edgepress.targets.emulator.setup` returned.
        bundles: directories that an export wrote.
        cpus: processors to emulate.
        prompt: text to continue greedily.
        max_tokens: tokens to generate at most.
        documents: what to measure bits per byte on; nothing is measured without.
        context: tokens of each window of that, as in :func:`edgepress.runtime.evaluate`; each brings half of it.
        threads: compute threads on either side.
        graph: what emulated processors run, by its file; by default the one that is for them.
        timeout: seconds that one processor may take.

    Raises:
        InputError: what cannot be used on the host, or there is no such processor.
        CheckFailed: it ran on the host and not there, or its tokenizer gives other tokens there.

    """
    for cpu in cpus:
        check_cpu(installation, cpu)
    for bundle in bundles:
        verify_first(Path(bundle))  # here: an emulated processor hashes slowly
    asked = [
        {
            "bundle": str(Path(bundle).resolve()),
            "prompt": prompt,
            "max_tokens": max_tokens,
            "documents": list(documents),
            "context": context,
            "threads": threads,
        }
        for bundle in bundles
    ]
    hosts = [
        answer(arguments | {"graph": _last_graph(Path(bundle))}, {})
        for bundle, arguments in zip(bundles, asked, strict=True)
    ]
    calls = [
        Call(answer, arguments | {"graph": graph}, {"follow": np.array(said["tokens"], np.int64)})
        for arguments, (said, _) in zip(asked, hosts, strict=True)
    ]
    found = []
    for cpu in cpus:
        try:
            guests = run(installation, cpu, calls, timeout=timeout)
        except InputError as error:
            raise CheckFailed(f"runs on the host and not on {cpu}: {error}") from error
        for bundle, host, guest in zip(bundles, hosts, guests, strict=True):
            found.append(_compare(str(bundle), cpu, host, guest, versions_on(installation, cpu)))
    return found


def _last_graph(bundle: Path) -> str | None:
    """The graph that every processor runs; None where there is one only."""
    graphs = read_manifest(bundle).graphs if (bundle / MANIFEST_NAME).is_file() else ()
    return graphs[-1].file if graphs else None


def _compare(bundle: str, cpu: str, host: Answer, guest: Answer, versions: dict[str, str]) -> BundleComparison:
    (here, here_logits), (there, there_logits) = host, guest
    if here["prompt"] != there["prompt"]:
        raise CheckFailed(
            f"{bundle}: its tokenizer gives other tokens on {cpu}: {there['prompt']}, not {here['prompt']}"
        )
    pairs = zip(here["tokens"], there["tokens"], strict=False)
    parted = next((index for index, (left, right) in enumerate(pairs) if left != right), None)
    if parted is None and len(here["tokens"]) != len(there["tokens"]):
        parted = min(len(here["tokens"]), len(there["tokens"]))
    return BundleComparison(
        bundle=bundle,
        cpu=cpu,
        prompt_tokens=len(here["prompt"]),
        host_text=here["text"],
        text=there["text"],
        host_tokens=tuple(here["tokens"]),
        tokens=tuple(there["tokens"]),
        first_difference=parted,
        agreements={name: agreement(here_logits[name], there_logits[name], scores=True) for name in here_logits},
        host_bits_per_byte=here["bits_per_byte"],
        bits_per_byte=there["bits_per_byte"],
        host_graph=here["graph"],
        graph=there["graph"],
        versions=versions,
    )


def answer(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """Run a bundle on the machine that this is called on: greedy text, logits along ``follow``, bits per byte.

    ``follow`` (length,) are generated tokens; without them it follows its own.
    """
    bundle, threads, documents = arguments["bundle"], arguments["threads"], arguments["documents"]
    graph = arguments["graph"]
    model = load(bundle, threads=threads, graph=graph, prepared=False, verify=False)
    generation = model.generate(arguments["prompt"], max_tokens=arguments["max_tokens"])
    text = generation.text()
    prompt = generation.prompt
    follow = arrays.get("follow", np.array(generation.tokens)).astype(np.int64)
    logits: Arrays = {"decode": _decode(model, prompt, follow), "prefill": _prefill(model, prompt, follow)}
    bits = None
    if documents:
        context = min(arguments["context"], model.config.context_length)
        bits = evaluate(
            bundle, documents, context=context, stride=context // 2, threads=threads, graph=graph, prepared=False,
            verify=False,
        ).bits_per_byte  # fmt: skip
    said = {"prompt": prompt, "tokens": generation.tokens, "text": text, "graph": model.config.graph}
    return said | {"bits_per_byte": bits}, logits


def _decode(model: Model, prompt: Sequence[int], follow: Tokens) -> Floats:
    """Logits that predict each token of ``follow``, (length, vocab), after those before it, one at a time."""
    model.reset()
    rows = [model.prefill(prompt).copy()]
    rows += [model.decode(int(token)).copy() for token in follow[:-1]]
    return np.stack(rows)


def _prefill(model: Model, prompt: Sequence[int], follow: Tokens) -> Floats:
    """Logits that predict each token of prompt and ``follow`` but the first, (length − 1, vocab), in one piece."""
    model.reset()
    tokens = np.array([*prompt, *follow], np.int64)
    return model.session.append(tokens[:-1], 0, total=tokens.size).copy()
