"""Speed cliffs: nodes that run where they should, by a slow kernel.

``cliffs.json`` is measured (``benchmarks/cliffs.py``): how long MatMulNBits takes by bits, block, accuracy level and
type on one x86-64 host. ``arm_cliffs.json`` is counted (``benchmarks/arm_cliffs.py``): instructions on emulated ARM
processors, which are no times. What is known of ARM kernels from onnxruntime's sources is neither, and says so.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from edgepress.onnx_graph.view import Graph, Node
from edgepress.targets import CPU, HALF_ON_ARM, Target
from edgepress.targets.legality.registry import needs_casts, short_type

STEEP = 2.5
"""From this many times the best combination's time on, a combination is called a cliff."""

PHASES = ("decode", "prefill")


@dataclass(frozen=True)
class Product:
    """What MatMulNBits's kernels are chosen by."""

    bits: int
    block: int
    accuracy_level: int
    type: str
    zero_points: bool


@dataclass(frozen=True)
class Measured:
    """The measured table: microseconds of each product by phase, and the products that onnxruntime refuses."""

    cpu: str
    onnxruntime: str
    times: Mapping[Product, Mapping[str, float]]
    refused: frozenset[tuple[int, int]]  # bits, block

    def slowdown(self, product: Product, phase: str) -> float:
        """How many times as long as the best product of the same bits it takes."""
        best = min(times[phase] for other, times in self.times.items() if other.bits == product.bits)
        return self.times[product][phase] / best


@dataclass(frozen=True)
class Counted:
    """Instructions of products on one emulated processor by phase, and those of MatMul in float32."""

    cpu: str
    kind: str  # with or without dotprod
    onnxruntime: str
    counts: Mapping[Product, Mapping[str, int]]
    in_float32: Mapping[str, int]
    caches: Mapping[str, Mapping[str, int]]  # attention, by the type of its keys and values
    past: int  # tokens in those

    def ratio(self, product: Product, phase: str) -> float:
        """How many times as many instructions as MatMul in float32 it takes."""
        return self.counts[product][phase] / self.in_float32[phase]

    def cache_ratio(self, cache: str, phase: str) -> float:
        """How many times as many instructions attention takes as with keys and values in float32."""
        return self.caches[cache][phase] / self.caches["float"][phase]


@cache
def measured() -> Measured:
    """Read the measured table that the package carries."""
    data = json.loads(files(__package__).joinpath("cliffs.json").read_text(encoding="utf-8"))
    times, no_session = {}, set()
    for entry in data["entries"]:
        product = Product(*(entry[name] for name in Product.__dataclass_fields__))
        if "refused" in entry:
            no_session.add((product.bits, product.block))
        else:
            times[product] = {phase: entry[phase] for phase in PHASES}
    versions = data["host"]["versions"]
    return Measured(data["host"]["cpu"], versions["onnxruntime"], times, frozenset(no_session))


@cache
def counted() -> tuple[Counted, ...]:
    """Read the counts that the package carries, by processor."""
    data = json.loads(files(__package__).joinpath("arm_cliffs.json").read_text(encoding="utf-8"))
    found = []
    for cpu, kind in data["cpus"].items():
        counts = {
            Product(*(entry[name] for name in Product.__dataclass_fields__)): {phase: entry[phase] for phase in PHASES}
            for entry in data["entries"]
            if entry["cpu"] == cpu
        }
        in_float32 = counts.pop(Product(32, 0, 0, "float", False))
        caches = {entry["cache"]: entry for entry in data["caches"] if entry["cpu"] == cpu}
        version = data["host"]["versions"]["onnxruntime"]
        found.append(Counted(cpu, kind, version, counts, in_float32, caches, data["past"]))
    return tuple(found)


def product_of(node: Node) -> Product | None:
    """The product that a MatMulNBits node computes; None for other nodes, and for one without its attributes."""
    bits, block = node.attribute("bits", 4), node.attribute("block_size")
    data, zero_points = node.input(0), node.input(3)
    if node.key != "com.microsoft:MatMulNBits" or not (isinstance(block, int) and isinstance(bits, int) and data):
        return None
    level = node.attribute("accuracy_level", 0)
    return Product(bits, block, level, short_type(data.type) or "float", zero_points is not None)


def cache_of(node: Node) -> str | None:
    """How an attention stores its keys and values where that is in integers; None for all other nodes."""
    if node.key != "com.microsoft:GroupQueryAttention" or node.attribute("k_quant_type", "NONE") == "NONE":
        return None
    return f"int{node.attribute('kv_cache_bit_width', 8)}"


def slow_kernels(target: Target, graphs: Sequence[Graph]) -> Iterator[str]:
    """Yield a warning for each kind of node that takes a slow kernel on a CPU target, with the count of such nodes."""
    if target.provider != CPU:
        return
    products: dict[Product, list[Node]] = {}
    cast: dict[str, list[Node]] = {}
    caches: dict[str, list[Node]] = {}
    for node in (node for graph in graphs for node in graph.nodes):
        if product := product_of(node):
            products.setdefault(product, []).append(node)
        elif cache := cache_of(node):
            caches.setdefault(cache, []).append(node)
        elif needs_casts(node):
            cast.setdefault(node.key, []).append(node)
    for product, nodes in products.items():
        yield from (f"{len(nodes)} × {text}" for text in product_warnings(target, product))
    for cache, nodes in caches.items():
        yield from (f"{len(nodes)} × {text}" for text in cache_warnings(target, cache))
    for key, nodes in cast.items():
        on_arm = _is_arm(target) and key.removeprefix("ai.onnx:") in HALF_ON_ARM
        where = " on CPUs without half-precision arithmetic (fphp), such as Cortex-A53" if on_arm else ""
        yield (
            f"{len(nodes)} × {key} in float16: there is no such kernel{where}, so onnxruntime casts to float32 and "
            "back; keep it in float32 (kernel registry)"
        )


