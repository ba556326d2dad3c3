"""OLMo Hybrid (Ai2 2026): the gated delta rule in layers like Llama's, attention in layers like OLMo 2's."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    gated_mlp,
    layer_rms_norm,
    query_and_key_norm,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.architectures._gated_delta import (
    LAYER_TYPES,
    DeltaSizes,
    delta_norm,
    gated_delta,
    read_delta_sizes,
)
from edgepress.exporter.model.description import Block, Decoder, Layer, Mixer
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.gated_delta import GatedDelta
from edgepress.exporter.model.parts.primitives import Norm, Rope
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

_NORM_EPSILON = 1e-5  # of the norm inside of the delta rule, whatever the config's is


def read(config: Config) -> Decoder:
    """Defaults are transformers' OlmoHybridConfig's."""
    sizes = read_sizes(
        config, vocab=100_352, hidden=3840, intermediate=11_008, layers=32, heads=30, kv_heads=None, context=65_536
    )
    delta = read_delta_sizes(
        config,
        key_heads=sizes.heads,
        value_heads=sizes.heads,
        key_dim=_key_dim(config, sizes),
        value_dim=None,
    )
    types, ropes = _layer_types(config, sizes.layers), _ropes(config, sizes)
    epsilon, bias = config.number("rms_norm_eps", 1e-6, above=0.0), config.flag("attention_bias", False)
    activation = read_activation(config, "hidden_act", "silu")
    largest = 2.0 if config.flag("linear_allow_neg_eigval", True) else 1.0
    config.without_effect("linear_a_log_min", "linear_a_log_max")  # where training starts
    config.without_effect("linear_dt_min", "linear_dt_max", "linear_dt_init_floor")

    def norm(index: int, mixer: Mixer, tensor: str, when: str = "") -> Norm:
        return layer_rms_norm(index, f"{mixer.kind}_{when}norm", tensor, sizes, epsilon=epsilon)

    def layer(index: int) -> Layer:
        mlp = gated_mlp(index, sizes, activation)
        if types[index] == LAYER_TYPES[0]:
            first = _delta(index, sizes.hidden, delta, largest)
            return Layer(
                (
                    Block(norm=norm(index, first, "attention_layer_norm"), mixer=first),
                    Block(norm=norm(index, mlp, "feedforward_layer_norm"), mixer=mlp),
                )
            )
        attention = _attention(index, sizes, epsilon, bias=bias, rope=next(iter(ropes), None))
        return Layer(
            (
                Block(
                    norm=None, mixer=attention, post_norm=norm(index, attention, "post_attention_layernorm", "post_")
                ),
                Block(norm=None, mixer=mlp, post_norm=norm(index, mlp, "post_feedforward_layernorm", "post_")),
            )
        )

    return rms_decoder(config, "olmo_hybrid", sizes, layer, ropes=ropes, epsilon=epsilon, tied=False)


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Attention in every fourth layer, where the config does not list them."""
    return {"layer_types": list[str](_layer_types(config, layers))}


def _layer_types(config: Config, layers: int) -> list[str]:
    """Read ``layer_types``, or attention in every fourth layer, or in the last one where there are fewer."""
    rule = [LAYER_TYPES[index % 4 == 3] for index in range(layers)]
    return config.optional_texts("layer_types", layers, LAYER_TYPES) or (
        rule if LAYER_TYPES[1] in rule else [*rule[:-1], LAYER_TYPES[1]]
    )


def _key_dim(config: Config, sizes: Sizes) -> int:
    """How wide a key is by default: ¾ of the hidden size, over the number of keys."""
    return int(0.75 * sizes.hidden / config.integer("linear_num_key_heads", sizes.heads)) or 1


def _ropes(config: Config, sizes: Sizes) -> dict[str, Rope]:
    """The rope of all attention, or none: ``rope_theta`` is null in what was published."""
    sections = [config.values.get(key) for key in ("rope_scaling", "rope_parameters")]
    given = next((section for section in sections if isinstance(section, dict) and "rope_theta" in section), {})
    if {**config.values, **given}.get("rope_theta", 10_000.0) is None:
        config.without_effect("rope_theta", "rope_scaling", "rope_parameters")
        return {}
    return {"default": read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)}


def _attention(index: int, sizes: Sizes, epsilon: float, *, bias: bool, rope: str | None) -> Attention:
    return separate_attention(
        index,
        sizes,
        qkv_bias=bias,
        output_bias=bias,
        rope=rope,
        norm_per_head=False,
        norms=query_and_key_norm(index, sizes, epsilon, per_head=False),
    )


def _delta(index: int, hidden: int, sizes: DeltaSizes, largest_rate: float) -> GatedDelta:
    """Its projections and their convolutions are all stored apart; ``g_proj`` is the gate."""
    tensors = f"model.layers.{index}.linear_attn"
    rows = {"q": sizes.key_width, "k": sizes.key_width, "v": sizes.value_width, "g": sizes.value_width}
    return gated_delta(
        index,
        hidden,
        sizes,
        inputs=[Part(f"{tensors}.{part}_proj.weight", 0, count) for part, count in rows.items()],
        rates=[Part(f"{tensors}.{part}_proj.weight", 0, sizes.value_heads) for part in "ba"],
        kernel=[Part(f"{tensors}.{part}_conv1d.weight", 0, rows[part]) for part in "qkv"],
        norm=delta_norm(index, sizes, "o_norm", _NORM_EPSILON),
        output="o_proj",
        largest_rate=largest_rate,
    )


ARCHITECTURE = Architecture(
    model_type="olmo_hybrid",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    by_layer=by_layer,
    other_words={"post_attention_layernorm": "feedforward_layer_norm"},  # transformers writes it so in all layers
)
