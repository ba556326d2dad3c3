"""What is known of an export so far: each stage takes one of these and returns one with more in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import onnx

from edgepress.bundle.adapter_slots import AdapterSlots
from edgepress.bundle.mtp import MTP_FILE
from edgepress.exporter.bundle.cpu_graph import make_graphs, make_mtp_graph, named_graph, planned_graphs
from edgepress.exporter.bundle.genai_config import make_genai_config
from edgepress.exporter.bundle.write import write_models
from edgepress.exporter.model.description import Decoder, layer_weights
from edgepress.exporter.model.reading import GENERATION, notes, read_decoder
from edgepress.exporter.plan.making import in_pairs, make_plan
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.plan.planned import Planned
from edgepress.exporter.recipe.decisions import Decisions
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.hub import Origin
from edgepress.exporter.tokens.chat_vectors import compare_genai, write_vectors
from edgepress.exporter.tokens.source_tokenizer import compare_with_transformers
from edgepress.targets import FALLBACK, Soc, Target, faster_forms, find_target
from edgepress.terminal.progress import Progress

if TYPE_CHECKING:
    from edgepress.exporter.learn.pruning.run import Pruned  # needs torch


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What the user has and asks for."""

    checkpoint: Checkpoint
    asked: Recipe  # with the context length and the text that the caller gave; nothing rewrites it
    targets: tuple[Target, ...]
    socs: tuple[Soc, ...] = ()  # chips that the targets which have some are compiled for
    why_recipe: str = ""  # why it is this recipe, when none was named
    origin: Origin | None = None  # the repository of the hub that the model came from
    adapter_slots: AdapterSlots | None = None  # what takes an adapter when the bundle runs

    @property
    def cpu(self) -> Target:
        """The CPU whose kernels the bundle's own graph is made for; accelerators fall back to it."""
        return next((target for target in self.targets if target.is_cpu), find_target(FALLBACK))


@dataclass(frozen=True, kw_only=True)
class Shrunk(Opened):
    """The same, after the steps of a recipe that prunes: ``checkpoint`` is what the last of them wrote."""

    pruned: Pruned | None = None  # what the steps made, and the checkpoint that they began with

    @property
    def original(self) -> Checkpoint:
        """The checkpoint that the user named."""
        return self.checkpoint if self.pruned is None else self.pruned.original

    @property
    def steps(self) -> tuple[Mapping[str, object], ...]:
        """What each step came to, as the manifest keeps it."""
        return () if self.pruned is None else self.pruned.steps

    @property
    def draft(self) -> Opened | None:
        """The draft model that the recipe asks for, as an export of its own, from what the steps left."""
        asked = self.asked.draft
        return None if asked is None else Opened(checkpoint=self.checkpoint, asked=asked.recipe, targets=(self.cpu,))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how the checkpoint was read; see :func:`.reading.notes`."""
        return notes(self.original, read_decoder(self.original), mtp=self.asked.mtp)


@dataclass(frozen=True, kw_only=True)
class Prepared(Planned, Shrunk):
    """Everything that is decided before a weight is rounded.

    ``recipe`` is what was asked with the ``decisions`` put in: what the stages after this one go by.
    """

    decisions: Decisions = field(default_factory=Decisions)
    budget: dict[str, object] | None = None  # what was measured for the recipe's budget, and what it came to
    drafted: Prepared | None = None  # the draft model that the recipe asks for, where a plan is all that is wanted

    @property
    def task(self) -> None:
        """A language model has no other."""

    def decided(self, decisions: Decisions) -> Self:
        """The same with other decisions, planned anew where they are others."""
        if decisions == self.decisions:
            return self
        recipe = decisions.applied(self.asked)
        plan = plan_tensors(self.checkpoint, self.decoder, recipe, self.targets, self.adapter_slots)
        return replace(self, decisions=decisions, recipe=recipe, plan=plan)

    @cached_property
    def _graphs(self) -> Mapping[str, onnx.ModelProto]:
        return make_graphs(self, self.cpu)

    def make_graphs(self) -> Mapping[str, onnx.ModelProto]:
        """The CPU graphs by their files; they are made once, and nobody changes them.

        Raises:
            InputError: onnxruntime's CPU provider lacks a kernel for a node.

        """
        return self._graphs

    def with_float32_scales(self, tensors: Mapping[str, str]) -> Self:
        """The same with scales of these tensors in float32, for what reason; their layers compute in float32 too."""
        whole = self.recipe.activations.type == "float16"  # else products are in float32 anyway
        layers = {
            f"layers.{index}": f"{weight.name}: {tensors[weight.name]}"
            for index, layer in enumerate(self.decoder.layers)
            for weight in layer_weights(layer)
            if whole and weight.name in tensors
        }
        return self.decided(replace(self.decisions, float32_scales=tensors, kept_layers=layers))

    def write_files(self, bundle: Path) -> None:
        """Write the CPU graphs, the tokenizer, what its chat template comes to, and ``genai_config.json``."""
        checkpoint, named = self.checkpoint, named_graph(planned_graphs(self), self.targets)
        config = make_genai_config(self.decoder, self.plan, checkpoint.config, checkpoint.json(GENERATION), named)
        graphs = dict(self.make_graphs())
        if (further := make_mtp_graph(self, self.cpu)) is not None:
            graphs[MTP_FILE] = further
        write_models(bundle, self, graphs, config)
        write_vectors(bundle, checkpoint)
        compare_genai(bundle)

    def score(self, bundle: Path, progress: Progress) -> dict[str, object]:
        """Compare graph and tokenizer with transformers' own; see :mod:`edgepress.exporter.bundle.parities.decoder`."""
        from edgepress.exporter.bundle.parities.decoder import parity

        texts = compare_with_transformers(bundle, self.checkpoint)
        found = parity(bundle, self, cpu=self.cpu, progress=progress)
        return {**found, "texts_tokenized_alike": texts}


def plan_tensors(
    checkpoint: Checkpoint,
    decoder: Decoder,
    recipe: Recipe,
    targets: Sequence[Target],
    adapter_slots: AdapterSlots | None = None,
) -> Plan:
    """The plan of a checkpoint's tensors, which knows how wide their elements are stored, for the targets' kernels."""
    plan = in_pairs(make_plan(decoder, recipe, checkpoint.itemsize), faster_forms(targets))
    return replace(plan, adapter_slots=adapter_slots)
