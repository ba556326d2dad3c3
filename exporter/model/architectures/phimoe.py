"""Phi-3.5-MoE (Abdin et al. 2024): layer norms, biases, two experts a token that SparseMixer weighs each by itself.

Its longrope has a factor of its own for cosines and sines, ``short_mscale``. Beyond
``original_max_position_embeddings`` transformers goes on with the short factors and the published code takes the long
ones: a context ends there.
"""

from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    effective_window,
    embedding_and_head,
    layer_norm,
    read_sizes,
    separate_attention,
)
from edgepress.exporter.model.architectures._experts import MIXTRAL, read_counts, read_silu, router, separate_experts
from edgepress.exporter.model.architectures._older import layer_norm_decoder, layer_norm_layer
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing
from edgepress.exporter.model.parts.primitives import Rope
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

_SECTIONS = ("rope_parameters", "rope_scaling")
_BESIDE = ("rope_theta", "original_max_position_embeddings")  # of a section, where transformers 4 has them


def read(config: Config) -> Decoder:
    """Defaults are transformers' PhimoeConfig's."""
    sizes = read_sizes(
        config, vocab=32064, hidden=4096, intermediate=6400, layers=32, heads=32, kv_heads=8, context=131_072
    )
    rope, context = _rope(config, sizes.head_dim, sizes.context)
    sizes = replace(sizes, context=context)
    sliding = config.optional_integer("sliding_window")
    window = None if sliding is None else effective_window(sliding, sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    read_silu(config, "hidden_act")
    bias = config.flag("attention_bias", False)
    config.without_effect("input_jitter_noise")  # in training alone
    count, chosen = read_counts(config, "num_local_experts", 16, 2)
    if chosen != 2:
        raise config.refuse("num_experts_per_tok", "must be 2: SparseMixer chooses one, and then another")
    margin = 2 * config.number("router_jitter_noise", 0.01, above=0.0)
    ends = embedding_and_head(config, sizes, tied=False, head_bias=config.flag("lm_head_bias", False))

    def layer(index: int) -> Layer:
        tensors = f"model.layers.{index}.block_sparse_moe"
        attention = separate_attention(index, sizes, qkv_bias=bias, output_bias=bias, window=window)
        experts = MixtureOfExperts(
            router=router(index, f"{tensors}.gate", count, sizes.hidden),
            experts=separate_experts(
                index, f"{tensors}.experts", sizes, count=count, width=sizes.intermediate[index], names=MIXTRAL
            ),
            routing=Routing(count=chosen, scores="sparsemixer", normalized=False, margin=margin),
        )
        return layer_norm_layer(index, sizes, epsilon, (attention, experts), f"model.layers.{index}")

    final_norm = layer_norm("final_norm", "model.norm", sizes.hidden, epsilon)
    return layer_norm_decoder("phimoe", sizes, layer, ends, final_norm, rope=rope)


def _rope(config: Config, head_dim: int, context: int) -> tuple[Rope, int]:
    """The rope, and how many positions it is for."""
    key = next((key for key in _SECTIONS if isinstance(config.values.get(key), dict)), "")
    section = config.values.get(key)
    if not isinstance(section, dict) or "short_mscale" not in section:
        return read_rope(config, head_dim=head_dim, context_length=context, theta=1_000_000.0), context
    said = {name: value for name, value in section.items() if name not in {"short_mscale", "long_mscale"}}
    said["attention_factor"] = section["short_mscale"]
    beside = {name: config.values[name] for name in _BESIDE if name in config.values}
    config.without_effect(key, *beside)  # read here
    changed = Config({key: said, **beside}, config.where)
    original = Config(said | beside, config.where).optional_integer("original_max_position_embeddings") or context
    rope = read_rope(changed, head_dim=head_dim, context_length=min(context, original), theta=1_000_000.0)
    changed.finish()
    return rope, min(context, original)


ARCHITECTURE = Architecture(
    model_type="phimoe", read=read, ignored_tensors=IGNORED_TENSORS, experts_keys=("num_local_experts",)
)
