"""InternLM3 (Shanghai AI Laboratory 2025): Llama with other names for its biases."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS, llama_decoder, read_sizes
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' InternLM3Config's, which computes it as a Llama.

    ``qkv_bias`` is also called ``attention_bias``, and ``bias`` ``mlp_bias``; they must be the same.
    """
    sizes = read_sizes(
        config,
        vocab=128512,
        hidden=4096,
        intermediate=10240,
        layers=48,
        heads=32,
        kv_heads=2,
        head_dim=128,
        context=32768,
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    flags = {key: config.flag(key, False) for key in ("attention_bias", "qkv_bias", "mlp_bias", "bias")}
    found = {flag for key, flag in flags.items() if config.has(key)}
    if len(found) > 1:
        raise config.refuse("qkv_bias", "differs from bias; transformers' Llama has both or none, and so has this")
    bias = any(found)
    return llama_decoder(config, "internlm3", sizes, rope, epsilon=1e-5, qkv_bias=bias, output_bias=bias, mlp_bias=bias)


ARCHITECTURE = Architecture(model_type="internlm3", read=read, ignored_tensors=IGNORED_TENSORS)
