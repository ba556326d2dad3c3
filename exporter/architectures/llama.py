"""Llama 1 to 3.2 (Touvron et al. 2023; Dubey et al. 2024), and whatever shares its form: SmolLM2, TinyLlama, Yi."""

from edgepress.exporter.architectures import Architecture
from edgepress.exporter.architectures._common import (
    IGNORED_TENSORS,
    embedding_and_head,
    fused_qkv,
    gated_mlp,
    linear,
    read_activation,
    read_sizes,
    rms_norm,
)
from edgepress.exporter.config import Config
from edgepress.exporter.decoder import Attention, Decoder, Layer
from edgepress.exporter.rope import read_rope


def read(config: Config) -> Decoder:
    """Defaults are transformers' LlamaConfig's. ``attention_bias`` and ``mlp_bias`` are for all their projections."""
    sizes = read_sizes(
        config, vocab=32000, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    attention_bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    embedding, head = embedding_and_head(config, sizes, tied=False)

    def layer(index: int) -> Layer:
        name, tensors = f"layers.{index}", f"model.layers.{index}"
        attention = Attention(
            heads=sizes.heads,
            kv_heads=sizes.kv_heads,
            head_dim=sizes.head_dim,
            scale=sizes.head_dim**-0.5,
            qkv=fused_qkv(name, f"{tensors}.self_attn", sizes, bias=attention_bias),
            output=linear(
                f"{name}.attention.output",
                f"{tensors}.self_attn.o_proj",
                sizes.hidden,
                sizes.heads * sizes.head_dim,
                bias=attention_bias,
            ),
            rope="default",
        )
        return Layer(
            attention=attention,
            mlp=gated_mlp(name, f"{tensors}.mlp", sizes, activation, bias=mlp_bias),
            attention_norm=rms_norm(
                f"{name}.attention_norm", f"{tensors}.input_layernorm.weight", sizes.hidden, epsilon
            ),
            mlp_norm=rms_norm(f"{name}.mlp_norm", f"{tensors}.post_attention_layernorm.weight", sizes.hidden, epsilon),
        )

    return Decoder(
        model_type="llama",
        hidden_size=sizes.hidden,
        vocab_size=sizes.vocab,
        context_length=sizes.context,
        embedding=embedding,
        layers=tuple(layer(index) for index in range(sizes.layers)),
        final_norm=rms_norm("final_norm", "model.norm.weight", sizes.hidden, epsilon),
        head=head,
        ropes={"default": rope},
    )


ARCHITECTURE = Architecture(model_type="llama", read=read, ignored_tensors=IGNORED_TENSORS)
