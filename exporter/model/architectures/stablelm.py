"""StableLM (Bellagamba et al. 2024): Llama with layer norms and rotary of a quarter of each head."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    embedding_and_head,
    gated_mlp,
    layer_norm,
    read_activation,
    read_sizes,
    separate_attention,
)
from edgepress.exporter.model.architectures._older import NO_HEAD_KEY, layer_norm_decoder, layer_norm_layer
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.parts.primitives import Norm, Weight
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part


def read(config: Config) -> Decoder:
    """Defaults are transformers' StableLmConfig's.

    ``qk_layernorm`` norms each head of q and k with a gain of its own; with ``use_parallel_residual`` attention and MLP
    stand beside each other behind one norm.
    """
    sizes = read_sizes(
        config, vocab=50304, hidden=2560, intermediate=6912, layers=32, heads=32, kv_heads=32, context=4096
    )
    if sizes.heads * sizes.head_dim != sizes.hidden:
        raise config.refuse("head_dim", f"must be hidden_size / num_attention_heads = {sizes.hidden // sizes.heads}")
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, partial=True, share=0.25)
    epsilon = config.number("layer_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    bias, normed = config.flag("use_qkv_bias", False), config.flag("qk_layernorm", False)
    parallel = config.flag("use_parallel_residual", False)
    ends = embedding_and_head(config, sizes, tied=False)
    second = "input_layernorm" if parallel else "post_attention_layernorm"

    def layer(index: int) -> Layer:
        norms = _query_and_key_norm(index, sizes, epsilon) if normed else None
        attention = separate_attention(index, sizes, qkv_bias=bias, norms=norms)
        return layer_norm_layer(
            index,
            sizes,
            epsilon,
            (attention, gated_mlp(index, sizes, activation)),
            f"model.layers.{index}",
            norms=("input_layernorm", second),
            parallel=parallel,
        )

    final_norm = layer_norm("final_norm", "model.norm", sizes.hidden, epsilon)
    return layer_norm_decoder("stablelm", sizes, layer, ends, final_norm, rope=rope)


def _query_and_key_norm(index: int, sizes: Sizes, epsilon: float) -> tuple[Norm, Norm]:
    def norm(role: str, tensors: str, heads: int) -> Norm:
        parts = tuple(Part(f"{tensors}.norms.{head}.weight", 0, sizes.head_dim) for head in range(heads))
        gain = Weight(f"layers.{index}.attention.{role}_norm", "norm", (heads * sizes.head_dim,), parts)
        return Norm(gain, epsilon, "layer")

    tensors = f"model.layers.{index}.self_attn"
    query = norm("query", f"{tensors}.q_layernorm", sizes.heads)
    return query, norm("key", f"{tensors}.k_layernorm", sizes.kv_heads)


ARCHITECTURE = Architecture(model_type="stablelm", read=read, ignored_tensors=IGNORED_TENSORS, keeps_heads=NO_HEAD_KEY)
