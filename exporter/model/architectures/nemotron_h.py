"""Nemotron-H (NVIDIA 2025): a state space, attention without rotary, an MLP or experts in each layer, one alone.

Experts have no gate but relu², as in Nemotron 3 Nano: ``up`` is stored as gate and up, the form that kernels have.
"""

from collections.abc import Callable
from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    Sizes,
    linear,
    matrix,
    read_activation,
    read_sizes,
    rms_norm,
    separate_attention,
)
from edgepress.exporter.model.architectures._experts import (
    UNGATED,
    correction,
    read_counts,
    read_groups,
    router,
    separate_experts,
    shared_expert,
)
from edgepress.exporter.model.architectures._mamba import (
    ATTENTION,
    STATE,
    TRAINING,
    StateSpace,
    checked,
    mamba2,
    one_block,
    read_layer_kinds,
)
from edgepress.exporter.model.description import Decoder, Layer, Mixer
from edgepress.exporter.model.mixers.mixture_of_experts import SQUARED_RELU, MixtureOfExperts, Routing
from edgepress.exporter.model.mixers.mlp import MLP, Activation
from edgepress.exporter.model.parts.primitives import Linear
from edgepress.exporter.model.parts.tree import changed
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

_MLP, _EXPERTS = "mlp", "moe"
_LETTERS = {"M": STATE, "*": ATTENTION, "-": _MLP, "E": _EXPERTS}  # of hybrid_override_pattern
_EXPERT_KEYS = (  # of models without any
    *("n_routed_experts", "num_local_experts", "moe_intermediate_size", "num_experts_per_tok", "norm_topk_prob"),
    *("moe_shared_expert_intermediate_size", "moe_latent_size", "routed_scaling_factor", "n_group", "topk_group"),
)
# Of layers that predict more tokens at once, which are left out; and what transformers' model does not look at.
_UNUSED = (
    *("num_nextn_predict_layers", "mtp_layers_block_type", "mtp_hybrid_override_pattern", "num_logits_to_keep"),
    *("use_mamba_kernels", "mamba_ssm_cache_dtype", "mamba_proj_bias", "time_step_limit", "mamba_dt_limit"),
    *("mamba_dt_max", "mamba_dt_init_floor", "mamba_chunk_size", "expand", "mamba_expand"),
    *("attention_bias", "tie_word_embeddings", "n_shared_experts", "moe_shared_expert_overlap"),
)


def read(config: Config) -> Decoder:
    """Defaults are transformers' NemotronHConfig's. Of a config's limits of the step, the lower one alone counts."""
    kinds = _kinds(config)
    sizes = _sizes(config, len(kinds))
    epsilon = config.number("layer_norm_epsilon", 1e-5, above=0.0)
    activation = read_activation(config, "mlp_hidden_act", "relu2")
    mlp_bias = config.flag("mlp_bias", False)
    state_space = _state_space(config)
    experts = _mixtures(config, sizes, activation, bias=mlp_bias) if _EXPERTS in kinds else None
    config.without_effect(*_UNUSED, *(_EXPERT_KEYS if experts is None else ()), *TRAINING)

    def mixer(index: int) -> Mixer:
        if kinds[index] == _EXPERTS and experts is not None:
            return experts(index)
        if kinds[index] == STATE:
            return mamba2(index, f"model.layers.{index}.mixer", sizes.hidden, state_space, epsilon=epsilon)
        if kinds[index] == ATTENTION:
            return _attention(index, sizes)
        return _mlp(index, sizes, activation, bias=mlp_bias)

    def layer(index: int) -> Layer:
        return one_block(index, sizes.hidden, epsilon, mixer(index), f"model.layers.{index}")

    embedding = matrix("embedding", "embedding", "model.embeddings.weight", sizes.vocab, sizes.hidden)
    return Decoder(
        model_type="nemotron_h",
        hidden_size=sizes.hidden,
        vocab_size=sizes.vocab,
        context_length=sizes.context,
        embedding=embedding,
        layers=tuple(layer(index) for index in range(len(kinds))),
        final_norm=rms_norm("final_norm", "model.norm_f.weight", sizes.hidden, epsilon),
        head=Linear(matrix("head", "head", "lm_head.weight", sizes.vocab, sizes.hidden)),
        ropes={},
    )


def by_layer(config: Config, _layers: int) -> dict[str, list[int] | list[str]]:
    """The kind of each layer as a list, which a pattern may say."""
    return {"layers_block_type": _kinds(config)}


