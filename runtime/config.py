"""What the runtime needs to know of a bundle before it opens the model.

Read from ``genai_config.json``, which is onnxruntime-genai's, so that a bundle made by its builder is read as well as
one of ours; what that file has no word for comes from our ``manifest.json``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepress.errors import InputError
from edgepress.manifest import MANIFEST_NAME, read_manifest
from edgepress.texts import read_json


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
        raise InputError(f"{bundle} is not a directory; give the directory that `edgepress export --out` wrote")
    path = bundle / "genai_config.json"
    if not path.is_file():
        raise InputError(
            f"{path} is missing, so {bundle} is not a language-model bundle; make one with `edgepress export`"
        )
    try:
        content: Any = read_json(path)
        model: dict[str, Any] = content["model"]
        decoder = model["decoder"]
        layers = int(decoder["num_hidden_layers"])
        eos = model.get("eos_token_id")
        config = BundleConfig(
            bundle=bundle,
            model=bundle / str(decoder["filename"]),
            context_length=int(model["context_length"]),
            vocab_size=int(model["vocab_size"]),
            layers=layers,
            kv_heads=int(decoder["num_key_value_heads"]),
            head_dim=int(decoder["head_size"]),
            bos=model.get("bos_token_id"),
            eos=frozenset(eos if isinstance(eos, list) else [] if eos is None else [int(eos)]),
            past_names=_cache_names(decoder["inputs"], "past", layers),
            present_names=_cache_names(decoder["outputs"], "present", layers),
            long_from=read_manifest(bundle).long_from if (bundle / MANIFEST_NAME).is_file() else None,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read: {error}; export the bundle again") from error
    except KeyError as error:
        raise InputError(f"{path} has no entry {error}; export the bundle again") from error
    if config.model.parent != bundle:
        raise InputError(f"{path} names the graph {decoder['filename']!r}, which is not in {bundle}; export it again")
    if not config.model.is_file():
        raise InputError(f"{config.model} is missing, though {path.name} names it; export the bundle again")
    return config


def _cache_names(entries: dict[str, str], prefix: str, layers: int) -> tuple[str, ...]:
    """Names of the cache tensors, key and value of each layer in turn."""
    patterns = (entries[f"{prefix}_key_names"], entries[f"{prefix}_value_names"])
    return tuple(pattern % layer for layer in range(layers) for pattern in patterns)
