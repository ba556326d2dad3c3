"""The config of a smaller model: what changes when layers go, or when they become narrower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgepress.errors import InputError
from edgepress.exporter.model.architectures import architecture, describe, without_aliases
from edgepress.exporter.model.description import Block, Decoder, Layer, Mixer
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config
from edgepress.targets import Target

_BY_LAYER = ("layer_types", "no_rope_layers")  # keys that may hold a list, one a layer, beside the MLP's width

Values = dict[str, object]


def with_layers(config: Mapping[str, object], layers: int, kept: Sequence[int]) -> Values:
    """The config of a model of which only the layers ``kept`` are left; each keeps its own window, rope and width."""
    family = architecture(str(config["model_type"]))
    config = without_aliases(family, config)
    lists: dict[str, list[object]] = {
        key: list(values) for key in (*_BY_LAYER, family.width_key) if isinstance(values := config.get(key), list)
    }
    lists |= {key: list(values) for key, values in family.by_layer(Config(config), layers).items()}
    cut: Values = {key: [values[index] for index in kept] for key, values in lists.items()}
    other = family.without_layers(Config(config), layers, kept)
    return {**config, **cut, **other, family.layers_key: len(kept)}


def with_widths(config: Mapping[str, object], widths: Sequence[int]) -> Values:
    """The config of a model whose MLPs are that wide; one number where all are alike."""
    family = architecture(str(config["model_type"]))
    config = without_aliases(family, config)
    width = widths[0] if len(set(widths)) == 1 else list(widths)
    return {**config, family.width_key: width, **family.with_width}


def with_heads(config: Mapping[str, object], decoder: Decoder, heads: int, kv_heads: int) -> Values:
    """The config of a model with so many heads of the same size as before."""
    family = architecture(str(config["model_type"]))
    config, key = without_aliases(family, config), family.heads_key
    changed: Values = {**config, key: heads, **_sizes(decoder)}
    return changed if key == "n_head" else {**changed, "num_key_value_heads": kv_heads}


def with_experts(config: Mapping[str, object], experts: int) -> Values:
    """The config of a model with so many experts in each mixture, under each of the names that it has for them."""
    family = architecture(str(config["model_type"]))
    config = without_aliases(family, config)
    first, *others = family.experts_keys
    return {**config, first: experts, **{key: experts for key in others if config.get(key) is not None}}


def with_hidden(config: Mapping[str, object], decoder: Decoder, hidden: int) -> Values:
    """The config of a model with RMS norms whose residual stream has so many channels, heads being as they were."""
    if decoder.final_norm is None:
        raise ValueError(f"{decoder.model_type} has no final norm")
    return {
        **config,
        "hidden_size": hidden,
        **_sizes(decoder),
        "rms_norm_eps": decoder.final_norm.epsilon * decoder.hidden_size / hidden,
    }


def _sizes(decoder: Decoder) -> Values:
    """The keys that a config otherwise derives from the hidden size and the number of heads."""
    return {key: size for block in every(Block, decoder.layers) for key, size in (block.mixer.sizes() or {}).items()}


def described(checkpoint: Checkpoint, config: Mapping[str, object]) -> Decoder:
    """The decoder of a changed config whose tensors are named as the checkpoint's are."""
    return describe(config, checkpoint.tensors.keys())


def check_described(checkpoint: Checkpoint, config: Mapping[str, object], method: str) -> None:
    """Raise InputError when a family cannot have the sizes of a changed config."""
    try:
        described(checkpoint, config)
    except InputError as error:
        raise InputError(
            f"{method} cannot prune {config['model_type']}: {error}; leave {method} out of `prune`"
        ) from error


def check_same_layers(old: Decoder, new: Decoder, kept: Sequence[int], method: str) -> None:
    """Raise InputError when a layer that stays would compute something else in the new model.

    Only what a config can express is compared; a scale is not, as it can be moved into the weights.
    """
    for index, layer in zip(kept, new.layers, strict=True):
        before, after = _facts(old.layers[index]), _facts(layer)
        if before != after:
            pairs = zip(before, after, strict=False)
            changed = " and ".join(_difference(one, other) for one, other in pairs if one != other)
            raise InputError(
                f"{method} cannot prune {old.model_type}: its config says by the numbers of the layers what is in "
                f"which, and with others gone layer {index} would have {changed}; leave {method} out of `prune`"
            )


def _difference(one: tuple[object, ...], other: tuple[object, ...]) -> str:
    """How two facts of a layer differ, by the names of their mixers, which they begin with."""
    if not isinstance(one[0], str):
        return "other blocks side by side"
    return f"another {one[0]}" if one[0] == other[0] else f"{other[0]} in the place of {one[0]}"


def _facts(layer: Layer) -> tuple[tuple[object, ...], ...]:
    """What each block computes, and which of them compute together."""
    blocks = ((block.name, *block.mixer.settings(), float(np.float32(block.multiplier))) for block in layer.blocks)
    return (*blocks, tuple(len(stage) for stage in layer.stages))


def require(decoder: Decoder, kind: type[Mixer], method: str) -> None:
    """Raise InputError when a step prunes a kind of mixer that not every layer has."""
    for index, layer in enumerate(decoder.layers):
        if not any(isinstance(block.mixer, kind) for block in layer.blocks):
            names = " and ".join(block.name for block in layer.blocks)
            raise InputError(
                f"{method} prunes the {kind.__name__} of every layer, and layer {index} of this model has {names}; "
                f"leave {method} out of `prune`"
            )


def require_key(decoder: Decoder, key: str, method: str, what: str) -> None:
    """Raise InputError when the config of a family has no key for what a step changes."""
    if not key:
        raise InputError(
            f"{method} cannot prune {decoder.model_type}: its config has no key for {what}; leave {method} out of "
            "`prune`"
        )


def refuse_different(targets: Sequence[Target], what: str, remedy: str) -> None:
    """Raise InputError when a target needs layers of one size and ``what`` makes them different."""
    for target in targets:
        if target.same_layers:
            raise InputError(
                f"{what}, and {target.name} takes layers of one size only ({target.same_layers}); {remedy}"
            )
