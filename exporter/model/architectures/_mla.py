"""What families with multi-head latent attention have in common: its keys, and the names of its tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgepress.exporter.model.architectures._common import Sizes, linear, read_sizes, rms_norm
from edgepress.exporter.model.mixers.latent_attention import LatentAttention
from edgepress.exporter.model.parts.primitives import Linear, Rope, Weight
from edgepress.exporter.model.rope import read_rope, yarn_score_scale
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

_EPSILON = 1e-6  # of the norms of latent vectors: transformers' classes do not give them the config's


@dataclass(frozen=True)
class Latent:
    """The sizes of a :class:`LatentAttention`; ``query_rank`` None means that queries come from the stream."""

    hidden: int
    heads: int
    query_rank: int | None
    rank: int
    plain: int
    rotated: int
    value_dim: int
    bias: bool
    interleaved: bool
    scale: float


def latent_sizes(
    config: Config, *, vocab: int, hidden: int, intermediate: int, layers: int, heads: int, context: int
) -> Sizes:
    """The usual sizes, of which latent attention has no use for keys' heads and their width."""
    return read_sizes(
        config,
        vocab=vocab,
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        heads=heads,
        kv_heads=None,
        context=context,
        head_dim=64,
    )


def read_latent(
    config: Config,
    sizes: Sizes,
    *,
    query_rank: int | None,
    rank: int,
    plain: int,
    rotated: int,
    value_dim: int | None,
    interleaved: bool,
) -> Latent:
    """Read DeepSeek's keys; what follows ``sizes`` are the family's defaults. A value_dim None is hidden / heads.

    Keys and values are made for every head: ``num_key_value_heads`` must be as many, as in every published model.
    """
    hidden, heads = sizes.hidden, sizes.heads
    count = config.optional_integer("num_key_value_heads")
    if count not in (None, heads):
        raise config.refuse("num_key_value_heads", f"must be num_attention_heads = {heads}")
    config.without_effect("head_dim", "qk_head_dim")  # transformers sets them from the others
    plain, rotated = config.integer("qk_nope_head_dim", plain), config.integer("qk_rope_head_dim", rotated)
    if rotated % 2:
        raise config.refuse("qk_rope_head_dim", "must be even: channels are rotated in pairs")
    given = config.optional_integer("q_lora_rank", query_rank)
    has_none = config.values.get("q_lora_rank", query_rank) is None
    return Latent(
        hidden=hidden,
        heads=heads,
        query_rank=None if has_none else given,
        rank=config.integer("kv_lora_rank", rank),
        plain=plain,
        rotated=rotated,
        value_dim=config.optional_integer("v_head_dim", value_dim) or hidden // heads,
        bias=config.flag("attention_bias", False),
        interleaved=interleaved,
        scale=(plain + rotated) ** -0.5 * yarn_score_scale(config.values),
    )


def latent_rope(config: Config, sizes: Latent, context: int) -> Rope:
    """The rope of the rotated channels alone."""
    return read_rope(config, head_dim=sizes.rotated, context_length=context)


def latent_attention(index: int, sizes: Latent, rope: str = "default") -> LatentAttention:
    """Attention of a layer whose checkpoint has DeepSeek's ``self_attn.{q_a,q_b,kv_a,kv_b,o}_proj``.

    In the checkpoint's heads the plain channels come first, and a head's keys and values lie side by side.
    """
    s, name, tensors = sizes, f"layers.{index}.attention", f"model.layers.{index}.self_attn"
    dims = s.plain + s.rotated

    def query(tensor: str, columns: int) -> Linear:
        starts = range(0, s.heads * dims, dims)
        order = [rows for at in starts for rows in ((at + s.plain, at + dims), (at, at + s.plain))]
        return Linear(_rows(f"{name}.query", f"{tensors}.{tensor}.weight", order, columns))

    pair = s.plain + s.value_dim
    keys = [(head * pair, head * pair + s.plain) for head in range(s.heads)]
    values = [(head * pair + s.plain, (head + 1) * pair) for head in range(s.heads)]
    return LatentAttention(
        heads=s.heads,
        rotated=s.rotated,
        plain=s.plain,
        value_dim=s.value_dim,
        scale=s.scale,
        query_latent=None
        if s.query_rank is None
        else linear(f"{name}.query_latent", f"{tensors}.q_a_proj", s.query_rank, s.hidden, bias=s.bias),
        query_norm=None
        if s.query_rank is None
        else rms_norm(f"{name}.query_norm", f"{tensors}.q_a_layernorm.weight", s.query_rank, _EPSILON),
        query=query("q_proj", s.hidden) if s.query_rank is None else query("q_b_proj", s.query_rank),
        latent=linear(f"{name}.latent", f"{tensors}.kv_a_proj_with_mqa", s.rank + s.rotated, s.hidden, bias=s.bias),
        latent_norm=rms_norm(f"{name}.latent_norm", f"{tensors}.kv_a_layernorm.weight", s.rank, _EPSILON),
        key_value=Linear(_rows(f"{name}.key_value", f"{tensors}.kv_b_proj.weight", keys + values, s.rank)),
        output=linear(f"{name}.output", f"{tensors}.o_proj", s.hidden, s.heads * s.value_dim, bias=s.bias),
        rope=rope,
        interleaved=s.interleaved,
    )


def _rows(name: str, tensor: str, order: Sequence[tuple[int, int]], columns: int) -> Weight:
    """Rows of a tensor in another order, given as runs of them."""
    parts = tuple(Part(tensor, start, stop) for start, stop in order if stop > start)
    return Weight(name, "linear", (sum(part.stop - part.start for part in parts), columns), parts)
