"""What families with the gated delta rule have in common: sizes, which layers have it, and Qwen's layer around it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgepress.exporter.model.architectures._common import (
    Sizes,
    layer_rms_norm,
    linear,
    query_and_key_norm,
    rms_decoder,
    rms_norm,
    separate_attention,
)
from edgepress.exporter.model.description import Block, Decoder, Layer, Mixer
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.gated_delta import GatedDelta
from edgepress.exporter.model.parts.primitives import Linear, Norm, Weight
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

LAYER_TYPES = ("linear_attention", "full_attention")
NORM_PLUS = 1.0  # Qwen3NextRMSNorm multiplies by 1 + weight; the norm inside of the delta rule by weight


@dataclass(frozen=True)
class DeltaSizes:
    """The sizes of a :class:`GatedDelta`, as it has them."""

    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    taps: int

    @property
    def key_width(self) -> int:
        """Rows of q, and of k."""
        return self.key_heads * self.key_dim

    @property
    def value_width(self) -> int:
        """Rows of v, and of its gate."""
        return self.value_heads * self.value_dim


def read_delta_sizes(
    config: Config, *, key_heads: int, value_heads: int, key_dim: int, value_dim: int | None
) -> DeltaSizes:
    """Read the keys ``linear_…``; the arguments are the family's defaults, None being twice the size of a key."""
    size = config.integer("linear_key_head_dim", key_dim)
    found = DeltaSizes(
        key_heads=config.integer("linear_num_key_heads", key_heads),
        key_dim=size,
        value_heads=config.integer("linear_num_value_heads", value_heads),
        value_dim=config.integer("linear_value_head_dim", 2 * size if value_dim is None else value_dim),
        taps=config.integer("linear_conv_kernel_dim", 4, minimum=2),
    )
    if found.value_heads % found.key_heads:
        raise config.refuse("linear_num_value_heads", f"must be a multiple of linear_num_key_heads = {found.key_heads}")
    config.text("hidden_act", "silu", ("silu", "swish"))  # of the convolution too; no other is in its operator
    return found


def gated_delta(
    index: int,
    hidden: int,
    sizes: DeltaSizes,
    *,
    inputs: Sequence[Part],
    rates: Sequence[Part],
    norm: Norm,
    output: str,
    kernel: Sequence[Part] = (),
    largest_rate: float = 1.0,
) -> GatedDelta:
    """The delta rule of a layer; ``inputs`` are the rows of q, k, v and z in this order, ``rates`` those of b and a.

    ``kernel`` has those of q, k and v of the convolution where they do not lie in one tensor.
    """
    name, tensors = f"layers.{index}.gated_delta", f"model.layers.{index}.linear_attn"
    channels = 2 * sizes.key_width + sizes.value_width

    def by_head(role: str, tensor: str) -> Weight:
        heads = sizes.value_heads
        return Weight(f"{name}.{role}", "recurrence", (heads,), (Part(f"{tensors}.{tensor}", 0, heads),))

    return GatedDelta(
        inputs=Linear(Weight(f"{name}.inputs", "linear", (channels + sizes.value_width, hidden), tuple(inputs))),
        rates=Linear(Weight(f"{name}.rates", "recurrence", (2 * sizes.value_heads, hidden), tuple(rates))),
        kernel=Weight(
            f"{name}.kernel",
            "kernel",
            (channels, 1, sizes.taps),
            tuple(kernel) or (Part(f"{tensors}.conv1d.weight", 0, channels),),
        ),
        step_bias=by_head("step_bias", "dt_bias"),
        decay=by_head("decay", "A_log"),
        norm=norm,
        output=linear(f"{name}.output", f"{tensors}.{output}", hidden, sizes.value_width),
        key_heads=sizes.key_heads,
        key_dim=sizes.key_dim,
        value_heads=sizes.value_heads,
        value_dim=sizes.value_dim,
        largest_rate=largest_rate,
    )


def separate_delta(index: int, hidden: int, sizes: DeltaSizes, epsilon: float) -> GatedDelta:
    """The delta rule of a layer as Qwen3.5 stores it: q, k and v in one tensor, z, b and a in one each."""
    tensors = f"model.layers.{index}.linear_attn"
    widths = {"qkv": 2 * sizes.key_width + sizes.value_width, "z": sizes.value_width}
    return gated_delta(
        index,
        hidden,
        sizes,
        inputs=[Part(f"{tensors}.in_proj_{part}.weight", 0, rows) for part, rows in widths.items()],
        rates=[Part(f"{tensors}.in_proj_{part}.weight", 0, sizes.value_heads) for part in "ba"],
        norm=delta_norm(index, sizes, "norm", epsilon),
        output="out_proj",
    )


