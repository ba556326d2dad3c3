"""Everything that is decided of an encoder-decoder before a weight is read; see :mod:`.prepare` for language models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import onnx

from edgepress import __version__
from edgepress.errors import InputError
from edgepress.exporter.bundle.cpu_graph import check_legal
from edgepress.exporter.bundle.files import DATA_FILE, copy_tokenizer, write_manifest
from edgepress.exporter.bundle.forms import find_form
from edgepress.exporter.bundle.parities.encoder_decoder import parity_encoder_decoder
from edgepress.exporter.bundle.stream import Made
from edgepress.exporter.bundle.write import write_data
from edgepress.exporter.decide.checks import check_recipe
from edgepress.exporter.decide.opening import ask_recipe, find_targets, refuse_unheeded
from edgepress.exporter.doors.processing.sound import read_sound
from edgepress.exporter.graph.models.encoder_decoder import build_encoder, build_target
from edgepress.exporter.learn.graphs.asked import check_graph_methods, looks, planned_recipe, suited
from edgepress.exporter.model.encoder_decoders.description import EncoderDecoder, MadeWeights
from edgepress.exporter.model.encoder_decoders.families import (
    model_types,
    open_encoder_decoder,
    read_encoder_decoder,
)
from edgepress.exporter.model.encoder_decoders.settings import read_task
from edgepress.exporter.plan.making import in_pairs, make_plan
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.hub import find_whole, read_config
from edgepress.exporter.tokens.source_tokenizer import check_tokenizer
from edgepress.targets import FALLBACK, Soc, Target, faster_forms, find_target
from edgepress.tasks.sequences import DECODER_FILE, ENCODER_FILE
from edgepress.tasks.task import Task
from edgepress.terminal.progress import Progress, silent

_WRITES = ("ForConditionalGeneration", "Model")  # how names of classes end that write targets, with a head or without
_ENCODER = "EncoderModel"  # how those of encoders alone
RECIPE = "int8"
"""The recipe of an encoder-decoder when none is named."""
IN_FLOAT = "fp16"
"""The recipe when none is named and an accelerator is among its targets, which takes no weights alone in integers."""
STATIC = "static"  # the form of targets that take both graphs


@dataclass(frozen=True, kw_only=True)
class PreparedEncoderDecoder:
    """A checkpoint of an encoder and a decoder, the recipe, and what will be done to each weight.

    ``made`` is what methods made of weights that look at what the model computes.
    """

    checkpoint: Checkpoint
    description: EncoderDecoder
    recipe: Recipe
    plan: Plan
    task: Task
    targets: tuple[Target, ...]
    socs: tuple[Soc, ...] = ()
    notes: tuple[str, ...] = ()
    made: Made | None = None

    @property
    def file(self) -> Path:
        """What was opened."""
        return self.checkpoint.directory

    @property
    def source(self) -> MadeWeights:
        """Where its weights are read."""
        return MadeWeights(self.checkpoint, self.description.made)

    def graphs(self) -> dict[str, onnx.ModelProto]:
        """The two graphs by their files; InputError when a target's CPU lacks a kernel for one."""
        found = {
            name: build(self.description, self.plan, data_file=DATA_FILE, version=__version__)
            for name, build in ((ENCODER_FILE, build_encoder), (DECODER_FILE, build_target))
        }
        cpus = [target for target in self.targets if target.is_cpu] or [find_target(FALLBACK)]
        for graph in found.values():
            for target in cpus:
                check_legal(graph, target)
        return found

    def write_files(self, bundle: Path) -> None:
        """Write the graphs and the tokenizer."""
        for name, graph in self.graphs().items():
            (bundle / name).write_bytes(graph.SerializeToString(deterministic=True))
        copy_tokenizer(self.checkpoint, bundle)

    def score(self, bundle: Path, progress: Progress) -> dict[str, object]:
        """How near the bundle's logits are to transformers'."""
        return parity_encoder_decoder(bundle, self.checkpoint, self.description, self.plan, progress)

    def learn(self, samples: Sequence[str | Path], folder: Path, *, threads: int | None, progress: Progress) -> Self:
        """Do what methods learn on ``samples``; what lies in files meanwhile is in ``folder``.

        Raises:
            InputError: samples cannot be used, or a method changes what cannot be changed here.

        """
        if not looks(self.recipe):
            return self
        from edgepress.exporter.learn.graphs.made import MadeRows
        from edgepress.exporter.learn.graphs.sequences import learn_sequences

        bundle = folder / "float"
        bundle.mkdir()
        in_float = read_recipe("fp32")
        plan = make_plan(self.description, in_float, self.source.itemsize)
        floats = replace(self, recipe=in_float, plan=plan)
        reports = write_data(bundle, floats, None, threads=threads, progress=silent)
        floats.write_files(bundle)
        write_manifest(bundle, floats, reports, recipe=in_float, task=self.task)
        found = learn_sequences(
            bundle, samples, self.recipe, self.plan, folder=folder, threads=threads, progress=progress
        )
        made = MadeRows(found.codes, found.reports, found.changed)
        return replace(self, made=made, notes=(*self.notes, *found.notes))


