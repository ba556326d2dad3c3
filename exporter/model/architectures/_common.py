"""What the family files have in common: sizes, norms, projections and the layer that most of them share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from edgepress.exporter.model.description import Block, Decoder, Layer, Mixer
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.mlp import MLP, Activation
from edgepress.exporter.model.parts.primitives import Kind, Linear, Norm, Rope, Weight
from edgepress.exporter.model.rope import default_frequencies, rope_from_section, rotated_dimensions, same_rope
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

# transformers' names (activations.py) of what we implement. gelu_new, gelu_fast and gelu_accurate write the same tanh
# formula in different orders.
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}
IGNORED_TENSORS = (
    r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",  # saved by transformers before 4.32
    r"lm_head\.weight",  # where it is tied to the embedding, some checkpoints hold the copy too
)
LAYER_TYPES = ("full_attention", "sliding_attention")
PROPORTIONAL = "proportional"  # a type of rope


@dataclass(frozen=True)
class Sizes:
    """The dimensions of a decoder; ``intermediate`` has the MLP's width in each layer: pruning makes them differ."""

    vocab: int
    hidden: int
    intermediate: tuple[int, ...]
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int


def read_sizes(
    config: Config,
    *,
    vocab: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int | None,
    context: int,
    head_dim: int | None = None,
) -> Sizes:
    """Read the usual keys; the arguments are the family's defaults.

    ``kv_heads`` None, or null in the config, means as many as heads; ``head_dim`` None means hidden size / heads.
    ``intermediate_size`` may be a list, one for each layer.
    """
    hidden_size = config.integer("hidden_size", hidden)
    count = config.integer("num_attention_heads", heads)
    kv_count = config.optional_integer("num_key_value_heads", kv_heads) or count
    if count % kv_count:
        raise config.refuse("num_key_value_heads", f"must divide num_attention_heads = {count}")
    dimensions = config.optional_integer("head_dim", head_dim)
    if dimensions is None and hidden_size % count:
        raise config.refuse("hidden_size", f"must be a multiple of num_attention_heads = {count}")
    layer_count = config.integer("num_hidden_layers", layers)
    return Sizes(
        vocab=config.integer("vocab_size", vocab),
        hidden=hidden_size,
        intermediate=config.integers_by_layer("intermediate_size", intermediate, layer_count),
        layers=layer_count,
        heads=count,
        kv_heads=kv_count,
        head_dim=dimensions or hidden_size // count,
        context=config.integer("max_position_embeddings", context),
    )


def read_activation(config: Config, key: str, default: str) -> Activation:
    """Read the MLP's activation function."""
    return ACTIVATIONS[config.text(key, default, ACTIVATIONS)]


def effective_window(window: int, context: int) -> int | None:
    """Return the window of a sliding layer, or None where no context is long enough to reach past it.

    transformers (masking_utils.sliding_window_overlay): a query at position i sees keys j with i − window < j ≤ i, so
    ``window`` positions, itself included.
    """
    return window if window < context else None


def rms_norm(name: str, tensor: str, size: int, epsilon: float, plus: float = 0.0) -> Norm:
    """RMS norm whose gain is ``tensor`` + ``plus``."""
    return Norm(Weight(name, "norm", (size,), (Part(tensor, 0, size),), plus), epsilon)


def norm_without_gain(name: str, size: int, epsilon: float, kind: Literal["rms", "layer"]) -> Norm:
    """Norm that the checkpoint has no tensor of: its gain is 1, which methods may change."""
    return Norm(Weight(name, "norm", (size,), (), plus=1.0), epsilon, kind)


def layer_norm(name: str, tensor: str, size: int, epsilon: float, *, bias: bool = True, plus: float = 0.0) -> Norm:
    """Layer norm with gain ``tensor``.weight + ``plus`` and bias ``tensor``.bias."""
    gain = Weight(name, "norm", (size,), (Part(f"{tensor}.weight", 0, size),), plus)
    if not bias:
        return Norm(gain, epsilon, "layer")
    shift = Weight(f"{name}.bias", "bias", (size,), (Part(f"{tensor}.bias", 0, size),))
    return Norm(gain, epsilon, "layer", shift)