def delta_norm(index: int, sizes: DeltaSizes, tensor: str, epsilon: float) -> Norm:
    """The norm over each head of what the delta rule gives."""
    name = f"model.layers.{index}.linear_attn.{tensor}.weight"
    return rms_norm(f"layers.{index}.gated_delta.norm", name, sizes.value_dim, epsilon)


def read_layer_types(config: Config, layers: int) -> list[str]:
    """Read ``layer_types``, or full attention in every ``full_attention_interval``-th layer (4 by default)."""
    interval = config.integer("full_attention_interval", 4)
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    return types or [LAYER_TYPES[(index + 1) % interval == 0] for index in range(layers)]


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Which layers attend, where the config says it by a number."""
    return {"layer_types": list[str](read_layer_types(config, layers))}


def gated_attention(index: int, sizes: Sizes, epsilon: float, *, bias: bool) -> Attention:
    """Attention with an output gate: ``q_proj`` has the rows of each head's q, then those of its gate."""
    attention = separate_attention(
        index,
        sizes,
        qkv_bias=bias,
        output_bias=bias,
        norms=query_and_key_norm(index, sizes, epsilon, plus=NORM_PLUS),
    )
    return split_query(attention, f"model.layers.{index}.self_attn.q_proj")


def split_query(attention: Attention, tensor: str) -> Attention:
    """The same attention whose gate lies among the rows of its q, a head of each in turn."""
    size, qkv = attention.head_dim, attention.qkv

    def parts(what: str, offset: int) -> tuple[Part, ...]:
        starts = (2 * head * size + offset for head in range(attention.heads))
        return tuple(Part(f"{tensor}.{what}", start, start + size) for start in starts)

    def query(weight: Weight, what: str) -> Weight:
        return replace(weight, parts=(*parts(what, 0), *weight.parts[1:]))

    def gate(weight: Weight, what: str) -> Weight:
        shape = (attention.heads * size, *weight.shape[1:])
        return replace(weight, name=weight.name.replace(".qkv", ".gate"), shape=shape, parts=parts(what, size))

    both = [
        Linear(change(qkv.weight, "weight"), None if qkv.bias is None else change(qkv.bias, "bias"))
        for change in (query, gate)
    ]
    return replace(attention, qkv=both[0], gate=both[1])


def qwen_decoder(
    config: Config, model_type: str, sizes: Sizes, delta: Callable[[int], GatedDelta], mlp: Callable[[int], Mixer]
) -> Decoder:
    """A decoder of Qwen3-Next's form: ``delta`` and ``mlp`` give those of a layer."""
    types = read_layer_types(config, sizes.layers)
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, partial=True, share=0.25)
    epsilon, bias = config.number("rms_norm_eps", 1e-6, above=0.0), config.flag("attention_bias", False)
    if not config.flag("attn_output_gate", True):
        raise config.refuse("attn_output_gate", "attention without its gate is not implemented, nor in transformers")

    def block(index: int, mixer: Mixer, tensor: str) -> Block:
        norm = layer_rms_norm(index, f"{mixer.kind}_norm", tensor, sizes, epsilon=epsilon, plus=NORM_PLUS)
        return Block(norm=norm, mixer=mixer)

    def layer(index: int) -> Layer:
        attends = types[index] == "full_attention"
        first = gated_attention(index, sizes, epsilon, bias=bias) if attends else delta(index)
        return Layer((block(index, first, "input_layernorm"), block(index, mlp(index), "post_attention_layernorm")))

    return rms_decoder(
        config, model_type, sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False, norm_plus=NORM_PLUS
    )


def mtp_layer(config: Config) -> dict[str, object]:
    """What the config of the layer that predicts a token further has: it attends, as wide as the last one.

    Raises:
        InputError: there are several such layers, or they have an embedding of their own.

    """
    if config.integer("mtp_num_hidden_layers", 1) != 1:
        raise config.refuse("mtp_num_hidden_layers", "only one layer that predicts a token further is implemented")
    if config.flag("mtp_use_dedicated_embeddings", False):
        raise config.refuse("mtp_use_dedicated_embeddings", "an embedding of its own is not implemented")
    widths = config.values.get("intermediate_size")
    own = {"num_hidden_layers": 1, "layer_types": ["full_attention"], "mlp_only_layers": [], "decoder_sparse_step": 1}
    return own | ({"intermediate_size": widths[-1:]} if isinstance(widths, list) else {})
