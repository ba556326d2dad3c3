"""What a provider's own compiler says of a model: each node, and for one that it leaves, what would change its mind.

A node that does not land is asked about alone, with the QuantizeLinear and DequantizeLinear next to it, and then in
changed forms, the smallest change first; the first that lands is reported. Questions go to a process of their own,
because compilers crash. Nodes of one kind are asked about once.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from edgepress.errors import InputError
from edgepress.onnx_graph.files import gather_external_data, read_model
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.onnx_graph.view import Graph, Node, view
from edgepress.onnx_graph.walk import all_nodes
from edgepress.targets import CPU, Soc, Target
from edgepress.targets.legality import probes
from edgepress.targets.legality.report import Cause, Placement
from edgepress.targets.legality.traps import find_traps
from edgepress.targets.providers import find_provider
from edgepress.targets.providers.child import Child

_TIMEOUT = 600.0  # seconds for a question
_QUESTIONS = 150  # about nodes alone in one model; a tenth of a second each
_LAYOUT = re.compile(r"_token_\d+$")  # what onnxruntime adds to a node's name when it changes its layout to NHWC
_FOLLOWERS = {"QuantizeLinear", "DequantizeLinear", "Constant"}
_NEVER = "Operators of type"  # what the QNN provider says of an operator that it has in no form


def place_all(path: Path, target: Target, soc: Soc | None = None) -> list[Placement]:
    """Return where ``target``'s provider puts each node of the model at ``path``, in the order of ``graph.view``.

    Raises:
        InputError: the file cannot be used, the provider's wheel is missing or does not take this machine, or
            ``target`` compiles for one chip and ``soc`` names none.

    """
    if target.socs and soc is None:
        chips = ", ".join(f"{one.name} ({one.description})" for one in target.socs)
        raise InputError(f"the compiler of {target.name} compiles for one chip; name it with --soc. Known: {chips}")
    model = read_model(path)
    with tempfile.TemporaryDirectory() as folder, Child(_TIMEOUT) as child, Child(_TIMEOUT) as listener:
        provider = find_provider(target.provider)
        provider.version()
        weights = gather_external_data(path, model)
        return _Questions(provider, child, listener, target, soc, Path(folder), weights).place(model)


@dataclass
class _Alone:
    """What is known of a node by asking about it alone."""

    cause: Cause = "op"
    reason: str = ""
    change: str = ""


@dataclass
class _Questions:
    provider: Any
    child: Child
    listener: Child  # asked verbosely: a backend's log level is fixed in a process when it is first used
    target: Target
    soc: Soc | None
    folder: Path
    weights: Path
    left: int = _QUESTIONS
    known: dict[bytes, _Alone] = field(default_factory=dict)

    def place(self, model: onnx.ModelProto) -> list[Placement]:
        names = [node.name for graph in view(model) for node in graph.nodes]
        named = onnx.ModelProto()
        named.CopyFrom(model)
        _name_nodes(named)
        graphs = view(named)
        whole = self._ask(named)
        if "absent" in whole:  # no answer of the provider's would be about the target
            raise InputError(whole["absent"])
        traps = {trap.node: trap for trap in find_traps(named, self.weights)} if self.soc else {}
        where = probes.Around(named, TensorReader(self.weights))
        placements = (
            self._without_session(graphs, where, whole["error"].removeprefix("the model: "))
            if "error" in whole
            else self._with_session(named, graphs, where, whole)
        )
        for index, node in enumerate(node for graph in graphs for node in graph.nodes):
            trap = traps.get(node.proto.name)
            if trap is not None and placements[index].runs_on == self.target.provider:
                placements[index] = _refused(node, trap.cause, trap.reason, trap.change, trap.fixed_by)
        return [_renamed(placement, name) for placement, name in zip(placements, names, strict=True)]

    def _ask(self, model: onnx.ModelProto, *, optimize: bool = True, verbose: bool = False) -> dict[str, Any]:
        file = self.folder / "model.onnx"
        file.write_bytes(model.SerializeToString())
        answer: dict[str, Any] = self.provider.ask(
            self.listener if verbose else self.child, file, self.weights, self.soc, optimize=optimize, verbose=verbose
        )
        return answer

    def _with_session(
        self, model: onnx.ModelProto, graphs: Sequence[Graph], where: probes.Around, whole: Mapping[str, Any]
    ) -> list[Placement]:
        runs_on = _providers(whole)
        reasons = dict(whole["unsupported"])
        nodes = [node for graph in graphs for node in graph.nodes]
        if set(runs_on.values()) != {self.target.provider} and any(node.proto.name not in runs_on for node in nodes):
            plain = self._ask(model, optimize=False)  # onnxruntime folded or fused some: how are they as they stand?
            runs_on = _providers(plain) | runs_on
            reasons = plain.get("unsupported", {}) | reasons
        placements: list[Placement] = []
        for graph in graphs:
            for node in graph.nodes:
                provider = runs_on.get(node.proto.name) or self._of_parent(graph, placements)
                placements.append(
                    Placement(node.name, node.op, node.domain, provider)
                    if provider == self.target.provider
                    else self._left(node, where, provider, reasons.get(node.proto.name, ""))
                )
        return placements

    def _of_parent(self, graph: Graph, placements: Sequence[Placement]) -> str:
        """Nodes that nobody runs are folded away; those of a subgraph run where the node does that holds it."""
        if not graph.path:
            return self.target.provider
        holders = [placement for placement in placements if graph.path.startswith(f"{placement.node}/")]
        return max(holders, key=lambda placement: len(placement.node)).runs_on if holders else CPU

    def _without_session(self, graphs: Sequence[Graph], where: probes.Around, error: str) -> list[Placement]:
        """No session can be made: which nodes are to blame is asked one by one."""
        placements: list[Placement] = []
        for graph in graphs:
            for node in graph.nodes:
                alone = self._alone(node, where, "") if node.op not in _FOLLOWERS else _Alone("neighbour")
                if alone.cause == "neighbour":
                    alone = _Alone("neighbour", f"no session can be made of the whole model: {error}")
                placements.append(_refused(node, alone.cause, alone.reason, alone.change))
        return placements

    def _left(self, node: Node, where: probes.Around, runs_on: str, reason: str) -> Placement:
        if node.op in _FOLLOWERS and not node.domain:
            words = "the node that it serves is not on the accelerator"
            return Placement(node.name, node.op, node.domain, runs_on, "neighbour", words, "change that node")
        alone = self._alone(node, where, reason)
        return Placement(node.name, node.op, node.domain, runs_on, alone.cause, alone.reason, alone.change)

    def _alone(self, node: Node, where: probes.Around, reason: str) -> _Alone:
        if _NEVER in reason:
            return _Alone("op", _clean(reason))
        model = probes.alone(node, where)
        if model is None:
            return _Alone("dynamic shape", _clean(reason) or "the rank of what it reads is not known")
        key = probes.kind_of(model)
        if key not in self.known:
            self.known[key] = self._probe(model, reason)
        return self.known[key]

    def _probe(self, model: onnx.ModelProto, reason: str) -> _Alone:
        """Ask about a model of one node as it is, with its shapes fixed, and with one change more."""
        as_it_is = self._alone_answer(model, verbose=True)
        if as_it_is is None:
            words = _clean(reason) or "not asked about alone: too many kinds of nodes were left"
            return _Alone(_cause_in_words(words), words)
        reason = "; ".join(filter(None, [_clean(reason or as_it_is.reason), *as_it_is.said]))
        reason = reason.removeprefix("Failed to add node.; ")  # the backend's own words say more
        if as_it_is.lands:
            return _Alone("neighbour", reason or "it lands when it is alone, and not between its neighbours")
        fixed = onnx.ModelProto()
        fixed.CopyFrom(model)
        prefix = ""
        if probes.fix_shapes(fixed):
            answer = self._alone_answer(fixed)
            if answer is not None and answer.lands:
                return _Alone("dynamic shape", reason, "fix its shapes")
            prefix = "fix its shapes and "
        for change in probes.changes(fixed):
            changed = onnx.ModelProto()
            changed.CopyFrom(fixed)
            if change.apply(changed):
                answer = self._alone_answer(changed)
                if answer is not None and answer.lands:
                    return _Alone(change.cause, reason, prefix + change.text)
        cause: Cause = "dynamic shape" if prefix else _cause_in_words(reason)
        return _Alone(cause, reason or "the provider does not say why")

    def _alone_answer(self, model: onnx.ModelProto, *, verbose: bool = False) -> "_Answer | None":
        if not self.left:
            return None
        self.left -= 1
        answer = self._ask(model, verbose=verbose)
        said = answer.get("said", [])[:1]  # the first is the cause, the others follow from it
        if "error" in answer:
            return _Answer(False, answer["error"].removeprefix("the model: "), said)
        runs_on = _providers(answer)
        # a node that onnxruntime folds away alone, as all that it reads is constant, is computed nowhere
        lands = runs_on.get(probes.PROBE, CPU) == self.target.provider
        return _Answer(lands, answer["unsupported"].get(probes.PROBE, ""), said)


@dataclass(frozen=True)
class _Answer:
    lands: bool
    reason: str
    said: list[str]


def _providers(answer: Mapping[str, Any]) -> dict[str, str]:
    """Where each node runs, by the name that the model gives it."""
    return {_LAYOUT.sub("", name): provider for name, _, _, provider in answer.get("nodes", [])}


def _refused(node: Node, cause: Cause, reason: str, change: str, fixed_by: str = "") -> Placement:
    return Placement(node.name, node.op, node.domain, "", cause, reason, change, fixed_by)


def _renamed(placement: Placement, name: str) -> Placement:
    from dataclasses import replace

    return replace(placement, node=name)


def _clean(reason: str) -> str:
    """The provider's words on one line, without the name that the question gave the node."""
    words = " ".join(reason.split()).replace(f" in the node '{probes.PROBE}'", "")
    return re.sub(r"(?<=[.])\w+ node `[^`]*` will not be.*", "", words)


def _cause_in_words(reason: str) -> Cause:
    """What the provider's words blame, for a node that no change helps."""
    blamed: dict[str, Cause] = {
        r"\brank\b": "rank",
        r"data ?type": "dtype",
        r"constant|initializer|dynamic \w+ input": "constant",
        r"dynamic|cannot get shape": "dynamic shape",
    }
    return next((cause for words, cause in blamed.items() if re.search(words, reason, re.IGNORECASE)), "op")


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give every node, in subgraphs too, a name that no other has."""
    taken: set[str] = set()
    for node in all_nodes(model.graph.node):
        base = node.name or next(filter(None, node.output), node.op_type)
        name, number = base, 1
        while name in taken or _LAYOUT.search(name):
            number += 1
            name = f"{base}#{number}"
        taken.add(name)
        node.name = name
