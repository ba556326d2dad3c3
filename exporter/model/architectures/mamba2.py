"""Mamba-2 (Dao & Gu 2024): state spaces and nothing else, one in each layer; Codestral Mamba."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._mamba import StateSpace, backbone, checked, mamba2, one_block
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Mamba2Config's."""
    hidden, vocab = config.integer("hidden_size", 4096), config.integer("vocab_size", 32768)
    epsilon = config.number("layer_norm_epsilon", 1e-5, above=0.0)
    state_space = _state_space(config, hidden)
    config.without_effect("time_step_rank")

    def layer(index: int) -> Layer:
        tensors = f"backbone.layers.{index}"
        mixer = mamba2(index, f"{tensors}.mixer", hidden, state_space, epsilon=epsilon)
        return one_block(index, hidden, epsilon, mixer, tensors)

    return backbone(config, "mamba2", (vocab, hidden), layer, epsilon=epsilon, tied=False, layers=64)


def _state_space(config: Config, hidden: int) -> StateSpace:
    heads, head_dim = config.integer("num_heads", 128), config.integer("head_dim", 64)
    if config.integer("expand", 2) * hidden != heads * head_dim:
        raise config.refuse("expand", f"times hidden_size = {hidden} must be num_heads · head_dim = {heads * head_dim}")
    config.text("hidden_act", "silu", ("silu", "swish"))
    bias = config.flag("use_bias", False)
    return checked(
        config,
        "n_groups",
        StateSpace(
            heads=heads,
            head_dim=head_dim,
            state_size=config.integer("state_size", 128),
            groups=config.integer("n_groups", 8),
            taps=config.integer("conv_kernel", 4, minimum=2),
            step_limits=config.limits("time_step_limit", 0.0),
            conv_bias=config.flag("use_conv_bias", True),
            input_bias=bias,
            output_bias=bias,
        ),
    )


ARCHITECTURE = Architecture(
    model_type="mamba2",
    read=read,
    ignored_tensors=(r"lm_head\.weight",),
    base_prefix="backbone.",
    other_names={"backbone.embeddings.": "backbone.embedding."},
)
