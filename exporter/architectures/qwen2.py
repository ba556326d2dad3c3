"""Qwen2 and Qwen2.5 (Yang et al. 2024): Llama with biases on q, k and v, and sliding windows in the upper layers."""

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
    upper_layer_windows,
)
from edgepress.exporter.config import Config
from edgepress.exporter.decoder import Attention, Decoder, Layer
from edgepress.exporter.rope import read_rope


def read(config: Config) -> Decoder:
    """Defaults are transformers' Qwen2Config's."""
    sizes = read_sizes(
        config, vocab=151936, hidden=4096, intermediate=22016, layers=32, heads=32, kv_heads=32, context=32768
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    windows = upper_layer_windows(config, sizes)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    embedding, head = embedding_and_head(config, sizes, tied=False)

    def layer(index: int) -> Layer:
        name, tensors = f"layers.{index}", f"model.layers.{index}"
        attention = Attention(
            heads=sizes.heads,
            kv_heads=sizes.kv_heads,
            head_dim=sizes.head_dim,
            scale=sizes.head_dim**-0.5,
            qkv=fused_qkv(name, f"{tensors}.self_attn", sizes, bias=True),
            output=linear(
                f"{name}.attention.output",
                f"{tensors}.self_attn.o_proj",
                sizes.hidden,
                sizes.heads * sizes.head_dim,
            ),
            rope="default",
            window=windows[index],
        )
        return Layer(
            attention=attention,
            mlp=gated_mlp(name, f"{tensors}.mlp", sizes, activation),
            attention_norm=rms_norm(
                f"{name}.attention_norm", f"{tensors}.input_layernorm.weight", sizes.hidden, epsilon
            ),
            mlp_norm=rms_norm(f"{name}.mlp_norm", f"{tensors}.post_attention_layernorm.weight", sizes.hidden, epsilon),
        )

    return Decoder(
        model_type="qwen2",
        hidden_size=sizes.hidden,
        vocab_size=sizes.vocab,
        context_length=sizes.context,
        embedding=embedding,
        layers=tuple(layer(index) for index in range(sizes.layers)),
        final_norm=rms_norm("final_norm", "model.norm.weight", sizes.hidden, epsilon),
        head=head,
        ropes={"default": rope},
    )


ARCHITECTURE = Architecture(model_type="qwen2", read=read, ignored_tensors=IGNORED_TENSORS)
