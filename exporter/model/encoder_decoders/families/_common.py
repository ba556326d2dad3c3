"""What the families' files have in common: attention, tables of positions, the layers that BART and its kin share."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.model.architectures._common import layer_norm, linear, matrix, read_activation
from edgepress.exporter.model.encoder_decoders.description import (
    CrossAttention,
    EncoderDecoder,
    RelativeBias,
    SelfAttention,
    Stack,
    Step,
)
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Linear, Norm, Rope, Weight
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

ZEROS = "zeros"  # the table of zeros that a bias is made of where some of its projections have none
LOGITS_BIAS = "final_logits_bias"
_EPSILON = 1e-5  # torch's default, which no key changes


@dataclass(frozen=True)
class Names:
    """How a family calls the projections of an attention; biases are there for q, k, v and the output."""

    q: str = "q_proj"
    k: str = "k_proj"
    v: str = "v_proj"
    output: str = "out_proj"
    biases: tuple[bool, bool, bool, bool] = (True, True, True, True)


@dataclass(frozen=True)
class Heads:
    """Sizes of an attention: of the stream, of heads, and what scores are multiplied by."""

    hidden: int
    heads: int
    head_dim: int
    scale: float

    @classmethod
    def of(cls, config: Config, key: str, hidden: int, default: int) -> "Heads":
        """As many heads as the config's ``key`` says, which divide the stream."""
        heads = config.integer(key, default)
        if hidden % heads:
            raise config.refuse(key, f"must divide d_model = {hidden}")
        return cls(hidden, heads, hidden // heads, (hidden // heads) ** -0.5)


def self_attention(
    name: str,
    tensors: str,
    names: Names,
    sizes: Heads,
    *,
    bias: RelativeBias | None = None,
    rope: Rope | None = None,
) -> SelfAttention:
    """Attention whose checkpoint has ``tensors``.{q, k, v, output}."""
    hidden, heads, head_dim, scale = sizes.hidden, sizes.heads, sizes.head_dim, sizes.scale
    rows = heads * head_dim
    of = (names.q, names.k, names.v)
    weight = Weight(
        f"{name}.qkv", "linear", (3 * rows, hidden), tuple(Part(f"{tensors}.{one}.weight", 0, rows) for one in of)
    )
    parts = tuple(
        Part(f"{tensors}.{one}.bias" if there else ZEROS, 0, rows) for one, there in zip(of, names.biases, strict=False)
    )
    added = Weight(f"{name}.qkv.bias", "bias", (3 * rows,), parts) if any(names.biases[:3]) else None
    output = linear(f"{name}.output", f"{tensors}.{names.output}", hidden, rows, bias=names.biases[3])
    return SelfAttention(
        heads=heads, head_dim=head_dim, scale=scale, qkv=Linear(weight, added), output=output, bias=bias, rope=rope
    )


def cross_attention(name: str, tensors: str, names: Names, sizes: Heads) -> CrossAttention:
    """Attention to the source, of tensors with the same names."""
    hidden, heads, head_dim, scale = sizes.hidden, sizes.heads, sizes.head_dim, sizes.scale
    rows = heads * head_dim
    query, key, value = (
        linear(f"{name}.{role}", f"{tensors}.{tensor}", rows, hidden, bias=there)
        for role, tensor, there in zip(
            ("query", "key", "value"), (names.q, names.k, names.v), names.biases, strict=False
        )
    )
    output = linear(f"{name}.output", f"{tensors}.{names.output}", hidden, rows, bias=names.biases[3])
    return CrossAttention(heads=heads, head_dim=head_dim, scale=scale, query=query, key=key, value=value, output=output)


def sinusoids(count: int, width: int, *, first: int = 0, tensor2tensor: bool = False) -> NDArray[np.float32]:
    """Positions (count, width) of Vaswani et al. 2017, section 3.5: all sines first, then all cosines.

    Frequency i of n is 10,000^(−i / n), and in ``tensor2tensor``'s form, of which M2M-100's is a copy, −i / (n − 1),
    computed in float32.
    """
    half = width // 2
    if tensor2tensor:
        step = np.float32(np.log(10000) / (half - 1))
        frequencies = np.exp(np.arange(half, dtype=np.float32) * -step)
        angles = np.arange(first, first + count, dtype=np.float32)[:, None] * frequencies
    else:
        angles = np.arange(first, first + count)[:, None] / np.power(10000, 2 * np.arange(half) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


Positions = Literal["learned", "sinusoids", "tensor2tensor"]


@dataclass(frozen=True)
class Bart:
    """How a model of BART's kin differs from the others.

    ``norm_first`` has norms before the mixers and one after the last layer, as against one after each sum.
    ``first_norm`` is a norm of what is embedded. Learned positions begin with row ``first_position``.
    """

    norm_first: bool
    first_norm: bool
    positions: Positions
    first_position: int = 0
    scaled: bool = False
    activation: str = "gelu"


def read_bart(config: Config, checkpoint: Checkpoint, kind: Bart) -> EncoderDecoder:
    """Read a config of BART's kin; defaults are transformers'."""
    hidden, vocab = config.integer("d_model", 1024), config.integer("vocab_size", 50265)
    context = config.integer("max_position_embeddings", 1024)
    activation = read_activation(config, "activation_function", kind.activation)
    scaled = config.flag("scale_embedding", kind.scaled)
    if not config.flag("tie_word_embeddings", True):
        raise config.refuse("tie_word_embeddings", "a head of its own is not implemented for this family")
    made: dict[str, NDArray[np.float32]] = {}
    if kind.positions != "learned":
        # fairseq counts from the row behind that of padding
        first = config.integer("pad_token_id", 1, minimum=0) + 1 if kind.positions == "tensor2tensor" else 0
        made["positions"] = sinusoids(context, hidden, first=first, tensor2tensor=kind.positions == "tensor2tensor")
    shared = config.flag("share_encoder_decoder_embeddings", True)
    rows = config.integer("decoder_vocab_size", vocab)
    rows = vocab if shared else rows

    def positions(side: str) -> Weight:
        name, tensor = f"{side}.positions", f"model.{side}.embed_positions.weight"
        if kind.positions != "learned" and tensor not in checkpoint.tensors:
            return matrix(name, "positions", "positions", context, hidden)
        return matrix(name, "positions", tensor, context, hidden, start=kind.first_position)

    def stack(side: Literal["encoder", "decoder"]) -> Stack:
        sizes, width = Heads.of(config, f"{side}_attention_heads", hidden, 16), config.integer(f"{side}_ffn_dim", 4096)
        prefix = "encoder." if side == "encoder" else ""

        def step(index: int, role: str, tensor: str, mixer: SelfAttention | CrossAttention | MLP) -> Step:
            norm = layer_norm(
                f"{prefix}layers.{index}.{role}_norm", f"model.{side}.layers.{index}.{tensor}", hidden, _EPSILON
            )
            return Step(mixer=mixer, before=norm) if kind.norm_first else Step(mixer=mixer, after=norm)

        def layer(index: int) -> tuple[Step, ...]:
            tensors, name = f"model.{side}.layers.{index}", f"{prefix}layers.{index}"
            own = self_attention(f"{name}.attention", f"{tensors}.self_attn", Names(), sizes)
            steps = [step(index, "attention", "self_attn_layer_norm", own)]
            if side == "decoder":
                other = cross_attention(f"{name}.cross_attention", f"{tensors}.encoder_attn", Names(), sizes)
                steps.append(step(index, "cross_attention", "encoder_attn_layer_norm", other))
            mlp = MLP(
                up=linear(f"{name}.mlp.up", f"{tensors}.fc1", width, hidden, bias=True),
                down=linear(f"{name}.mlp.down", f"{tensors}.fc2", hidden, width, bias=True),
                activation=activation,
            )
            return (*steps, step(index, "mlp", "final_layer_norm", mlp))

        def norm(there: bool, role: str, tensor: str) -> Norm | None:
            return layer_norm(f"{side}.{role}", f"model.{side}.{tensor}", hidden, _EPSILON) if there else None

        return Stack(
            layers=tuple(layer(index) for index in range(config.integer(f"{side}_layers", 12))),
            positions=positions(side),
            first_norm=norm(kind.first_norm, "first_norm", "layernorm_embedding"),
            last_norm=norm(kind.norm_first, "last_norm", "layer_norm"),
        )

    encoder, decoder = stack("encoder"), stack("decoder")
    own, common = first_of(checkpoint, "model.decoder.embed_tokens.weight"), "model.shared.weight"
    embedding = matrix(
        "embedding", "embedding", own if not shared else first_of(checkpoint, common, own, _SOURCE, _HEAD), rows, hidden
    )
    source = embedding if shared else matrix("encoder.embedding", "embedding", _SOURCE, vocab, hidden)
    return EncoderDecoder(
        model_type=str(config.values["model_type"]),
        hidden_size=hidden,
        vocab_size=rows,
        context_length=context,
        source="tokens",
        source_length=context,
        source_embedding=source,
        encoder=encoder,
        embedding=embedding,
        embedding_multiplier=hidden**0.5 if scaled else 1.0,
        decoder=decoder,
        head=Linear(embedding, logits_bias(checkpoint, rows, made)),
        made=made,
    )


_SOURCE, _HEAD = "model.encoder.embed_tokens.weight", "lm_head.weight"
SHARED_COPIES = (
    r"model\.(shared|(encoder|decoder)\.embed_tokens)\.weight",
    r"lm_head\.weight",
    r"model\.(encoder|decoder)\.(embed_positions\.weights?|version)",
)


def first_of(checkpoint: Checkpoint, *names: str) -> str:
    """The first of several names that a tensor of the checkpoint has; the first of all where none does."""
    return next((name for name in names if name in checkpoint.tensors), names[0])


def logits_bias(checkpoint: Checkpoint, rows: int, made: dict[str, NDArray[np.float32]]) -> Weight | None:
    """What a checkpoint says is added to the logits, stored as (1, vocabulary); None where it is zeros."""
    tensor = checkpoint.tensors.get(LOGITS_BIAS)
    if tensor is None or tensor.shape != (1, rows):
        return None
    bias = checkpoint.rows(LOGITS_BIAS, 0, 1)[0]
    made[LOGITS_BIAS] = bias
    return Weight("head.bias", "bias", (rows,), (Part(LOGITS_BIAS, 0, rows),)) if bias.any() else None
