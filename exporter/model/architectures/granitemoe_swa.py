"""Granite with sliding windows and experts (IBM 2026)."""

from edgepress.exporter.model.architectures import Architecture, granite_swa
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS, read_sizes
from edgepress.exporter.model.architectures._experts import read_counts, read_silu
from edgepress.exporter.model.architectures.granitemoe import granite_experts
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' GraniteMoeSWAConfig's."""
    sizes = read_sizes(
        config, vocab=32000, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    read_silu(config, "hidden_act")
    count, chosen = read_counts(config, "num_local_experts", 8, 2)
    shared = config.integer("shared_intermediate_size", 0, minimum=0)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    return granite_swa.decoder(
        config,
        "granitemoe_swa",
        sizes,
        lambda index: granite_experts(
            index, sizes, count=count, chosen=chosen, width=sizes.intermediate[index], shared=shared
        ),
        epsilon=epsilon,
        tied=False,
    )


ARCHITECTURE = Architecture(
    model_type="granitemoe_swa",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    by_layer=granite_swa.by_layer,
    keeps_heads="each head has a sink",
    other_words={
        "block_sparse_moe.router.layer.": "block_sparse_moe.router.",
        "block_sparse_moe.input_linear.weight": "block_sparse_moe.experts.gate_up_proj",
        "block_sparse_moe.output_linear.weight": "block_sparse_moe.experts.down_proj",
    },
    experts_keys=("num_local_experts",),
)
