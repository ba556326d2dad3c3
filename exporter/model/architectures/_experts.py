"""What families with mixtures of experts have in common: where their experts lie in a checkpoint."""

import itertools
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Literal

from edgepress.exporter.model.architectures._common import Sizes, linear
from edgepress.exporter.model.mixers.mixture_of_experts import Expert, MixtureOfExperts, Routing, Shared
from edgepress.exporter.model.parts.primitives import Linear, Stack, Weight
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

Role = Literal["gate_up", "down"]
_OWN_MATRIX = re.compile(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
SEPARATE = ("gate_proj", "up_proj", "down_proj")
MIXTRAL = ("w1", "w3", "w2")
UNGATED = ("up_proj", "up_proj", "down_proj")  # with SQUARED_RELU for alpha


def read_silu(config: Config, key: str) -> None:
    """Refuse another activation than silu: onnxruntime's experts on the CPU are gated by it alone."""
    config.text(key, "silu", ("silu", "swish"))


def read_counts(
    config: Config, key: str, experts: int, chosen: int, *others: str, per_token: str = "num_experts_per_tok"
) -> tuple[int, int]:
    """How many experts there are, and how many a token goes through, by transformers' defaults.

    ``key`` is the family's own for the first; ``others`` are those that transformers takes for it too.
    """
    given = {name: found for name in (key, *others) if (found := config.optional_integer(name)) is not None}
    count = next(iter(given.values()), experts)
    for name, other in given.items():
        if other != count:
            raise config.refuse(name, f"must be {next(iter(given))} = {count}")
    several = config.integer(per_token, chosen)
    if several > count:
        raise config.refuse(per_token, f"must be at most {key} = {count}")
    return count, several


def router(index: int, tensor: str, experts: int, hidden: int, *, bias: bool = False) -> Linear:
    """The router of a layer, ``tensor``.weight (experts, hidden)."""
    name = f"layers.{index}.router"
    weight = Weight(name, "router", (experts, hidden), (Part(f"{tensor}.weight", 0, experts),))
    if not bias:
        return Linear(weight)
    return Linear(weight, Weight(f"{name}.bias", "bias", (experts,), (Part(f"{tensor}.bias", 0, experts),)))


def separate_experts(
    index: int, tensors: str, sizes: Sizes, *, count: int, width: int, names: tuple[str, str, str] = SEPARATE
) -> tuple[Expert, ...]:
    """Experts with three matrices each, ``tensors``.N.{gate, up, down}.weight; ``names`` are what these are called."""
    gate, up, down = names
    stack = _stacks(index, count, (sizes.hidden, width))

    def expert(number: int) -> Expert:
        def part(name: str, rows: int) -> Part:
            return Part(f"{tensors}.{number}.{name}.weight", 0, rows)

        return Expert(
            gate_up=Linear(
                Weight(
                    f"layers.{index}.experts.{number}.gate_up",
                    "linear",
                    (2 * width, sizes.hidden),
                    (part(gate, width), part(up, width)),
                    interleaved=True,
                    stack=stack("gate_up", number),
                )
            ),
            down=Linear(
                Weight(
                    f"layers.{index}.experts.{number}.down",
                    "linear",
                    (sizes.hidden, width),
                    (part(down, sizes.hidden),),
                    stack=stack("down", number),
                )
            ),
        )

    return tuple(expert(number) for number in range(count))


def _stacks(index: int, count: int, columns: tuple[int, int]) -> Callable[[Role, int], Stack]:
    """The stack of a role's weights, as the expert of a number has it; ``columns`` are those of gate_up and down."""
    name = f"layers.{index}.experts"
    return lambda role, number: Stack(f"{name}.{role}", number, count, name, columns)


def shared_expert(
    index: int, tensors: str, hidden: int, width: int, *, share: str = "", gated: bool = True, bias: bool = False
) -> Shared:
    """An MLP for every token, ``tensors``.{gate, up, down}_proj, and what it is opened by: ``share``.weight."""
    name = f"layers.{index}.shared_expert"

    def projection(role: str, rows: int, columns: int) -> Linear:
        return linear(f"{name}.{role}", f"{tensors}.{role}_proj", rows, columns, bias=bias)

    opened = Weight(f"{name}.share", "router", (1, hidden), (Part(f"{share}.weight", 0, 1),))
    return Shared(
        gate=projection("gate", width, hidden) if gated else None,
        up=projection("up", width, hidden),
        share=Linear(opened) if share else None,
        down=projection("down", hidden, width),
    )


def fused_experts(
    index: int, sizes: Sizes, gate_up: str, down: str, *, count: int, width: int, by_turns: bool = False
) -> tuple[Expert, ...]:
    """Experts whose matrices lie in two stacks, (experts, 2 · width, hidden) and (experts, hidden, width).

    ``by_turns`` is gpt-oss's form: both stacks transposed, gate and up taking turns, and biases beside them.
    """
    stack, inside = _stacks(index, count, (sizes.hidden, width)), 2 * width

    def stacked(role: Role, number: int, parts: tuple[Part, ...], shape: tuple[int, int]) -> Linear:
        name, place = f"layers.{index}.experts.{number}.{role}", stack(role, number)
        weight = Weight(name, "linear", shape, parts, interleaved=len(parts) > 1, stack=place)
        if not by_turns:
            return Linear(weight)
        part = Part(f"{parts[0].tensor}_bias", 0, shape[0], index=number)
        return Linear(weight, Weight(f"{name}.bias", "bias", shape[:1], (part,), stack=place))

    def expert(number: int) -> Expert:
        ends = (0, inside) if by_turns else (0, width, inside)
        first = tuple(Part(gate_up, a, b, by_turns, number) for a, b in itertools.pairwise(ends))
        second = (Part(down, 0, sizes.hidden, by_turns, number),)
        return Expert(
            gate_up=stacked("gate_up", number, first, (inside, sizes.hidden)),
            down=stacked("down", number, second, (sizes.hidden, width)),
        )

    return tuple(expert(number) for number in range(count))


def in_stacks(part: Part, tensors: Collection[str]) -> Part:
    """Rows of an expert's own matrix, where they lie in the stacks of all experts: gate above up, and down.

    transformers reads both forms of a checkpoint, and writes the one or the other.
    """
    found = _OWN_MATRIX.fullmatch(part.tensor)
    if found is None or part.tensor in tensors or f"{found[1]}.down_proj" not in tensors:
        return part
    number, role = int(found[2]), found[3]
    if role == "down":
        return replace(part, tensor=f"{found[1]}.down_proj", index=number)
    above = part.stop if role == "up" else 0
    return replace(
        part, tensor=f"{found[1]}.gate_up_proj", start=part.start + above, stop=part.stop + above, index=number
    )


def correction(index: int, tensor: str, *shape: int) -> Weight:
    """What is added to the scores where experts are chosen, and not where they are weighted."""
    return Weight(f"layers.{index}.router.correction", "bias", shape, (Part(tensor, 0, shape[0]),))


def read_groups(config: Config, count: int, routing: Routing) -> Routing:
    """DeepSeek-V3's routing: ``n_group`` and ``topk_group``, ``norm_topk_prob`` and ``routed_scaling_factor``.

    The 1e-20 that transformers adds to the sum of weights is nothing in float32.
    """
    groups, chosen = config.integer("n_group", routing.groups), config.integer("topk_group", routing.chosen_groups)
    if count % groups or (groups > 1 and count // groups < 2):
        raise config.refuse("n_group", f"must divide the {count} experts into groups of two or more")
    if chosen > groups:
        raise config.refuse("topk_group", f"must be at most n_group = {groups}")
    if routing.count > chosen * (count // groups):
        raise config.refuse("num_experts_per_tok", f"must be at most the {chosen * count // groups} of topk_group")
    normalized = config.flag("norm_topk_prob", routing.normalized)
    factor = config.number("routed_scaling_factor", routing.factor, above=0.0)
    return replace(routing, groups=groups, chosen_groups=chosen, normalized=normalized, factor=factor)


def deepseek_experts(
    index: int, tensors: str, sizes: Sizes, *, count: int, width: int, shared: int, routing: Routing
) -> MixtureOfExperts:
    """DeepSeek-V3's block: a corrected sigmoid router, ``experts`` and ``shared_experts``, as many wide as shared."""
    return MixtureOfExperts(
        router=router(index, f"{tensors}.gate", count, sizes.hidden),
        correction=correction(index, f"{tensors}.gate.e_score_correction_bias", count),
        experts=separate_experts(index, f"{tensors}.experts", sizes, count=count, width=width),
        shared=shared_expert(index, f"{tensors}.shared_experts", sizes.hidden, shared * width) if shared else None,
        routing=routing,
    )


def qwen_experts(index: int, sizes: Sizes, *, count: int, width: int, routing: Routing) -> MixtureOfExperts:
    """Qwen3's block: ``mlp.gate`` and ``mlp.experts``."""
    tensors = f"model.layers.{index}.mlp"
    return MixtureOfExperts(
        router=router(index, f"{tensors}.gate", count, sizes.hidden),
        experts=separate_experts(index, f"{tensors}.experts", sizes, count=count, width=width),
        routing=routing,
    )


def sparse_layers(config: Config, layers: int) -> set[int]:
    """Qwen's layers with experts: every ``decoder_sparse_step``-th but the ``mlp_only_layers``."""
    step, dense = config.integer("decoder_sparse_step", 1), config.optional_integers("mlp_only_layers", 0) or []
    return {index for index in range(layers) if (index + 1) % step == 0 and index not in dense}


def sparse_without(config: Config, layers: int, kept: Sequence[int]) -> dict[str, object]:
    """What Qwen's keys are when only ``kept`` are left: each layer without experts is listed."""
    sparse = sparse_layers(config, layers)
    dense = [number for number, index in enumerate(kept) if index not in sparse]
    return {"decoder_sparse_step": 1, "mlp_only_layers": dense}


def first_dense(key: str, default: int) -> Callable[[Config, int, Sequence[int]], dict[str, object]]:
    """The same of families whose first layers have no experts: ``key`` says how many these are."""

    def without_layers(config: Config, _layers: int, kept: Sequence[int]) -> dict[str, object]:
        dense = config.integer(key, default, minimum=0)
        return {key: sum(index < dense for index in kept)}

    return without_layers
