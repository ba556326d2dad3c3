"""The recipes that accuracy.py asks for, as data: whichever methods are found on disk, in every scheme and sequence."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from edgepress.exporter.arrays.scheme import BITS, BLOCK_SIZES
from edgepress.exporter.methods.kinds import (
    AnyMethod,
    LayerMethod,
    LinearMethod,
    Method,
    Repair,
    Transform,
    load_method,
    method_names,
)
from edgepress.exporter.plan.schemes import fit_scheme
from edgepress.exporter.recipe.recipe import PER_CHANNEL, Storage

BLOCKS = (*BLOCK_SIZES, PER_CHANNEL)


@dataclass(frozen=True)
class Training:
    """How long the methods of a recipe that learn may do so: ``steps`` of ``batch`` sequences out of ``tokens``."""

    steps: int
    batch: int
    tokens: int

    def __str__(self) -> str:
        """As it stands in a recipe's name."""
        return f"{self.steps} steps of {self.batch}"


BRIEF = Training(steps=50, batch=4, tokens=16_384)
"""An eighth of the sequences that autoround sees by itself, a sixteenth of distill's: there are hundreds of recipes."""


LAYERS = Training(steps=100, batch=4, tokens=32_768)
"""As presets learn the layers of models that are too large to be trained whole."""


@dataclass(frozen=True)
class Asked:
    """One recipe: rounding ``method`` and scheme, and the methods before and after it.

    A method that needs to see a layer's inputs is for projections; the embedding, and a head tied to it, is then
    rounded to nearest in the same scheme. With ``training`` the methods that learn do so for that long, else for as
    long as they do by themselves.
    """

    method: str = "rtn"
    bits: int = 4
    block_size: int | str = 32
    symmetric: bool = True
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    training: Training | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods that it needs, in the order in which they run."""
        return (*self.before, self.method, *self.after)

    @property
    def title(self) -> str:
        """Methods without their scheme, such as ``hadamard + gptq``."""
        details = ("" if self.symmetric else ", asymmetric") + (f", {self.training}" if self.training else "")
        return " + ".join(self.methods) + details

    @property
    def name(self) -> str:
        """Such as ``hadamard + gptq, 4 bits, block 128``."""
        scheme = f"{self.bits} bits, block {self.block_size}" + ("" if self.symmetric else ", asymmetric")
        return f"{' + '.join(self.methods)}, {scheme}" + (f", {self.training}" if self.training else "")

    def write(self, folder: Path) -> Path:
        """Write the recipe as a TOML file."""
        block = f'"{self.block_size}"' if isinstance(self.block_size, str) else self.block_size
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name.replace(' ', '')}.toml"
        embedding = self.method if isinstance(load_method(self.method), Method) else "rtn"
        path.write_text(
            f"before = {list(self.before)}\n"
            f"after = {list(self.after)}\n"
            "[weights]\n"
            f'method = "{self.method}"\n'
            f"bits = {self.bits}\n"
            f"block_size = {block}\n"
            f"symmetric = {str(self.symmetric).lower()}\n"
            "[embedding]\n"
            f'method = "{embedding}"\n' + self._trained()
        )
        return path

    def _trained(self) -> str:
        if self.training is None:
            return ""
        options = f"steps = {self.training.steps}\nbatch = {self.training.batch}\n"
        tables = [f"[options.{name}]\n{options}" for name in self.methods if learns(name)]
        return f"[calibration]\ntraining_tokens = {self.training.tokens}\n" + "".join(tables)


def learns(name: str) -> bool:
    """Whether a method learns by gradients, in steps."""
    return "steps" in load_method(name).options


ROUND_TO_NEAREST = Asked()

CHOSEN = (
    ROUND_TO_NEAREST,
    Asked(block_size=128),
    *(Asked("gptq", block_size=block) for block in (32, 128)),
    Asked("gptq", block_size=128, symmetric=False),
    Asked("autoround", block_size=128),
    Asked("autoround", block_size=128, training=LAYERS),
    *(Asked("gptq", block_size=128, before=(name,)) for name in ("awq", "smoothquant", "hadamard")),
    Asked("gptq", block_size=128, after=("bias_correction",)),
    Asked("gptq", bits=8, block_size=128),
    Asked("gptq", bits=2, block_size=32, after=("distill",)),
)
"""What the default run measures beside the presets and the peers, as far as the methods exist."""


def chosen() -> list[Asked]:
    """Those of CHOSEN whose methods are all there."""
    known = set(method_names())
    return [asked for asked in CHOSEN if known.issuperset(asked.methods)]


def grid() -> Iterator[Asked]:
    """Yield every method in every scheme, those that learn last.

    Methods that round do so alone, asymmetric too unless they learn; methods before and after rounding are tried with
    rounding to nearest, so that what is seen is their own effect.
    """
    rounding, transforms, recoveries = found(Method, LinearMethod, LayerMethod), found(Transform), found(Repair)
    alone = [
        *(Asked(name) for name in rounding),
        *(Asked(name, symmetric=False) for name in rounding if not learns(name)),
        *(Asked(before=(name,)) for name in transforms),
        *(Asked(after=(name,)) for name in recoveries),
    ]
    brief = [replace(asked, training=BRIEF if any(map(learns, asked.methods)) else None) for asked in alone]
    schemes = [(bits, block) for bits, block in product(BITS, BLOCKS) if is_stored(bits, block)]
    for asked in sorted(brief, key=lambda asked: asked.training is not None):
        for bits, block in schemes:
            yield replace(asked, bits=bits, block_size=block)


def is_stored(bits: int, block: int | str) -> bool:
    """Whether a wide tensor is stored in such blocks; 2 bits have kernels for some sizes only."""
    if isinstance(block, str):
        return True
    scheme = fit_scheme(Storage(bits=bits, block_size=block), max(BLOCK_SIZES))
    return scheme is not None and scheme.block_size == block


def sequences() -> Iterator[Asked]:
    """Yield every sequence of methods at 4 bits, block 32 and 128.

    It has at most one transform and one recovery for each rounding method, and all transforms in pairs for the
    calibrated ones: what more there is costs more time than it can tell.
    """
    rounding, transforms, recoveries = found(Method, LinearMethod, LayerMethod), found(Transform), found(Repair)
    for method, block in product(rounding, (32, 128)):
        befores = [(), *((name,) for name in transforms)]
        if not isinstance(load_method(method), Method):
            befores += [pair for pair in product(transforms, repeat=2) if pair[0] != pair[1]]
        afters = [(), *((name,) for name in recoveries)]
        for before, after in product(befores, afters):
            if before or after:
                yield Asked(method, block_size=block, before=before, after=after)


def found(*kinds: type) -> list[str]:
    """Names of the methods on disk that are of one of these types, but those that make zeros: see sparsity.py."""
    methods = [load_method(name) for name in method_names()]
    return [method.name for method in methods if isinstance(method, kinds) and not makes_zeros(method)]


def makes_zeros(method: AnyMethod) -> bool:
    """Whether a method sets weights to 0."""
    return "sparsity" in method.options