def is_encoder_decoder(model: str | Path, revision: str | None = None) -> bool:
    """Whether a folder or repository is named whose config is of an encoder-decoder that there is a file for.

    One that is stored for another task, such as a classifier, is none.
    """
    config = read_config(str(model), revision)
    if config is None or config.get("model_type") not in model_types():
        return False
    name = _class_name(config)
    return name.endswith(_WRITES) and not name.endswith(_ENCODER)


def _class_name(config: Mapping[str, object]) -> str:
    """The class that a config names; of a family, one that writes where it names none."""
    classes = config.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else _WRITES[0]


def decide_encoder_decoder(
    model: str | Path,
    *,
    target: str | Sequence[str],
    recipe: str | Path | None = None,
    socs: Sequence[str] = (),
    context_length: int | None = None,
    task: str | None = None,
    revision: str | None = None,
    samples: Sequence[str | Path] = (),
) -> PreparedEncoderDecoder:
    """Read what the folder or repository ``model`` has and plan its export; ``task`` replaces the family's own.

    ``context_length`` is how many tokens a text may have on an accelerator, a source as well as a target; ``samples``
    are sources of what its encoder takes, for methods that have to see some.

    Raises:
        InputError: something of the checkpoint is not implemented, or the recipe or target asks for what such models do
            not have.

    """
    targets, chips = find_targets(target, socs)
    static = [one for one in targets if one.form == STATIC]
    for one in targets:
        if one not in static and (not one.is_cpu or one.form is not None):
            raise InputError(
                f"{one.name} takes no encoder-decoders as yet; for {model} take arm64-cpu, x86-cpu or qnn-htp"
            )
    if context_length is not None and not static:
        raise InputError(f"{model} has an encoder and a decoder, and --context has no effect on CPUs; leave it out")
    found = ask_recipe(recipe or (IN_FLOAT if static else RECIPE), context_length, ())
    refuse_unheeded(found, f"{model} has an encoder and a decoder", is_static=bool(static))
    found, left_out = suited(found)
    _check_recipe(Path(model), found, samples)
    checkpoint = open_encoder_decoder(find_whole(str(model), revision)[0])
    check_tokenizer(checkpoint)
    description, notes = read_encoder_decoder(checkpoint)
    read, more = read_task(checkpoint, description, task)
    if _class_name(checkpoint.config).endswith("Model") and not _class_name(checkpoint.config).endswith("MTModel"):
        more = (
            *more,
            "it was saved without a head: the table that it reads tokens from is one, as transformers has it",
        )
    if description.source != "tokens":
        read, more = with_sound(checkpoint.directory, description, read, more)
    itemsize = MadeWeights(checkpoint, description.made).itemsize
    plan = in_pairs(make_plan(description, planned_recipe(found), itemsize), faster_forms(targets))
    prepared = PreparedEncoderDecoder(
        checkpoint=checkpoint,
        description=description,
        recipe=found,
        plan=plan,
        task=read,
        targets=targets,
        socs=chips,
        notes=(*notes, *more, *(f"{name} is left out: {why}" for name, why in left_out.items())),
    )
    prepared.graphs()
    for one in static:
        find_form(STATIC).refuse(prepared, one, chips)
    return prepared


def with_sound(folder: Path, model: EncoderDecoder, task: Task, notes: tuple[str, ...]) -> tuple[Task, tuple[str, ...]]:
    """The task with what the checkpoint's feature extractor does to sound; a note where it has none.

    A wave must have as many samples as the convolutions need for one position.

    Raises:
        InputError: it does something that a bundle's manifest cannot say.

    """
    if not (folder / "preprocessor_config.json").is_file():
        return task, (*notes, "it has no preprocessor_config.json: the bundle takes arrays, and no sound")
    sound = read_sound(folder, task)
    if model.source == "wave":
        sound = replace(sound, least=max(sound.least, model.least_samples))
    return replace(task, sound=sound), notes


def _check_recipe(model: Path, recipe: Recipe, samples: Sequence[str | Path]) -> None:
    """Refuse what is not done to two stacks of layers as yet, and what would have to see samples where there are none.

    Raises:
        InputError: the recipe asks for that.

    """
    check_graph_methods(recipe, "blocks")
    check_recipe(planned_recipe(recipe), graphs=True)
    steps = [*recipe.prune, *(["[budget]"] if recipe.budget else [])]
    if recipe.activations.type == "float16" or recipe.activations.is_calibrated:
        steps.append(f"{recipe.activations.type} activations")
    if steps:
        raise InputError(
            f"recipe {recipe.name} has {', '.join(dict.fromkeys(steps))}, and {model} is an encoder-decoder, for which "
            "that is not there: take fp32, fp16, int8, int8-dynamic, int4, int4-128 or int4-fast, or a recipe of your "
            "own without it"
        )
    if (methods := looks(recipe)) and not samples:
        raise InputError(
            f"recipe {recipe.name} has {', '.join(methods)}, which must see what {model} is given, and there is "
            "nothing; name texts or sounds by --calibration"
        )
