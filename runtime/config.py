"""What the runtime needs to know of a bundle before it opens the model.

Read from ``genai_config.json``, which is onnxruntime-genai's, so that a bundle made by its builder is read as well as
one of ours; what that file has no word for comes from our ``manifest.json``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from edgepress.errors import InputError
from edgepress.files import refuse_aside
from edgepress.manifest import MANIFEST_NAME, read_manifest
from edgepress.schema import Count, read_as

_REMEDY = "export the bundle again"

Token = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Width = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]  # heads, or channels of one: the largest model has 256 of each
_Names = Annotated[
    str, msgspec.Meta(pattern=r"^[^%]{0,200}%d[^%]{0,200}$")
]  # with the layer's number in the place of %d


class _Inputs(msgspec.Struct, frozen=True):
    past_key_names: _Names
    past_value_names: _Names


class _Outputs(msgspec.Struct, frozen=True):
    present_key_names: _Names
    present_value_names: _Names


class _Decoder(msgspec.Struct, frozen=True):
    filename: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    head_size: _Width
    num_key_value_heads: _Width
    num_hidden_layers: Annotated[int, msgspec.Meta(ge=1, le=10_000)]
    inputs: _Inputs
    outputs: _Outputs


class _Model(msgspec.Struct, frozen=True):
    context_length: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]  # of which a mask of 64 bits each is made
    vocab_size: Count
    decoder: _Decoder
    bos_token_id: Token | None = None
    eos_token_id: Token | list[Token] | None = None


class _GenaiConfig(msgspec.Struct, frozen=True):
    """What is read of ``genai_config.json``; it says more."""

    model: _Model


@dataclass(frozen=True)
class BundleConfig:
    """Shapes and special tokens of the decoder in a bundle.

    ``long_from`` is the length of text beyond which a longrope model uses its long frequencies, None for others.
    """

    bundle: Path
    model: Path
    context_length: int
    vocab_size: int
    layers: int
    kv_heads: int
    head_dim: int
    bos: int | None
    eos: frozenset[int]
    past_names: tuple[str, ...]
    present_names: tuple[str, ...]
    long_from: int | None = None


def read_config(bundle: Path) -> BundleConfig:
    """Read ``genai_config.json`` of the bundle, or say what is wrong with it."""
    if not bundle.is_dir():
        refuse_aside(bundle)
        raise InputError(f"{bundle} is not a directory; give the directory that `edgepress export --out` wrote")
    path = bundle / "genai_config.json"
    if not path.is_file():
        raise InputError(
            f"{path} is missing, so {bundle} is not a language-model bundle; make one with `edgepress export`"
        )
    model = read_as(path, _GenaiConfig, _REMEDY).model
    decoder, eos = model.decoder, model.eos_token_id
    layers = range(decoder.num_hidden_layers)
    config = BundleConfig(
        bundle=bundle,
        model=bundle / decoder.filename,
        context_length=model.context_length,
        vocab_size=model.vocab_size,
        layers=len(layers),
        kv_heads=decoder.num_key_value_heads,
        head_dim=decoder.head_size,
        bos=model.bos_token_id,
        eos=frozenset(eos if isinstance(eos, list) else [] if eos is None else [eos]),
        past_names=_cache_names(decoder.inputs.past_key_names, decoder.inputs.past_value_names, layers),
        present_names=_cache_names(decoder.outputs.present_key_names, decoder.outputs.present_value_names, layers),
        long_from=read_manifest(bundle).long_from if (bundle / MANIFEST_NAME).is_file() else None,
    )
    if config.model.parent != bundle:
        raise InputError(f"{path} names the graph {decoder.filename!r}, which is not in {bundle}; export it again")
    if not config.model.is_file():
        raise InputError(f"{config.model} is missing, though {path.name} names it; export the bundle again")
    return config


def _cache_names(keys: str, values: str, layers: range) -> tuple[str, ...]:
    """Names of the cache tensors, key and value of each layer in turn."""
    return tuple(pattern.replace("%d", str(layer)) for layer in layers for pattern in (keys, values))