def matrix(
    name: str, kind: Kind, tensor: str, rows: int, columns: int, *, start: int = 0, transposed: bool = False
) -> Weight:
    """``rows`` rows of ``tensor`` from row ``start`` on."""
    return Weight(name, kind, (rows, columns), (Part(tensor, start, start + rows, transposed),))


def linear(name: str, tensor: str, rows: int, columns: int, *, bias: bool = False, transposed: bool = False) -> Linear:
    """Project with ``tensor``.weight, and ``tensor``.bias."""
    weight = matrix(name, "linear", f"{tensor}.weight", rows, columns, transposed=transposed)
    if not bias:
        return Linear(weight)
    return Linear(weight, Weight(f"{name}.bias", "bias", (rows,), (Part(f"{tensor}.bias", 0, rows),)))


def separate_attention(
    index: int,
    sizes: Sizes,
    *,
    scale: float | None = None,
    qkv_bias: bool = False,
    output_bias: bool = False,
    output: str = "o_proj",
    tensors: str = "",
    rope: str | None = "default",
    window: int | None = None,
    norms: tuple[Norm, Norm] | None = None,
    norm_per_head: bool = True,
) -> Attention:
    """Attention of a layer whose checkpoint has ``self_attn.{q,k,v}_proj``, and ``output`` beside them.

    ``tensors`` is what their names begin with, ``model.layers.{index}.self_attn`` unless given.
    The scale is 1 / sqrt(head_dim) unless given; ``norms`` are the query's and the key's.
    """
    name, tensors = f"layers.{index}.attention", tensors or f"model.layers.{index}.self_attn"
    query_rows, key_rows = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    rows = {"q_proj": query_rows, "k_proj": key_rows, "v_proj": key_rows}
    total = sum(rows.values())

    def parts(what: Literal["weight", "bias"]) -> tuple[Part, ...]:
        return tuple(Part(f"{tensors}.{projection}.{what}", 0, count) for projection, count in rows.items())

    weight = Weight(f"{name}.qkv", "linear", (total, sizes.hidden), parts("weight"))
    bias = Weight(f"{name}.qkv.bias", "bias", (total,), parts("bias"))
    return Attention(
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        scale=sizes.head_dim**-0.5 if scale is None else scale,
        qkv=Linear(weight, bias if qkv_bias else None),
        output=linear(f"{name}.output", f"{tensors}.{output}", sizes.hidden, query_rows, bias=output_bias),
        rope=rope,
        query_norm=norms[0] if norms else None,
        key_norm=norms[1] if norms else None,
        norm_per_head=norm_per_head,
        window=window,
    )


def query_and_key_norm(
    index: int, sizes: Sizes, epsilon: float, *, per_head: bool = True, plus: float = 0.0
) -> tuple[Norm, Norm]:
    """``self_attn.q_norm`` and ``k_norm``, over each head or over all of them together."""
    name, tensors = f"layers.{index}.attention", f"model.layers.{index}.self_attn"
    query_size = sizes.head_dim * (1 if per_head else sizes.heads)
    key_size = sizes.head_dim * (1 if per_head else sizes.kv_heads)
    return (
        rms_norm(f"{name}.query_norm", f"{tensors}.q_norm.weight", query_size, epsilon, plus),
        rms_norm(f"{name}.key_norm", f"{tensors}.k_norm.weight", key_size, epsilon, plus),
    )