def refused(product: Product) -> bool:
    """Whether onnxruntime made no session with these bits and this block when it was tried."""
    return (product.bits, product.block) in measured().refused


def product_warnings(target: Target, product: Product) -> Iterator[str]:
    """Yield what is slow about a product on ``target``: by measurement, and by what is known of ARM kernels."""
    name = _describe(product)
    table = measured()
    if product in table.times:
        slow = [(phase, ratio) for phase in PHASES if (ratio := table.slowdown(product, phase)) >= STEEP]
        if slow:
            times = " and ".join(f"{ratio:.1f} times as long in {phase}" for phase, ratio in slow)
            where = f"measured on {table.cpu}, onnxruntime {table.onnxruntime}"
            where += "" if _is_x86(target) else f"; not measured on {target.name}"
            yield f"{name} takes {times} as the best of {product.bits} bits; {_better(product)} ({where})"
    elif not refused(product):
        yield f"{name} was not measured"
    if _is_arm(target):
        yield from (f"{name} {text}" for table in counted() if (text := _many_instructions(product, table)))
        yield from (f"{name}: {text} (from onnxruntime's sources, not measured)" for text in _known_on_arm(product))
        if product.type == "float16":
            yield (
                f"{name} ends the process, by an illegal instruction, on CPUs without half-precision arithmetic (fphp) "
                f"such as Cortex-A53: run a float32 graph there (seen on an emulated cortex-a53, onnxruntime "
                f"{counted()[0].onnxruntime})"
            )


def cache_warnings(target: Target, cache: str) -> Iterator[str]:
    """Yield what attention with keys and values of type ``cache`` costs on an ARM ``target``."""
    for table in counted() if _is_arm(target) else ():
        if cache in table.caches and (times := _many({phase: table.cache_ratio(cache, phase) for phase in PHASES})):
            yield (
                f"GroupQueryAttention with keys and values in {cache} takes more instructions than in float32 on CPUs "
                f"{table.kind}, {times} after {table.past:,} tokens; it saves memory only ({_counted_on(table)})"
            )


def _many_instructions(product: Product, table: Counted) -> str:
    """What a product takes that costs many more instructions than MatMul in float32; ``""`` for others."""
    if product not in table.counts:
        return ""
    times = _many({phase: table.ratio(product, phase) for phase in PHASES})
    if not times:
        return ""
    return (
        f"takes more instructions than MatMul in float32 on CPUs {table.kind}, {times}{_fewer(product, table)} "
        f"({_counted_on(table)})"
    )


def _many(ratios: Mapping[str, float]) -> str:
    """The phases in which something takes ``STEEP`` times as many instructions and more, in words."""
    return " and ".join(f"{ratio:.1f} times as many in {phase}" for phase, ratio in ratios.items() if ratio >= STEEP)


def _counted_on(table: Counted) -> str:
    return f"counted on an emulated {table.cpu}, onnxruntime {table.onnxruntime}; counts are no times"


def _fewer(product: Product, table: Counted) -> str:
    """The product nearest to ``product`` among those that decode with fewest instructions, if it is far better."""

    def order(other: Product) -> tuple[float, int]:
        return round(table.ratio(other, "decode"), 1), len(_differences(product, other))

    for candidates in ([other for other in table.counts if other.bits == product.bits], list(table.counts)):
        best = min(candidates, key=order)
        if table.ratio(best, "decode") * STEEP <= table.ratio(product, "decode"):
            return f"; {_differences_in_words(product, best)}: {table.ratio(best, 'decode'):.1f} times"
    return ""


def _differences(product: Product, other: Product) -> dict[str, object]:
    return {name: value for name, value in vars(other).items() if value != getattr(product, name)}


def _differences_in_words(product: Product, other: Product) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in _differences(product, other).items())


def _better(product: Product) -> str:
    """The change that makes most difference: of one property if that is enough, else of level and block together."""
    table = measured()
    changes = [
        product.__class__(**{**vars(product), name: value})
        for name, values in (("accuracy_level", (4,)), ("block", (128, 64, 32)), ("zero_points", (False,)))
        for value in values
    ]
    changes += [Product(product.bits, block, 4, product.type, product.zero_points) for block in (128, 64, 32)]
    for change in changes:
        if change in table.times and all(table.slowdown(change, phase) < STEEP for phase in PHASES):
            return f"use {_differences_in_words(product, change)}"
    return "no other form of these bits was measured to be fast"


def _known_on_arm(product: Product) -> Iterator[str]:
    """What MLAS's dispatch says of ARM: GetMlasQNBitGemmDispatchNeon, UseKleidiAI, GetComputeType<MLFloat16>."""
    if product.accuracy_level == 4:
        yield "integer kernels need dotprod (not on Cortex-A53, A57, A72, A73); without it weights are made float32"
        if product.zero_points or product.block % 32:
            yield "KleidiAI's kernels take blocks that are multiples of 32 without zero points; others are slower"
    else:
        yield f"accuracy level {product.accuracy_level} computes in float32; level 4 computes in integers"


def _describe(product: Product) -> str:
    kind = {"float": "float32"}.get(product.type, product.type)
    zero_points = " with zero points" if product.zero_points else ""
    level = f"accuracy level {product.accuracy_level}"
    return f"MatMulNBits of {product.bits} bits, block {product.block}, {level}, {kind}{zero_points}"


def _is_x86(target: Target) -> bool:
    return target.name.startswith("x86")


def _is_arm(target: Target) -> bool:
    return target.name.startswith(("arm64", "android"))
