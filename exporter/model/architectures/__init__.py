"""The model families that can be exported: one file for each, named as ``model_type`` in the checkpoint's config.

A file ends in ``ARCHITECTURE = Architecture(model_type=…, read=…)``. Adding a family is adding its file; nothing else
names it. :func:`describe` is what the exporter calls.
"""

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from edgepress.errors import InputError
from edgepress.exporter.model.description import Decoder, MultiToken
from edgepress.exporter.model.parts.primitives import Linear, Norm, Weight
from edgepress.exporter.model.parts.tree import changed, uncollected
from edgepress.exporter.source.config import READ_BY_ALL, Config
from edgepress.exporter.source.kinds import what_it_is
from edgepress.exporter.source.part import Part
from edgepress.exporter.source.removed import why_removed
from edgepress.modules import modules_in

MTP = "mtp."  # what names of tensors begin with that predict a token further


@dataclass(frozen=True)
class Architecture:
    """A model family: how its config becomes a :class:`Decoder` that names the checkpoint's tensors.

    ``ignored_tensors`` are regular expressions (full match) for tensors that are in real checkpoints and are no
    parameters: buffers, and the second copy of a tied head (a tensor that is used is never ignored).
    ``base_prefix`` starts the names of everything but the head; checkpoints saved without the head leave it out.
    ``other_names`` are other beginnings of the names of tensors, by ours: checkpoints have the one or the other.
    ``layers_key``, ``width_key`` and ``heads_key`` are the config's names of the number of layers, of the MLP's width
    and of the number of query heads; ``width_key`` is "" where a config has none, so that pruning refuses to change it.
    ``experts_keys`` are its names of the number of experts, the first of which it always has.
    ``with_width`` is what a config gets beside a width, that it means what it says.
    ``aliases`` are other names that transformers' config has for some of its keys; ``read`` is given those keys.
    ``by_layer(config, layers)`` spells out, as lists with one entry a layer, what the config says by a rule about the
    layers' numbers, by key: without some of its layers a model needs the list. ``without_layers(config, layers, kept)``
    are its other keys that follow from which layers there are, as they are when of ``layers`` only ``kept`` are left.
    ``config_keys`` are those that transformers' class reads and ``read`` does not, so that values are refused. Keys
    that neither reads are passed over, and noted (:func:`unread_keys`). ``keeps_heads`` says why transformers' class
    cannot have fewer heads of the same size, where it cannot, ``keeps_sizes`` why no step of ``prune`` knows what to
    leave out, where none does.
    ``other_words`` are words in names of tensors, and those in their place in checkpoints that lack such a tensor.
    ``elsewhere(part, tensors)`` is where rows lie in checkpoints that join or split tensors otherwise.
    ``mtp(config)`` is there where checkpoints may have what predicts a token further (:class:`.MultiToken`), under
    ``mtp.``: what its config, that of a model of one layer, says otherwise.
    """

    model_type: str
    read: Callable[[Config], Decoder]
    ignored_tensors: tuple[str, ...] = ()
    base_prefix: str = "model."
    other_names: Mapping[str, str] = field(default_factory=dict)
    layers_key: str = "num_hidden_layers"
    width_key: str = "intermediate_size"
    heads_key: str = "num_attention_heads"
    experts_keys: tuple[str, ...] = ()
    with_width: Mapping[str, object] = field(default_factory=dict)
    by_layer: Callable[[Config, int], Mapping[str, Sequence[object]]] = lambda *_: {}
    without_layers: Callable[[Config, int, Sequence[int]], Mapping[str, object]] = lambda *_: {}
    config_keys: tuple[str, ...] = ()
    keeps_heads: str = ""
    other_words: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Callable[[Part, Collection[str]], Part] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    keeps_sizes: str = ""
    mtp: Callable[[Config], Mapping[str, object]] | None = None


def model_types() -> list[str]:
    """Every family there is a file for, sorted."""
    return sorted(module.name for module in modules_in(__path__) if not module.name.startswith("_"))


def architecture(model_type: str) -> Architecture:
    """Return the family named ``model_type``, importing its file now.

    Raises:
        InputError: there is no such family. What is wrong inside a family's own file is raised as it is.

    """
    known = model_types()
    if model_type not in known:
        raise InputError(f"architecture {model_type!r} is not implemented; known: {', '.join(known)}")
    found = importlib.import_module(f"{__name__}.{model_type}").ARCHITECTURE
    assert isinstance(found, Architecture)
    return found


@uncollected()
def describe(values: Mapping[str, object], tensors: Collection[str], where: str = "config.json") -> Decoder:
    """Return the decoder that config ``values`` describe, its parts named as the checkpoint's ``tensors`` are.

    Raises:
        InputError: the family or one of the values is not implemented.

    """
    family, _, decoder = _read(values, where)
    for ours, theirs in family.other_names.items():
        if not any(name.startswith(ours) for name in tensors) and any(name.startswith(theirs) for name in tensors):
            decoder = changed(Part, decoder, partial(_renamed, ours, theirs))
    if family.other_words:
        decoder = changed(Part, decoder, partial(_called, family.other_words, tensors))
    if (elsewhere := family.elsewhere) is not None:
        decoder = changed(Part, decoder, lambda part: elsewhere(part, tensors))
    bases = [theirs for ours, theirs in family.other_names.items() if ours.startswith(family.base_prefix)]
    if any(name.startswith((family.base_prefix, *bases)) for name in tensors):
        return decoder
    return changed(Part, decoder, lambda part: replace(part, tensor=part.tensor.removeprefix(family.base_prefix)))


