"""GPT-2 (Radford et al. 2019): layer norms with bias, learned positions, no gate, projections stored transposed."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    Sizes,
    embedding_and_head,
    layer_norm,
    linear,
    matrix,
    read_activation,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Linear
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' GPT2Config's.

    ``scale_attn_weights`` false means no 1 / sqrt(head_dim); ``scale_attn_by_inverse_layer_idx`` divides scores by the
    layer's number, from 1. ``head_dim`` is ours: transformers takes hidden size / heads, which is another number where
    heads were removed.
    """
    sizes = _sizes(config)
    epsilon = config.number("layer_norm_epsilon", 1e-5, above=0.0)
    activation = read_activation(config, "activation_function", "gelu_new")
    scale = sizes.head_dim**-0.5 if config.flag("scale_attn_weights", True) else 1.0
    by_layer = config.flag("scale_attn_by_inverse_layer_idx", False)
    config.without_effect("reorder_and_upcast_attn")  # the same scores, computed in float32 as here
    embedding, head = embedding_and_head(config, sizes, tied=True, embedding="transformer.wte.weight")

    def layer(index: int) -> Layer:
        name, tensors = f"layers.{index}", f"transformer.h.{index}"
        hidden, inner, attended = sizes.hidden, sizes.intermediate[index], sizes.heads * sizes.head_dim

        def conv1d(role: str, tensor: str, rows: int, columns: int) -> Linear:
            return linear(f"{name}.{role}", f"{tensors}.{tensor}", rows, columns, bias=True, transposed=True)

        attention = Attention(
            heads=sizes.heads,
            kv_heads=sizes.kv_heads,
            head_dim=sizes.head_dim,
            scale=scale / (index + 1) if by_layer else scale,
            qkv=conv1d("attention.qkv", "attn.c_attn", 3 * attended, hidden),
            output=conv1d("attention.output", "attn.c_proj", hidden, attended),
            rope=None,
        )
        mlp = MLP(
            up=conv1d("mlp.up", "mlp.c_fc", inner, hidden),
            down=conv1d("mlp.down", "mlp.c_proj", hidden, inner),
            activation=activation,
        )
        return Layer(
            (
                Block(norm=layer_norm(f"{name}.attention_norm", f"{tensors}.ln_1", hidden, epsilon), mixer=attention),
                Block(norm=layer_norm(f"{name}.mlp_norm", f"{tensors}.ln_2", hidden, epsilon), mixer=mlp),
            )
        )

    return Decoder(
        model_type="gpt2",
        hidden_size=sizes.hidden,
        vocab_size=sizes.vocab,
        context_length=sizes.context,
        embedding=embedding,
        layers=tuple(layer(index) for index in range(sizes.layers)),
        final_norm=layer_norm("final_norm", "transformer.ln_f", sizes.hidden, epsilon),
        head=head,
        ropes={},
        positions=matrix("positions", "positions", "transformer.wpe.weight", sizes.context, sizes.hidden),
    )


def _sizes(config: Config) -> Sizes:
    hidden, heads = config.integer("n_embd", 768), config.integer("n_head", 12)
    head_dim = config.optional_integer("head_dim")
    if head_dim is None and hidden % heads:
        raise config.refuse("n_embd", f"must be a multiple of n_head = {heads}")
    layers = config.integer("n_layer", 12)
    return Sizes(
        vocab=config.integer("vocab_size", 50257),
        hidden=hidden,
        intermediate=config.integers_by_layer("n_inner", 4 * hidden, layers),
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim or hidden // heads,
        context=config.integer("n_positions", 1024),
    )


ARCHITECTURE = Architecture(
    model_type="gpt2",
    read=read,
    ignored_tensors=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)", r"lm_head\.weight"),  # masks; the tied head
    base_prefix="transformer.",
    layers_key="n_layer",
    width_key="n_inner",
    heads_key="n_head",
    # GPT2Config takes the last four for n_embd, n_positions, n_head and n_layer
    config_keys=(
        "add_cross_attention",
        "hidden_size",
        "max_position_embeddings",
        "num_attention_heads",
        "num_hidden_layers",
    ),
)
