"""What the family files have in common: sizes, norms, projections and the layer that most of them share."""

from dataclasses import dataclass
from typing import Literal

from edgepress.exporter.config import Config
from edgepress.exporter.decoder import MLP, Activation, Kind, Linear, Norm, Part, Weight

# transformers' names (activations.py) of what we implement. gelu_new, gelu_fast and gelu_accurate write the same tanh
# formula in different orders.
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "relu": "relu",
}
IGNORED_TENSORS = (
    r"(model\.)?(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",  # saved by transformers before 4.32
    r"lm_head\.weight",  # where it is tied to the embedding, some checkpoints hold the copy too
)
LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Sizes:
    """The dimensions of a decoder."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int


def read_sizes(
    config: Config,
    *,
    vocab: int,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int | None,
    context: int,
    head_dim: int | None = None,
) -> Sizes:
    """Read the usual keys; the arguments are the family's defaults.

    ``kv_heads`` None means as many as heads, ``head_dim`` None means hidden size / heads.
    """
    hidden_size = config.integer("hidden_size", hidden)
    count = config.integer("num_attention_heads", heads)
    # An explicit null means "as many as heads" in every family, also where a missing key means a number.
    default_kv = count if kv_heads is None or "num_key_value_heads" in config.values else kv_heads
    kv_count = config.integer("num_key_value_heads", default_kv)
    if count % kv_count:
        raise config.refuse("num_key_value_heads", f"must divide num_attention_heads = {count}")
    if head_dim is None and not config.has("head_dim") and hidden_size % count:
        raise config.refuse("hidden_size", f"must be a multiple of num_attention_heads = {count}")
    return Sizes(
        vocab=config.integer("vocab_size", vocab),
        hidden=hidden_size,
        intermediate=config.integer("intermediate_size", intermediate),
        layers=config.integer("num_hidden_layers", layers),
        heads=count,
        kv_heads=kv_count,
        head_dim=config.integer("head_dim", head_dim or hidden_size // count),
        context=config.integer("max_position_embeddings", context),
    )


def read_activation(config: Config, key: str, default: str) -> Activation:
    """Read the MLP's activation function."""
    return ACTIVATIONS[config.text(key, default, ACTIVATIONS)]


def effective_window(window: int, context: int) -> int | None:
    """Return the window of a sliding layer, or None where no context is long enough to reach past it.

    transformers (masking_utils.sliding_window_overlay): a query at position i sees keys j with i − window < j ≤ i, so
    ``window`` positions, itself included.
    """
    return window if window < context else None


def rms_norm(name: str, tensor: str, size: int, epsilon: float, plus: float = 0.0) -> Norm:
    """RMS norm whose gain is ``tensor`` + ``plus``."""
    return Norm(Weight(name, "norm", (size,), (Part(tensor, 0, size),), plus), epsilon)


def layer_norm(name: str, tensor: str, size: int, epsilon: float) -> Norm:
    """Layer norm with gain ``tensor``.weight and bias ``tensor``.bias."""
    gain = Weight(name, "norm", (size,), (Part(f"{tensor}.weight", 0, size),))
    bias = Weight(f"{name}.bias", "bias", (size,), (Part(f"{tensor}.bias", 0, size),))
    return Norm(gain, epsilon, "layer", bias)


def matrix(
    name: str, kind: Kind, tensor: str, rows: int, columns: int, *, start: int = 0, transposed: bool = False
) -> Weight:
    """``rows`` rows of ``tensor`` from row ``start`` on."""
    return Weight(name, kind, (rows, columns), (Part(tensor, start, start + rows, transposed),))


def linear(name: str, tensor: str, rows: int, columns: int, *, bias: bool = False, transposed: bool = False) -> Linear:
    """Project with ``tensor``.weight, and ``tensor``.bias."""
    weight = matrix(name, "linear", f"{tensor}.weight", rows, columns, transposed=transposed)
    if not bias:
        return Linear(weight)
    return Linear(weight, Weight(f"{name}.bias", "bias", (rows,), (Part(f"{tensor}.bias", 0, rows),)))


def fused_qkv(layer: str, tensors: str, sizes: Sizes, *, bias: bool = False) -> Linear:
    """One projection from separate ``{tensors}.{q,k,v}_proj``: rows of q, then k, then v."""
    name = f"{layer}.attention.qkv"
    rows = {
        "q_proj": sizes.heads * sizes.head_dim,
        "k_proj": sizes.kv_heads * sizes.head_dim,
        "v_proj": sizes.kv_heads * sizes.head_dim,
    }
    total = sum(rows.values())

    def parts(what: Literal["weight", "bias"]) -> tuple[Part, ...]:
        return tuple(Part(f"{tensors}.{projection}.{what}", 0, count) for projection, count in rows.items())

    weight = Weight(name, "linear", (total, sizes.hidden), parts("weight"))
    return Linear(weight, Weight(f"{name}.bias", "bias", (total,), parts("bias")) if bias else None)


def gated_mlp(layer: str, tensors: str, sizes: Sizes, activation: Activation, *, bias: bool = False) -> MLP:
    """``down_proj(activation(gate_proj(x)) · up_proj(x))``."""
    return MLP(
        gate=linear(f"{layer}.mlp.gate", f"{tensors}.gate_proj", sizes.intermediate, sizes.hidden, bias=bias),
        up=linear(f"{layer}.mlp.up", f"{tensors}.up_proj", sizes.intermediate, sizes.hidden, bias=bias),
        down=linear(f"{layer}.mlp.down", f"{tensors}.down_proj", sizes.hidden, sizes.intermediate, bias=bias),
        activation=activation,
    )


def embedding_and_head(
    config: Config, sizes: Sizes, *, tied: bool, embedding: str = "model.embed_tokens.weight"
) -> tuple[Weight, Linear]:
    """Token embedding and head; ``tied`` is the family's default for ``tie_word_embeddings``."""
    table = matrix("embedding", "embedding", embedding, sizes.vocab, sizes.hidden)
    if config.flag("tie_word_embeddings", tied):
        return table, Linear(table)
    return table, Linear(matrix("head", "head", "lm_head.weight", sizes.vocab, sizes.hidden))


def upper_layer_windows(config: Config, sizes: Sizes) -> list[int | None]:
    """Qwen's windows: with ``use_sliding_window``, the layers that ``layer_types`` names, or those from
    ``max_window_layers`` on (default 28) when it names none.
    """
    sliding = config.flag("use_sliding_window", False)
    # A missing window is 4096; an explicit null turns windows off, as use_sliding_window = false does.
    window = config.optional_integer("sliding_window", None if "sliding_window" in config.values else 4096)
    first = config.integer("max_window_layers", 28, minimum=0)
    types = config.optional_texts("layer_types", sizes.layers, LAYER_TYPES)
    on = sliding and window is not None
    if types is None:
        types = [LAYER_TYPES[on and index >= first] for index in range(sizes.layers)]
    return windows_of(config, types, window if on else None, sizes)


def windows_of(config: Config, types: list[str], window: int | None, sizes: Sizes) -> list[int | None]:
    """Return each layer's window; ``types`` is one of :data:`LAYER_TYPES` for each layer."""
    if window is None and "sliding_attention" in types:
        raise config.refuse(
            "layer_types", "has sliding_attention, and no sliding window is set (or it is switched off)"
        )
    found = None if window is None else effective_window(window, sizes.context)
    return [found if kind == "sliding_attention" else None for kind in types]
