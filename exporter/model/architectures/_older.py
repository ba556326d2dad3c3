"""What the families with layer norms have in common, most of them from before Llama: sizes, layers, whole decoders."""

import math
from collections.abc import Callable, Mapping

from edgepress.exporter.model.architectures._common import Sizes, layer_norm
from edgepress.exporter.model.description import Block, Decoder, Layer, Mixer
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.parts.primitives import Alibi, Linear, Norm, Rope, Weight
from edgepress.exporter.model.rope import default_frequencies
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

SIZE_KEYS = {
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "context": "max_position_embeddings",
}
GPT2_KEYS = {
    "hidden": "n_embd",
    "intermediate": "n_inner",
    "layers": "n_layer",
    "heads": "n_head",
    "context": "n_positions",
}
NO_HEAD_KEY = "its config has no key for the width of a head alone"
GPT2_ALIASES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}


def read_old_sizes(
    config: Config,
    *,
    vocab: int,
    hidden: int,
    layers: int,
    heads: int,
    context: int,
    names: Mapping[str, str],
    kv_heads: int | None = None,
    intermediate: int | None = None,
) -> Sizes:
    """Sizes of families from before Llama: heads are hidden / heads wide, MLPs four times the hidden size by default.

    ``names`` are the config's keys of hidden, intermediate, layers, heads and context; the other arguments are the
    family's defaults.
    """
    hidden_size, count = config.integer(names["hidden"], hidden), config.integer(names["heads"], heads)
    if hidden_size % count:
        raise config.refuse(names["hidden"], f"must be a multiple of {names['heads']} = {count}")
    layer_count = config.integer(names["layers"], layers)
    width, usual = names.get("intermediate"), intermediate or 4 * hidden_size
    return Sizes(
        vocab=config.integer("vocab_size", vocab),
        hidden=hidden_size,
        intermediate=config.integers_by_layer(width, usual, layer_count) if width else (usual,) * layer_count,
        layers=layer_count,
        heads=count,
        kv_heads=kv_heads or count,
        head_dim=hidden_size // count,
        context=config.integer(names["context"], context),
    )


def grouped_qkv(index: int, sizes: Sizes, tensor: str, *, bias: bool) -> Linear:
    """``qkv`` of a checkpoint whose ``tensor`` has, for each key-value head, its queries, its key and its value."""
    name, width = f"layers.{index}.attention.qkv", sizes.head_dim
    queries = sizes.heads // sizes.kv_heads * width
    group = queries + 2 * width
    places = [(0, queries), (queries, queries + width), (queries + width, group)]  # of q, k and v in a group

    def parts(what: str) -> tuple[Part, ...]:
        starts = [(head * group, place) for place in places for head in range(sizes.kv_heads)]
        return tuple(Part(f"{tensor}.{what}", start + first, start + last) for start, (first, last) in starts)

    rows = group * sizes.kv_heads
    weight = Weight(name, "linear", (rows, sizes.hidden), parts("weight"))
    return Linear(weight, Weight(f"{name}.bias", "bias", (rows,), parts("bias")) if bias else None)