def gated_mlp(index: int, sizes: Sizes, activation: Activation, *, bias: bool = False) -> MLP:
    """``down_proj(activation(gate_proj(x)) · up_proj(x))``."""
    name, tensors = f"layers.{index}.mlp", f"model.layers.{index}.mlp"
    width = sizes.intermediate[index]
    return MLP(
        gate=linear(f"{name}.gate", f"{tensors}.gate_proj", width, sizes.hidden, bias=bias),
        up=linear(f"{name}.up", f"{tensors}.up_proj", width, sizes.hidden, bias=bias),
        down=linear(f"{name}.down", f"{tensors}.down_proj", sizes.hidden, width, bias=bias),
        activation=activation,
    )


def fused_mlp(index: int, sizes: Sizes, activation: Activation) -> MLP:
    """The gate is the first half of ``gate_up_proj``'s rows, up the second; ``down_proj``."""
    name, tensors = f"layers.{index}.mlp", f"model.layers.{index}.mlp"
    both, rows, columns = f"{tensors}.gate_up_proj.weight", sizes.intermediate[index], sizes.hidden
    return MLP(
        gate=Linear(matrix(f"{name}.gate", "linear", both, rows, columns)),
        up=Linear(matrix(f"{name}.up", "linear", both, rows, columns, start=rows)),
        down=linear(f"{name}.down", f"{tensors}.down_proj", columns, rows),
        activation=activation,
    )


def plain_mlp(
    index: int, sizes: Sizes, activation: Activation, tensors: str, *, up: str, down: str, bias: bool = True
) -> MLP:
    """``down(activation(up(x)))``, of the tensors ``tensors``.``up`` and ``tensors``.``down``."""
    name, width = f"layers.{index}.mlp", sizes.intermediate[index]
    return MLP(
        up=linear(f"{name}.up", f"{tensors}.{up}", width, sizes.hidden, bias=bias),
        down=linear(f"{name}.down", f"{tensors}.{down}", sizes.hidden, width, bias=bias),
        activation=activation,
    )


def xielu_mlp(index: int, sizes: Sizes, tensors: str) -> MLP:
    """``down_proj(xielu(up_proj(x)))``, its two learned numbers under ``act_fn``."""
    name = f"layers.{index}.mlp"
    plain = plain_mlp(index, sizes, "relu", tensors, up="up_proj", down="down_proj", bias=False)
    positive, negative = (
        Weight(f"{name}.{role}", "activation", (1,), (Part(f"{tensors}.act_fn.{tensor}", 0, 1),))
        for role, tensor in (("positive", "alpha_p"), ("negative", "alpha_n"))
    )
    return replace(plain, activation="xielu", positive=positive, negative=negative)


def layer_rms_norm(index: int, role: str, tensor: str, sizes: Sizes, *, epsilon: float, plus: float = 0.0) -> Norm:
    """Norm of a layer's whole hidden state; ``role`` is attention_norm, mlp_norm, attention_post_norm …."""
    name = f"model.layers.{index}.{tensor}.weight"
    return rms_norm(f"layers.{index}.{role}", name, sizes.hidden, epsilon, plus)


def pre_norm_layer(
    index: int, sizes: Sizes, epsilon: float, attention: Mixer, mlp: Mixer, *, residual_multiplier: float = 1.0
) -> Layer:
    """Layer in Llama's form: ``input_layernorm`` before attention, or what is in its place, and
    ``post_attention_layernorm`` before the MLP.
    """

    def block(mixer: Mixer, tensor: str) -> Block:
        norm = layer_rms_norm(index, f"{mixer.kind}_norm", tensor, sizes, epsilon=epsilon)
        return Block(norm=norm, mixer=mixer, multiplier=residual_multiplier)

    return Layer((block(attention, "input_layernorm"), block(mlp, "post_attention_layernorm")))


