"""IQuest-Coder (IQuest Research 2026): Llama by another name."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS, llama_decoder, read_sizes
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' IQuestCoderConfig's."""
    sizes = read_sizes(
        config,
        vocab=76800,
        hidden=5120,
        intermediate=27648,
        layers=80,
        heads=40,
        kv_heads=8,
        head_dim=128,
        context=131072,
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    bias = config.flag("attention_bias", False)
    if config.flag("use_sliding_window", False) or config.optional_number("clip_qkv") is not None:
        key = "clip_qkv" if config.has("clip_qkv") else "use_sliding_window"
        raise config.refuse(key, "not implemented for iquestcoder, in transformers neither; leave it out")
    return llama_decoder(
        config,
        "iquestcoder",
        sizes,
        rope,
        epsilon=1e-5,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=config.flag("mlp_bias", False),
    )


ARCHITECTURE = Architecture(model_type="iquestcoder", read=read, ignored_tensors=IGNORED_TENSORS)