def rotary_of_neighbours(config: Config, sizes: Sizes) -> Rope:
    """GPT-J's: the first ``rotary_dim`` dimensions of a head, neighbours in pairs, θ 10,000."""
    rotated = config.integer("rotary_dim", 64)
    if rotated % 2 or rotated > sizes.head_dim:
        raise config.refuse("rotary_dim", f"must be an even number of at most {sizes.head_dim}, the width of a head")
    frequencies = default_frequencies(10_000.0, rotated)
    return Rope(tuple(float(one) for one in frequencies), interleaved=True)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Slopes as Press et al. 2022 have them: 2^(−8 i / n) for the power of two n at or below the number of heads.

    The other heads get every second one of those for 2 n, from the first on.
    """
    power = 2 ** int(math.log2(heads))
    first = [2.0 ** (-8.0 * index / power) for index in range(1, power + 1)]
    between = [2.0 ** (-4.0 * index / power) for index in range(1, 2 * (heads - power) + 1, 2)]
    return (*first, *between)


def fused_attention(
    sizes: Sizes,
    qkv: Linear,
    output: Linear,
    *,
    rope: str | None = None,
    scale: float | None = None,
    alibi: Alibi | None = None,
    norms: tuple[Norm, Norm] | None = None,
    clip: float = 0.0,
) -> Attention:
    """Attention whose projections are stored as one tensor. The scale is 1 / sqrt(head_dim) unless given."""
    return Attention(
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        scale=sizes.head_dim**-0.5 if scale is None else scale,
        qkv=qkv,
        output=output,
        rope=rope,
        alibi=alibi,
        query_norm=norms[0] if norms else None,
        key_norm=norms[1] if norms else None,
        clip=clip,
    )


def norms_of_heads(index: int, sizes: Sizes, epsilon: float) -> tuple[Norm, Norm]:
    """``self_attn.q_layernorm`` and ``k_layernorm`` over each head, whose gain and bias all heads share."""
    name, tensors = f"layers.{index}.attention", f"model.layers.{index}.self_attn"
    return (
        layer_norm(f"{name}.query_norm", f"{tensors}.q_layernorm", sizes.head_dim, epsilon),
        layer_norm(f"{name}.key_norm", f"{tensors}.k_layernorm", sizes.head_dim, epsilon),
    )


def layer_norm_layer(
    index: int,
    sizes: Sizes,
    epsilon: float,
    mixers: tuple[Mixer, Mixer],
    tensors: str,
    *,
    norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm"),
    bias: bool = True,
    parallel: bool = False,
) -> Layer:
    """Attention and MLP behind layer norms, ``tensors``.``norms``; they share it where both are of one name."""
    roles = [f"{mixer.kind}_norm" for mixer in mixers] if norms[0] != norms[1] else ["norm", "norm"]

    def block(role: str, name: str, mixer: Mixer) -> Block:
        norm = layer_norm(f"layers.{index}.{role}", f"{tensors}.{name}", sizes.hidden, epsilon, bias=bias)
        return Block(norm=norm, mixer=mixer)

    return Layer(tuple(map(block, roles, norms, mixers)), parallel)


def stream_norm_layer(
    index: int,
    sizes: Sizes,
    epsilon: float,
    mixers: tuple[Mixer, Mixer],
    tensors: str,
    *,
    norms: tuple[str, str],
) -> Layer:
    """Attention and MLP that read the stream as it is, each followed by a layer norm of the stream."""

    def block(name: str, mixer: Mixer) -> Block:
        role = f"layers.{index}.{mixer.kind}_stream_norm"
        norm = layer_norm(role, f"{tensors}.{name}", sizes.hidden, epsilon)
        return Block(norm=None, mixer=mixer, stream_norm=norm)

    return Layer(tuple(map(block, norms, mixers)))


def layer_norm_decoder(
    model_type: str,
    sizes: Sizes,
    layer: Callable[[int], Layer],
    ends: tuple[Weight, Linear],
    final_norm: Norm | None,
    *,
    rope: Rope | None = None,
    positions: Weight | None = None,
    embedding_multiplier: float = 1.0,
    logits_multiplier: float = 1.0,
    embedding_norm: Norm | None = None,
    embedding_projection: Linear | None = None,
    head_projection: Linear | None = None,
) -> Decoder:
    """Assemble a decoder; ``ends`` are its embedding and its head."""
    return Decoder(
        model_type=model_type,
        hidden_size=sizes.hidden,
        vocab_size=sizes.vocab,
        context_length=sizes.context,
        embedding=ends[0],
        layers=tuple(layer(index) for index in range(sizes.layers)),
        final_norm=final_norm,
        head=ends[1],
        ropes={} if rope is None else {"default": rope},
        positions=positions,
        embedding_multiplier=embedding_multiplier,
        logits_multiplier=logits_multiplier,
        embedding_norm=embedding_norm,
        embedding_projection=embedding_projection,
        head_projection=head_projection,
    )
