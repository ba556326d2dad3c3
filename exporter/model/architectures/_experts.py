"""What families with mixtures of experts have in common: where their experts lie in a checkpoint."""

from collections.abc import Callable
from typing import Literal

from edgepress.exporter.model.architectures._common import Sizes
from edgepress.exporter.model.description import Linear, Stack, Weight
from edgepress.exporter.model.mixers.mixture_of_experts import Expert, Shared
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

Role = Literal["gate_up", "down"]
SEPARATE = ("gate_proj", "up_proj", "down_proj")
MIXTRAL = ("w1", "w3", "w2")


def read_silu(config: Config, key: str) -> None:
    """Refuse another activation than silu: onnxruntime's experts on the CPU are gated by it alone."""
    config.text(key, "silu", ("silu", "swish"))


def read_counts(config: Config, key: str, experts: int, chosen: int, *others: str) -> tuple[int, int]:
    """How many experts there are, and how many a token goes through, by transformers' defaults.

    ``key`` is the family's own for the first; ``others`` are those that transformers takes for it too.
    """
    given = {name: found for name in (key, *others) if (found := config.optional_integer(name)) is not None}
    count = next(iter(given.values()), experts)
    for name, other in given.items():
        if other != count:
            raise config.refuse(name, f"must be {next(iter(given))} = {count}")
    several = config.integer("num_experts_per_tok", chosen)
    if several > count:
        raise config.refuse("num_experts_per_tok", f"must be at most {key} = {count}")
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


def shared_expert(index: int, tensors: str, hidden: int, width: int, *, share: str = "") -> Shared:
    """A gated MLP for every token, ``tensors``.{gate, up, down}_proj, and what it is opened by: ``share``.weight."""
    name = f"layers.{index}.shared_expert"

    def projection(role: str, rows: int, columns: int) -> Linear:
        tensor = f"{tensors}.{role}_proj.weight"
        return Linear(Weight(f"{name}.{role}", "linear", (rows, columns), (Part(tensor, 0, rows),)))

    opened = Weight(f"{name}.share", "router", (1, hidden), (Part(f"{share}.weight", 0, 1),))
    return Shared(
        gate=projection("gate", width, hidden),
        up=projection("up", width, hidden),
        share=Linear(opened) if share else None,
        down=projection("down", hidden, width),
    )
