"""Qwen3-Next (Qwen Team 2025): Qwen3.5's layers, projections of the delta rule stored by key heads, and experts."""

from collections.abc import Callable, Sequence

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    gated_mlp,
    read_activation,
    read_sizes,
)
from edgepress.exporter.model.architectures._experts import (
    read_counts,
    router,
    separate_experts,
    shared_expert,
    sparse_without,
)
from edgepress.exporter.model.architectures._gated_delta import (
    DeltaSizes,
    by_layer,
    delta_norm,
    gated_delta,
    mtp_layer,
    qwen_decoder,
    read_delta_sizes,
)
from edgepress.exporter.model.description import Decoder, Mixer
from edgepress.exporter.model.mixers.gated_delta import GatedDelta
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part


def read(config: Config) -> Decoder:
    """Defaults are transformers' Qwen3NextConfig's."""
    sizes = read_sizes(
        config,
        vocab=151_936,
        hidden=2048,
        intermediate=5632,
        layers=48,
        heads=16,
        kv_heads=2,
        head_dim=256,
        context=32_768,
    )
    delta = read_delta_sizes(config, key_heads=16, value_heads=32, key_dim=128, value_dim=128)
    activation = read_activation(config, "hidden_act", "silu")
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    experts = _experts(config, sizes)

    def mixer(index: int) -> GatedDelta:
        tensors = f"model.layers.{index}.linear_attn"
        key, value = delta.key_dim, delta.value_heads // delta.key_heads * delta.value_dim
        shared = delta.value_heads // delta.key_heads
        return gated_delta(
            index,
            sizes.hidden,
            delta,
            inputs=_by_key_head(f"{tensors}.in_proj_qkvz.weight", delta, (key, key, value, value)),
            rates=_by_key_head(f"{tensors}.in_proj_ba.weight", delta, (shared, shared)),
            norm=delta_norm(index, delta, "norm", epsilon),
            output="out_proj",
        )

    def mlp(index: int) -> Mixer:
        return experts(index) or gated_mlp(index, sizes, activation)

    return qwen_decoder(config, "qwen3_next", sizes, mixer, mlp)


def _by_key_head(tensor: str, sizes: DeltaSizes, rows: Sequence[int]) -> list[Part]:
    """The rows of each of several projections, which are stored a key head of all of them after the other."""
    total = sum(rows)
    return [
        Part(tensor, start, start + count)
        for number, count in enumerate(rows)
        for start in (head * total + sum(rows[:number]) for head in range(sizes.key_heads))
    ]


def _experts(config: Config, sizes: Sizes) -> Callable[[int], MixtureOfExperts | None]:
    """The experts of a layer: none where ``mlp_only_layers`` lists it or ``decoder_sparse_step`` leaves it out."""
    dense, step = config.optional_integers("mlp_only_layers", 0) or [], config.integer("decoder_sparse_step", 1)
    width = config.integer("moe_intermediate_size", 512)
    shared = config.integer("shared_expert_intermediate_size", 512)
    normalized = config.flag("norm_topk_prob", True)
    if not config.integer("num_experts", 512, minimum=0):
        config.without_effect("num_experts_per_tok")
        return lambda _: None
    count, chosen = read_counts(config, "num_experts", 512, 10)

    def experts(index: int) -> MixtureOfExperts | None:
        if index in dense or (index + 1) % step:
            return None
        tensors = f"model.layers.{index}.mlp"
        return MixtureOfExperts(
            router=router(index, f"{tensors}.gate", count, sizes.hidden),
            experts=separate_experts(index, f"{tensors}.experts", sizes, count=count, width=width),
            shared=shared_expert(
                index, f"{tensors}.shared_expert", sizes.hidden, shared, share=f"{tensors}.shared_expert_gate"
            ),
            routing=Routing(count=chosen, normalized=normalized),
        )

    return experts


ARCHITECTURE = Architecture(
    model_type="qwen3_next",
    read=read,
    ignored_tensors=(*IGNORED_TENSORS, r"mtp\..*"),
    by_layer=by_layer,
    mtp=mtp_layer,
    without_layers=sparse_without,
    experts_keys=("num_experts",),
)
