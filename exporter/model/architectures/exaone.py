"""EXAONE 3 to 3.5 and Deep (LG AI Research 2024): Llama with GPT-2's names for its tensors."""

from collections.abc import Collection
from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS, llama_decoder, read_sizes
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

_TENSORS = {
    "model.embed_tokens.": "transformer.wte.",
    "model.layers.": "transformer.h.",
    "model.norm.": "transformer.ln_f.",
    ".self_attn.o_proj.": ".attn.attention.out_proj.",
    ".self_attn.": ".attn.attention.",
    ".input_layernorm.": ".ln_1.",
    ".post_attention_layernorm.": ".ln_2.",
    ".mlp.gate_proj.": ".mlp.c_fc_0.",
    ".mlp.up_proj.": ".mlp.c_fc_1.",
    ".mlp.down_proj.": ".mlp.c_proj.",
}


def _published(part: Part, tensors: Collection[str]) -> Part:
    """The tensor's published name, in checkpoints that have not transformers'."""
    name = part.tensor
    if name not in tensors:
        for ours, theirs in _TENSORS.items():
            name = name.replace(ours, theirs)
    return replace(part, tensor=name) if name in tensors else part


def read(config: Config) -> Decoder:
    """Defaults are transformers' ExaoneConfig's, which computes it as a Llama."""
    sizes = read_sizes(
        config, vocab=102_400, hidden=4096, intermediate=14_336, layers=32, heads=32, kv_heads=8, context=4096
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=500_000.0)
    bias = config.flag("attention_bias", False)
    return llama_decoder(
        config,
        "exaone",
        sizes,
        rope,
        epsilon=1e-5,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=config.flag("mlp_bias", False),
    )


ARCHITECTURE = Architecture(
    model_type="exaone",
    read=read,
    ignored_tensors=(*IGNORED_TENSORS, r"transformer\.h\.\d+\.attn\.attention\.rotary\.inv_freq"),
    elsewhere=_published,
    aliases={
        "num_layers": "num_hidden_layers",
        "layer_norm_epsilon": "rms_norm_eps",
        "activation_function": "hidden_act",
    },
)
