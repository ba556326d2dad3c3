"""What families with state spaces have in common: sizes, the kinds of their layers, and the names of tensors."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from edgepress.exporter.model.architectures._common import Sizes, layer_rms_norm, linear, matrix, rms_norm
from edgepress.exporter.model.description import Block, Decoder, Layer, Mixer
from edgepress.exporter.model.mixers.mamba import Mamba
from edgepress.exporter.model.mixers.mamba2 import Mamba2
from edgepress.exporter.model.mixers.mlp import MLP, Activation
from edgepress.exporter.model.parts.primitives import Linear, Norm, Weight
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

STATE, ATTENTION = "linear_attention", "full_attention"
# What transformers 4 calls them, and 5 reads as the above.
_OLD_NAMES = {"mamba": STATE, "attention": ATTENTION}
# Of models without attention, which have no limit of their own: as long as the longest that people give others.
CONTEXT = 131_072
# How Mamba's steps are drawn before it is trained, and how its kernels compute.
TRAINING = (
    *("time_step_scale", "time_step_min", "time_step_max", "time_step_init_scheme", "time_step_floor"),
    *("residual_in_fp32", "rescale_prenorm_residual", "use_mambapy", "use_associative_scan", "intermediate_size"),
    *("chunk_size",),
)


@dataclass(frozen=True)
class StateSpace:
    """The sizes of a :class:`Mamba2`, as it has them, and which of its projections have biases."""

    heads: int
    head_dim: int
    state_size: int
    groups: int
    taps: int
    step_limits: tuple[float, float]
    conv_bias: bool
    input_bias: bool
    output_bias: bool

    @property
    def width(self) -> int:
        """Channels of what is scanned."""
        return self.heads * self.head_dim


def read_state_space(config: Config, *, hidden: int, width: int | None = None) -> StateSpace:
    """Read the keys of Bamba, which Granite and Falcon-H1 share; ``width`` if it is not a multiple of ``hidden``."""
    if width is None:
        width = config.integer("mamba_expand", 2) * hidden
    heads = config.integer("mamba_n_heads", 128)
    if width % heads:
        raise config.refuse("mamba_n_heads", f"must divide the width of the state space, {width}")
    automatic = config.values.get("mamba_d_head") in (None, "auto")
    config.without_effect("mamba_chunk_size", "mamba_d_head")  # the same mathematics in pieces of another length
    head_dim = width // heads if automatic else config.integer("mamba_d_head")
    if head_dim * heads != width:
        raise config.refuse("mamba_d_head", f"times {heads} heads must be the width of the state space, {width}")
    config.text("hidden_act", "silu", ("silu", "swish"))  # of the convolution; no other is in its operator
    bias = config.flag("mamba_proj_bias", False)
    return checked(
        config,
        "mamba_n_groups",
        StateSpace(
            heads=heads,
            head_dim=head_dim,
            state_size=config.integer("mamba_d_state", 256),
            groups=config.integer("mamba_n_groups", 1),
            taps=config.integer("mamba_d_conv", 4, minimum=2),
            step_limits=config.limits("time_step_limit", 0.0),
            conv_bias=config.flag("mamba_conv_bias", True),
            input_bias=bias,
            output_bias=bias,
        ),
    )


def checked(config: Config, key: str, sizes: StateSpace) -> StateSpace:
    """The same sizes; InputError when the groups, which the config calls ``key``, do not divide the heads."""
    if sizes.heads % sizes.groups:
        raise config.refuse(key, f"must divide the number of heads, {sizes.heads}")
    return sizes


def mamba2(
    index: int,
    tensors: str,
    hidden: int,
    sizes: StateSpace,
    *,
    epsilon: float | None,
    norm_before_gate: bool = False,
    multipliers: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0),
) -> Mamba2:
    """A state space whose tensors start with ``tensors``; without ``epsilon`` it has no norm."""
    name = f"layers.{index}.mamba2"
    channels = sizes.width + 2 * sizes.groups * sizes.state_size

    def by_head(role: str, tensor: str) -> Weight:
        return Weight(f"{name}.{role}", "recurrence", (sizes.heads,), (Part(f"{tensors}.{tensor}", 0, sizes.heads),))

    norm: Norm | None = None
    if epsilon is not None:
        norm = rms_norm(f"{name}.norm", f"{tensors}.norm.weight", sizes.width, epsilon)
    kernel, bias = (Part(f"{tensors}.conv1d.{what}", 0, channels) for what in ("weight", "bias"))
    return Mamba2(
        inputs=linear(
            f"{name}.inputs", f"{tensors}.in_proj", sizes.width + channels + sizes.heads, hidden, bias=sizes.input_bias
        ),
        kernel=Weight(f"{name}.kernel", "kernel", (channels, 1, sizes.taps), (kernel,)),
        bias=Weight(f"{name}.bias", "bias", (channels,), (bias,)) if sizes.conv_bias else None,
        step_bias=by_head("step_bias", "dt_bias"),
        decay=by_head("decay", "A_log"),
        skip=by_head("skip", "D"),
        norm=norm,
        output=linear(f"{name}.output", f"{tensors}.out_proj", hidden, sizes.width, bias=sizes.output_bias),
        heads=sizes.heads,
        head_dim=sizes.head_dim,
        state_size=sizes.state_size,
        state_groups=sizes.groups,
        step_limits=sizes.step_limits,
        norm_before_gate=norm_before_gate,
        multipliers=multipliers,
    )


def mamba(
    index: int,
    tensors: str,
    hidden: int,
    sizes: tuple[int, int, int, int],
    *,
    conv_bias: bool,
    bias: bool,
    norms: float | None = None,
    plain_norms: float | None = None,
) -> Mamba:
    """A selective state space whose tensors start with ``tensors``; ``sizes`` are its width, those of its state and of
    the low-rank step, and the taps of its convolution. ``norms`` is the ε of norms with gains.
    """
    (width, state_size, rank, taps), name = sizes, f"layers.{index}.mamba"

    def norm(role: str, tensor: str, size: int) -> Norm | None:
        return None if norms is None else rms_norm(f"{name}.{role}", f"{tensors}.{tensor}.weight", size, norms)

    kernel, kernel_bias = (Part(f"{tensors}.conv1d.{what}", 0, width) for what in ("weight", "bias"))
    return Mamba(
        inputs=linear(f"{name}.inputs", f"{tensors}.in_proj", 2 * width, hidden, bias=bias),
        kernel=Weight(f"{name}.kernel", "kernel", (width, 1, taps), (kernel,)),
        bias=Weight(f"{name}.bias", "bias", (width,), (kernel_bias,)) if conv_bias else None,
        parameters=linear(f"{name}.parameters", f"{tensors}.x_proj", rank + 2 * state_size, width),
        step_norm=norm("step_norm", "dt_layernorm", rank),
        b_norm=norm("b_norm", "b_layernorm", state_size),
        c_norm=norm("c_norm", "c_layernorm", state_size),
        step=linear(f"{name}.step", f"{tensors}.dt_proj", width, rank, bias=True),
        decay=Weight(f"{name}.decay", "recurrence", (width, state_size), (Part(f"{tensors}.A_log", 0, width),)),
        skip=Weight(f"{name}.skip", "recurrence", (width,), (Part(f"{tensors}.D", 0, width),)),
        output=linear(f"{name}.output", f"{tensors}.out_proj", hidden, width, bias=bias),
        plain_norms=plain_norms,
    )


def low_rank(config: Config, key: str, hidden: int) -> int:
    """How many numbers a step is made of: a sixteenth of the hidden size unless the config says otherwise."""
    if config.values.get(key) in (None, "auto"):
        config.without_effect(key)
        return -(-hidden // 16)
    return config.integer(key)


def read_mamba(config: Config, model_type: str, *, plain_norms: float | None) -> Decoder:
    """Mamba, one in each layer and nothing else. Defaults are transformers' MambaConfig's."""
    hidden, vocab = config.integer("hidden_size", 768), config.integer("vocab_size", 50280)
    epsilon = config.number("layer_norm_epsilon", 1e-5, above=0.0)
    width, taps = config.integer("expand", 2) * hidden, config.integer("conv_kernel", 4, minimum=2)
    sizes = (width, config.integer("state_size", 16), low_rank(config, "time_step_rank", hidden), taps)
    config.text("hidden_act", "silu", ("silu", "swish"))
    bias, conv_bias = config.flag("use_bias", False), config.flag("use_conv_bias", True)

    def layer(index: int) -> Layer:
        mixer = mamba(
            index,
            f"backbone.layers.{index}.mixer",
            hidden,
            sizes,
            conv_bias=conv_bias,
            bias=bias,
            plain_norms=plain_norms,
        )
        return one_block(index, hidden, epsilon, mixer, f"backbone.layers.{index}")

    return backbone(config, model_type, (vocab, hidden), layer, epsilon=epsilon, tied=True)


def one_block(index: int, hidden: int, epsilon: float, mixer: Mixer, tensors: str) -> Layer:
    """A layer that is one mixer behind its norm."""
    name = f"layers.{index}.{mixer.kind}_norm"
    return Layer((Block(norm=rms_norm(name, f"{tensors}.norm.weight", hidden, epsilon), mixer=mixer),))


def read_layer_kinds(config: Config, layers: int | None, *others: str) -> list[str] | None:
    """The kind of each layer by today's names, as one of two keys says it; None where neither does.

    ``others`` are kinds beside state spaces and attention; without ``layers`` the list says how many there are.
    """
    known, found = (STATE, ATTENTION, *others, *_OLD_NAMES), []
    for key in ("layer_types", "layers_block_type"):
        listed = config.values.get(key)
        length = len(listed) if layers is None and isinstance(listed, list) else layers or 0
        if kinds := config.optional_texts(key, length, known):
            found.append([_OLD_NAMES.get(kind, kind) for kind in kinds])
    if any(kinds != found[0] for kinds in found):
        raise config.refuse("layers_block_type", "layer_types is there too, and says something else; keep one of them")
    return found[0] if found else None


def block(index: int, sizes: Sizes, epsilon: float, mixer: Mixer, tensor: str) -> Block:
    """A mixer behind the norm ``tensor`` of its layer."""
    return Block(norm=layer_rms_norm(index, f"{mixer.kind}_norm", tensor, sizes, epsilon=epsilon), mixer=mixer)


def feed_forward(
    index: int, sizes: Sizes, activation: Activation, *, bias: bool = False, gate_multiplier: float = 1.0
) -> MLP:
    """The MLP of Bamba and Falcon-H1: ``feed_forward.{gate,up,down}_proj``."""
    name, tensors = f"layers.{index}.mlp", f"model.layers.{index}.feed_forward"
    width = sizes.intermediate[index]
    return MLP(
        gate=linear(f"{name}.gate", f"{tensors}.gate_proj", width, sizes.hidden, bias=bias),
        up=linear(f"{name}.up", f"{tensors}.up_proj", width, sizes.hidden, bias=bias),
        down=linear(f"{name}.down", f"{tensors}.down_proj", sizes.hidden, width, bias=bias),
        activation=activation,
        gate_multiplier=gate_multiplier,
    )


def with_final_norm(decoder: Decoder, tensor: str) -> Decoder:
    """The same with another name of the last norm's tensor."""
    if decoder.final_norm is None:
        raise ValueError(f"{decoder.model_type} has no final norm")
    norm = rms_norm("final_norm", tensor, decoder.hidden_size, decoder.final_norm.epsilon)
    return replace(decoder, final_norm=norm)


def backbone(
    config: Config,
    model_type: str,
    sizes: tuple[int, int],
    layer: Callable[[int], Layer],
    *,
    epsilon: float,
    tied: bool,
    layers: int = 32,
) -> Decoder:
    """Assemble a decoder from its vocabulary and hidden size: ``backbone.embeddings``, layers, ``backbone.norm_f``."""
    vocab, hidden = sizes
    config.without_effect(*TRAINING)
    embedding = matrix("embedding", "embedding", "backbone.embeddings.weight", vocab, hidden)
    head = embedding if config.flag("tie_word_embeddings", tied) else matrix("head", "head", "lm_head.weight", *sizes)
    return Decoder(
        model_type=model_type,
        hidden_size=hidden,
        vocab_size=vocab,
        context_length=CONTEXT,
        embedding=embedding,
        layers=tuple(layer(index) for index in range(config.integer("num_hidden_layers", layers))),
        final_norm=rms_norm("final_norm", "backbone.norm_f.weight", hidden, epsilon),
        head=Linear(head),
        ropes={},
    )