def _kinds(config: Config) -> list[str]:
    """What each layer is: a list says it, or ``hybrid_override_pattern``, a letter for each."""
    listed = read_layer_kinds(config, None, _MLP, _EXPERTS)
    pattern, key = config.values.get("hybrid_override_pattern"), "hybrid_override_pattern"
    config.without_effect(key)
    if listed is None and pattern is not None:
        if not isinstance(pattern, str) or not {*pattern} <= {*_LETTERS}:
            raise config.refuse(key, f"must be made of the letters {' '.join(_LETTERS)}")
        listed = [_LETTERS[letter] for letter in pattern]
    return listed or [STATE, _EXPERTS, ATTENTION, _MLP]


def _mixtures(config: Config, sizes: Sizes, activation: Activation, *, bias: bool) -> Callable[[int], Mixer]:
    """The mixture of a layer, by its number: routed as DeepSeek-V3's, and no expert gated, the shared one included."""
    count, chosen = read_counts(config, "n_routed_experts", 8, 2, "num_local_experts")
    routing = read_groups(config, count, Routing(count=chosen, scores="sigmoid"))
    width, shared = (
        config.integer(key, 7688) for key in ("moe_intermediate_size", "moe_shared_expert_intermediate_size")
    )
    if activation != "relu2":
        raise config.refuse("mlp_hidden_act", "must be relu2, as of experts without a gate no other is implemented")
    if config.optional_integer("moe_latent_size") is not None:
        raise config.refuse("moe_latent_size", "experts between projections of their own are not implemented")

    def mixer(index: int) -> Mixer:
        tensors = f"model.layers.{index}.mixer"
        return MixtureOfExperts(
            router=router(index, f"{tensors}.gate", count, sizes.hidden),
            correction=correction(index, f"{tensors}.gate.e_score_correction_bias", count),
            experts=separate_experts(index, f"{tensors}.experts", sizes, count=count, width=width, names=UNGATED),
            shared=shared_expert(index, f"{tensors}.shared_experts", sizes.hidden, shared, gated=False, bias=bias),
            routing=routing,
            alpha=SQUARED_RELU,
        )

    return mixer


def _sizes(config: Config, layers: int) -> Sizes:
    if config.integer("num_hidden_layers", layers) != layers:
        raise config.refuse("num_hidden_layers", f"the list of the kinds of layers has {layers}; remove the key")
    return read_sizes(
        config,
        vocab=131_072,
        hidden=4096,
        intermediate=21504,
        layers=layers,
        heads=32,
        kv_heads=8,
        head_dim=128,
        context=4096,
    )


def _state_space(config: Config) -> StateSpace:
    """Some keys have an older name, which transformers takes where both are there."""

    def key(name: str, old: str) -> str:
        config.without_effect(name, old)
        return old if config.has(old) else name

    config.text("mamba_hidden_act", "silu", ("silu", "swish"))  # of the convolution; no other is in its operator
    bias, groups = config.flag("use_bias", False), key("n_groups", "mamba_n_groups")
    sizes = StateSpace(
        heads=config.integer("mamba_num_heads", 128),
        head_dim=config.integer("mamba_head_dim", 64),
        state_size=config.integer("ssm_state_size", 128),
        groups=config.integer(groups, 8),
        taps=config.integer(key("conv_kernel", "mamba_d_conv"), 4, minimum=2),
        step_limits=(config.number(key("time_step_min", "mamba_dt_min"), 0.001), float("inf")),
        conv_bias=config.flag(key("use_conv_bias", "mamba_conv_bias"), True),
        input_bias=bias,
        output_bias=bias,
    )
    return checked(config, groups, sizes)


def _attention(index: int, sizes: Sizes) -> Mixer:
    """Llama's, without rotary or biases, under the name of any mixer."""
    attention = separate_attention(index, sizes, rope=None)
    return changed(Part, attention, lambda part: replace(part, tensor=part.tensor.replace(".self_attn.", ".mixer.")))


def _mlp(index: int, sizes: Sizes, activation: Activation, *, bias: bool) -> Mixer:
    name, tensors, width = f"layers.{index}.mlp", f"model.layers.{index}.mixer", sizes.intermediate[index]
    return MLP(
        up=linear(f"{name}.up", f"{tensors}.up_proj", width, sizes.hidden, bias=bias),
        down=linear(f"{name}.down", f"{tensors}.down_proj", sizes.hidden, width, bias=bias),
        activation=activation,
    )


ARCHITECTURE = Architecture(
    model_type="nemotron_h",
    read=read,
    ignored_tensors=(r"mtp\..*",),
    other_names={"model.": "backbone."},
    by_layer=by_layer,
    experts_keys=("n_routed_experts", "num_local_experts"),
)
