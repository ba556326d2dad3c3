"""T5 (Raffel et al. 2020): RMS norms before the mixers, distances instead of positions, scores that are not scaled."""

from edgepress.exporter.model.architectures._common import ACTIVATIONS, linear, matrix, rms_norm
from edgepress.exporter.model.encoder_decoders.description import (
    CrossAttention,
    EncoderDecoder,
    RelativeBias,
    SelfAttention,
    Stack,
    Step,
)
from edgepress.exporter.model.encoder_decoders.families import Family
from edgepress.exporter.model.encoder_decoders.families._common import (
    Heads,
    Names,
    cross_attention,
    first_of,
    self_attention,
)
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.source.checkpoint import Checkpoint, same_tensor
from edgepress.exporter.source.config import Config

_NAMES = Names("q", "k", "v", "o", biases=(False,) * 4)
_SHARED = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_HEAD = "lm_head.weight"
IGNORED = (r"shared\.weight", r"(encoder|decoder)\.embed_tokens\.weight", r"lm_head\.weight",
           r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight")  # fmt: skip


def read(
    config: Config, checkpoint: Checkpoint, *, by_layer: bool = False, mlp: str = "relu", never_scaled: bool = False
) -> EncoderDecoder:
    """Defaults are transformers' T5Config's, that of ``feed_forward_proj`` is ``mlp``.

    ``by_layer`` has a table of distances in each layer (UMT5); ``never_scaled`` has no factor before the head (mT5).

    A config that says that head and embedding are not tied leaves out the factor before the head (T5 1.1), unless it
    says so itself; the head is what the checkpoint stores. Nothing limits a text but what the model was trained on,
    ``n_positions``.
    """
    hidden, vocab = config.integer("d_model", 512), config.integer("vocab_size", 32128)
    heads, head_dim = config.integer("num_heads", 8), config.integer("d_kv", 64)
    width, epsilon = config.integer("d_ff", 2048), config.number("layer_norm_epsilon", 1e-6, above=0.0)
    layers = config.integer("num_layers", 6)
    context = config.integer("n_positions", 512)
    config.without_effect("classifier_dropout", "dropout_rate", "is_encoder_decoder")
    config.without_effect("dense_act_fn", "is_gated_act", "output_past", "scalable_attention")
    buckets = config.integer("relative_attention_num_buckets", 32)
    longest = config.integer("relative_attention_max_distance", 128)
    if buckets < 4 or longest <= buckets // 2:
        raise config.refuse("relative_attention_num_buckets", f"of distances up to {longest}: not implemented")
    found = config.text("feed_forward_proj", mlp, [*ACTIVATIONS, *(f"gated-{one}" for one in ACTIVATIONS)])
    gated, _, name = found.rpartition("-")
    activation = ACTIVATIONS["gelu_new" if gated and name == "gelu" else name]
    scaled = config.flag("scale_decoder_outputs", config.flag("tie_word_embeddings", True)) and not never_scaled
    sizes = Heads(hidden, heads, head_dim, scale=1.0)

    def stack(side: str, count: int) -> Stack:
        prefix = "encoder." if side == "encoder" else ""

        def bias(index: int) -> RelativeBias:
            index = index if by_layer else 0  # the first layer's serves all others
            tensor = f"{side}.block.{index}.layer.0.SelfAttention.relative_attention_bias.weight"
            return RelativeBias(
                matrix(f"{prefix}layers.{index}.attention.distances", "positions", tensor, buckets, heads), longest
            )

        def layer(index: int) -> tuple[Step, ...]:
            tensors, name = f"{side}.block.{index}.layer", f"{prefix}layers.{index}"
            own = self_attention(f"{name}.attention", f"{tensors}.0.SelfAttention", _NAMES, sizes, bias=bias(index))
            mixers: list[tuple[str, SelfAttention | CrossAttention | MLP]] = [("attention", own)]
            if side == "decoder":
                other = cross_attention(f"{name}.cross_attention", f"{tensors}.1.EncDecAttention", _NAMES, sizes)
                mixers.append(("cross_attention", other))
            last = f"{tensors}.{len(mixers)}.DenseReluDense"
            up, gate = ("wi_1", "wi_0") if gated else ("wi", "")
            inner = MLP(
                gate=linear(f"{name}.mlp.gate", f"{last}.{gate}", width, hidden) if gate else None,
                up=linear(f"{name}.mlp.up", f"{last}.{up}", width, hidden),
                down=linear(f"{name}.mlp.down", f"{last}.wo", hidden, width),
                activation=activation,
            )
            mixers.append(("mlp", inner))
            return tuple(
                Step(
                    mixer=mixer,
                    before=rms_norm(f"{name}.{role}_norm", f"{tensors}.{place}.layer_norm.weight", hidden, epsilon),
                )
                for place, (role, mixer) in enumerate(mixers)
            )

        norm = rms_norm(f"{side}.last_norm", f"{side}.final_layer_norm.weight", hidden, epsilon)
        return Stack(layers=tuple(layer(index) for index in range(count)), last_norm=norm)

    embedding = matrix("embedding", "embedding", first_of(checkpoint, *_SHARED, _HEAD), vocab, hidden)
    return EncoderDecoder(
        model_type=str(config.values["model_type"]),
        hidden_size=hidden,
        vocab_size=vocab,
        context_length=context,
        source="tokens",
        source_length=0,
        source_embedding=embedding,
        encoder=stack("encoder", layers),
        embedding=embedding,
        decoder=stack("decoder", config.integer("num_decoder_layers", layers)),
        head=Linear(_head(checkpoint, embedding)),
        head_multiplier=hidden**-0.5 if scaled else 1.0,
    )


def _head(checkpoint: Checkpoint, embedding: Weight) -> Weight:
    """The head: the embedding, unless the checkpoint has another one."""
    if _HEAD not in checkpoint.tensors or same_tensor(checkpoint, embedding.parts[0].tensor, _HEAD):
        return embedding
    return matrix("head", "head", _HEAD, *embedding.shape)


FAMILY = Family("t5", "text2text-generation", read, IGNORED, inner="")