def embedding_and_head(
    config: Config,
    sizes: Sizes,
    *,
    tied: bool,
    embedding: str = "model.embed_tokens.weight",
    head_bias: bool = False,
) -> tuple[Weight, Linear]:
    """Token embedding and head; ``tied`` is the family's default for ``tie_word_embeddings``."""
    table = matrix("embedding", "embedding", embedding, sizes.vocab, sizes.hidden)
    bias = Weight("head.bias", "bias", (sizes.vocab,), (Part("lm_head.bias", 0, sizes.vocab),)) if head_bias else None
    if config.flag("tie_word_embeddings", tied):
        return table, Linear(table, bias)
    return table, Linear(matrix("head", "head", "lm_head.weight", sizes.vocab, sizes.hidden), bias)


def rms_decoder(
    config: Config,
    model_type: str,
    sizes: Sizes,
    layer: Callable[[int], Layer],
    *,
    ropes: dict[str, Rope],
    epsilon: float,
    tied: bool,
    norm_plus: float = 0.0,
    embedding_multiplier: float = 1.0,
    logits_multiplier: float = 1.0,
    logits_softcap: float = 0.0,
) -> Decoder:
    """Assemble a decoder in Llama's form: ``model.embed_tokens``, layers, ``model.norm``, ``lm_head``."""
    return assembled(
        config,
        model_type,
        sizes,
        layer,
        final_norm=rms_norm("final_norm", "model.norm.weight", sizes.hidden, epsilon, norm_plus),
        ropes=ropes,
        tied=tied,
        embedding_multiplier=embedding_multiplier,
        logits_multiplier=logits_multiplier,
        logits_softcap=logits_softcap,
    )


def assembled(
    config: Config,
    model_type: str,
    sizes: Sizes,
    layer: Callable[[int], Layer],
    *,
    final_norm: Norm,
    ropes: dict[str, Rope],
    tied: bool,
    embedding_multiplier: float = 1.0,
    logits_multiplier: float = 1.0,
    logits_softcap: float = 0.0,
) -> Decoder:
    """Assemble a decoder with a ``final_norm`` of any kind: ``model.embed_tokens``, layers, ``lm_head``."""
    embedding, head = embedding_and_head(config, sizes, tied=tied)
    return Decoder(
        model_type=model_type,
        hidden_size=sizes.hidden,
        vocab_size=sizes.vocab,
        context_length=sizes.context,
        embedding=embedding,
        layers=tuple(layer(index) for index in range(sizes.layers)),
        final_norm=final_norm,
        head=head,
        ropes=ropes,
        embedding_multiplier=embedding_multiplier,
        logits_multiplier=logits_multiplier,
        logits_softcap=logits_softcap,
    )


def llama_decoder(
    config: Config,
    model_type: str,
    sizes: Sizes,
    rope: Rope,
    *,
    epsilon: float = 1e-6,
    tied: bool = False,
    qkv_bias: bool = False,
    output_bias: bool = False,
    mlp_bias: bool = False,
    windows: Sequence[int | None] = (),
) -> Decoder:
    """A decoder that is Llama under another name; ``epsilon`` and ``tied`` are the family's defaults.

    ``windows`` has one for each layer, where some have one.
    """
    epsilon = config.number("rms_norm_eps", epsilon, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")

    def layer(index: int) -> Layer:
        window = windows[index] if windows else None
        attention = separate_attention(index, sizes, qkv_bias=qkv_bias, output_bias=output_bias, window=window)
        return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, activation, bias=mlp_bias))

    return rms_decoder(config, model_type, sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=tied)


def post_norm_layer(index: int, sizes: Sizes, epsilon: float, attention: Mixer, mlp: Mixer) -> Layer:
    """Layer in OLMo 2's form: ``post_attention_layernorm`` and ``post_feedforward_layernorm`` behind the two."""

    def block(mixer: Mixer, tensor: str) -> Block:
        norm = layer_rms_norm(index, f"{mixer.kind}_post_norm", tensor, sizes, epsilon=epsilon)
        return Block(norm=None, mixer=mixer, post_norm=norm)

    return Layer((block(attention, "post_attention_layernorm"), block(mlp, "post_feedforward_layernorm")))