def describe_mtp(
    values: Mapping[str, object], tensors: Collection[str], decoder: Decoder, where: str = "config.json"
) -> MultiToken | None:
    """What predicts a token further than ``decoder``, of the same config; None where ``tensors`` have nothing of it.

    Raises:
        InputError: it is of another form than is implemented.

    """
    family, last = architecture(decoder.model_type), decoder.final_norm
    own = {f"{family.base_prefix}{name.removeprefix(MTP)}" for name in tensors if name.startswith(MTP)}
    if family.mtp is None or not own or last is None:
        return None
    one = describe({**values, **family.mtp(Config(without_aliases(family, values, where), where))}, own, where)

    def part(part: Part) -> Part:
        return replace(part, tensor=f"{MTP}{part.tensor.removeprefix(family.base_prefix)}")

    def weight(weight: Weight) -> Weight:
        stack = weight.stack and replace(weight.stack, name=MTP + weight.stack.name, node=MTP + weight.stack.node)
        return replace(weight, name=MTP + weight.name, stack=stack, parts=tuple(map(part, weight.parts)))

    def norm(name: str) -> Norm:
        part = Part(f"{MTP}pre_fc_norm_{name}.weight", 0, decoder.hidden_size)
        return replace(last, weight=replace(last.weight, name=f"{MTP}{name}_norm", parts=(part,)))

    rows, columns = decoder.hidden_size, 2 * decoder.hidden_size
    return MultiToken(
        replace(
            one,
            embedding=decoder.embedding,
            layers=changed(Weight, one.layers, weight),
            final_norm=changed(Weight, one.final_norm, weight),
            head=decoder.head,
        ),
        norm("embedding"),
        norm("hidden"),
        Linear(Weight(f"{MTP}projection", "linear", (rows, columns), (Part(f"{MTP}fc.weight", 0, rows),))),
    )


def _called(words: Mapping[str, str], tensors: Collection[str], part: Part) -> Part:
    if part.tensor in tensors:
        return part
    others = (part.tensor.replace(ours, theirs) for ours, theirs in words.items())
    return replace(part, tensor=next((tensor for tensor in others if tensor in tensors), part.tensor))


def _renamed(ours: str, theirs: str, part: Part) -> Part:
    if not part.tensor.startswith(ours):
        return part
    return replace(part, tensor=theirs + part.tensor.removeprefix(ours))


def check_layers(values: Mapping[str, object], tensors: int, where: str = "config.json") -> None:
    """Raise InputError when a config has more layers than its checkpoint has tensors: before they are described."""
    model_type = values.get("model_type")
    if isinstance(model_type, str) and model_type in model_types():
        family = architecture(model_type)
        config, key = Config(without_aliases(family, values, where), where), family.layers_key
        if config.integer(key, 1) > tensors:
            raise config.refuse(key, f"the checkpoint has only {tensors} tensors; correct it or copy it again")


def without_aliases(
    family: Architecture, values: Mapping[str, object], where: str = "config.json"
) -> dict[str, object]:
    """The config with the family's own names of its keys.

    Raises:
        InputError: a key is there by both of its names, with two values.

    """
    found = {key: value for key, value in values.items() if key not in family.aliases}
    for alias, key in family.aliases.items():
        value = values.get(alias)
        if value is None:
            continue
        if found.get(key, value) not in (None, value):
            raise Config(values, where).refuse(alias, f"contradicts {key} = {found[key]}, its other name; keep one")
        found[key] = value
    return found


def unread_keys(values: Mapping[str, object], where: str = "config.json") -> tuple[str, ...]:
    """What of a config is passed over because transformers does not read it either, a sentence each."""
    return tuple(_read(values, where)[1].notes)


def _read(values: Mapping[str, object], where: str) -> tuple[Architecture, Config, Decoder]:
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        known = f"must be one of {', '.join(model_types())}"
        raise InputError(f"{where}: model_type = {model_type!r}: {known}; {what_it_is(values)}")
    if model_type not in model_types():
        known = ", ".join(model_types())
        raise InputError(f"architecture {model_type!r} is not implemented; known: {known}; {what_it_is(values)}")
    if isinstance(values.get("low_rank"), Mapping):  # an earlier version's: the rank of each projection in two factors
        raise InputError(f"{where}: {why_removed('low_rank')}; export the model that this one was made from")
    family = architecture(model_type)
    config = Config(without_aliases(family, values, where), where)
    config.significant = {*READ_BY_ALL, *family.config_keys}
    decoder = family.read(config)
    config.finish()
    return family, config, decoder