def every_nth_full(config: Config, layers: int, default: int, key: str = "sliding_window_pattern") -> list[str]:
    """Read ``layer_types``, or every n-th layer full and the others sliding, n under ``key``."""
    pattern = config.integer(key, default)
    config.without_effect("_sliding_window_pattern")  # transformers 4.5x saves its own copy of the number
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    return types or [LAYER_TYPES[bool((index + 1) % pattern)] for index in range(layers)]


def read_ropes(config: Config, sizes: Sizes, types: list[str], thetas: Mapping[str, float]) -> dict[str, Rope]:
    """Read a rope for each layer type in use; ``thetas`` are what a section without ``rope_theta`` has.

    transformers 5: ``rope_parameters`` with a section for each; transformers 4: ``rope_scaling`` for full attention.
    """
    both = config.section("rope_parameters") or Config({}, config.where)
    scaling, local = config.section("rope_scaling"), both.section("sliding_attention")
    full = both.section("full_attention")
    sections = {"full_attention": [scaling, full], "sliding_attention": [local]}
    found = {}
    for kind in LAYER_TYPES:
        ropes = [
            rope_from_section(
                section,
                rotated=rotated_dimensions(config, sizes.head_dim),
                context_length=sizes.context,
                theta=section.number("rope_theta", thetas[kind], above=1.0),
            )
            for section in [one for one in sections[kind] if one] or [Config({}, config.where)]
        ]
        if kind in types:
            found[kind] = same_rope(config, ropes)
    return found


def whole_or_proportional_rope(section: Config, head_dim: int, context: int, default: float) -> Rope:
    """One rope of whole heads; ``proportional`` rotates the first pairs of a head as if it rotated all, no others."""
    theta = section.number("rope_theta", default, above=1.0)
    if section.values.get("rope_type") != PROPORTIONAL:
        return rope_from_section(section, rotated=head_dim, context_length=context, theta=theta)
    section.text("rope_type", PROPORTIONAL, (PROPORTIONAL,))
    pairs = int(section.number("partial_rotary_factor", 1.0, above=0.0) * head_dim // 2)
    if not 0 < pairs <= head_dim // 2:
        raise section.refuse("partial_rotary_factor", f"{2 * pairs} of {head_dim} dimensions would be rotated")
    frequencies = default_frequencies(theta, head_dim) / np.float32(section.number("factor", 1.0, above=0.0))
    frequencies[pairs:] = 0.0
    return Rope(tuple(float(one) for one in frequencies))


def upper_layer_windows(config: Config, sizes: Sizes) -> list[int | None]:
    """Qwen's windows: with ``use_sliding_window``, the layers that ``layer_types`` names, or those from
    ``max_window_layers`` on (default 28) when it names none.
    """
    types = upper_layer_types(config, sizes.layers)
    window = _upper_window(config)
    return windows_of(config, types, window, sizes)


def upper_layer_types(config: Config, layers: int) -> list[str]:
    """Qwen's layer types, those that the config lists or those of its rule."""
    on = _upper_window(config) is not None
    first = config.integer("max_window_layers", 28, minimum=0)
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    return types or [LAYER_TYPES[on and index >= first] for index in range(layers)]


def _upper_window(config: Config) -> int | None:
    window = config.optional_integer("sliding_window", 4096)  # null turns windows off
    return window if config.flag("use_sliding_window", False) else None


def windows_of(config: Config, types: list[str], window: int | None, sizes: Sizes) -> list[int | None]:
    """Return each layer's window; ``types`` is one of :data:`LAYER_TYPES` for each layer."""
    if window is None and "sliding_attention" in types:
        raise config.refuse(
            "layer_types", "has sliding_attention, and no sliding window is set (or it is switched off)"
        )
    found = None if window is None else effective_window(window, sizes.context)
    return [found if kind == "sliding_attention" else None for kind in types]
