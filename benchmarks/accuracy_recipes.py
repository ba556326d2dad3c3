"""The recipes that accuracy.py asks for, as data: whichever methods are found on disk, in every scheme and sequence."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from edgepress.exporter.compress import (
    LayerMethod,
    LinearMethod,
    Method,
    Recovery,
    Transform,
    load_method,
    method_names,
)
from edgepress.exporter.recipe import PER_CHANNEL
from edgepress.exporter.scheme import BITS, BLOCK_SIZES

BLOCKS = (*BLOCK_SIZES, PER_CHANNEL)


@dataclass(frozen=True)
class Asked:
    """One recipe: rounding ``method`` and scheme, and the methods before and after it.

    A method that needs to see a layer's inputs is for projections; the embedding, and a head tied to it, is then
    rounded to nearest in the same scheme.
    """

    method: str = "rtn"
    bits: int = 4
    block_size: int | str = 32
    symmetric: bool = True
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as ``hadamard + gptq, 4 bits, block 128``."""
        scheme = f"{self.bits} bits, block {self.block_size}" + ("" if self.symmetric else ", asymmetric")
        return f"{' + '.join((*self.before, self.method, *self.after))}, {scheme}"

    @property
    def methods(self) -> set[str]:
        """Names of the methods that it needs."""
        return {self.method, *self.before, *self.after}

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
            f'method = "{embedding}"\n'
        )
        return path


ROUND_TO_NEAREST = Asked()

CHOSEN = (
    ROUND_TO_NEAREST,
    Asked(block_size=128),
    *(Asked(method, block_size=block) for method in ("hqq", "gptq") for block in (32, 128)),
    Asked("gptq", block_size=128, symmetric=False),
    Asked("autoround", block_size=128),
    *(Asked("gptq", block_size=128, before=(name,)) for name in ("awq", "smoothquant", "hadamard")),
    Asked("gptq", block_size=128, after=("bias_correction",)),
    Asked("gptq", bits=8, block_size=128),
    Asked("gptq", bits=2, block_size=32, after=("distill",)),
)
"""What the default run measures beside the presets and the peers, as far as the methods exist."""


def chosen() -> list[Asked]:
    """Those of CHOSEN whose methods are all there."""
    known = set(method_names())
    return [asked for asked in CHOSEN if asked.methods <= known]


def grid() -> Iterator[Asked]:
    """Yield every rounding method in every scheme, then every sequence of methods at 4 bits, block 32 and 128.

    A sequence has at most one transform and one recovery for each rounding method, and all transforms in pairs for
    the calibrated ones: what more there is costs more time than it can tell.
    """
    rounding, transforms, recoveries = found(Method, LinearMethod, LayerMethod), found(Transform), found(Recovery)
    for method, bits, block, symmetric in product(rounding, BITS, BLOCKS, (True, False)):
        yield Asked(method, bits, block, symmetric)
    for method, block in product(rounding, (32, 128)):
        befores = [(), *((name,) for name in transforms)]
        if not isinstance(load_method(method), Method):
            befores += [pair for pair in product(transforms, repeat=2) if pair[0] != pair[1]]
        afters = [(), *((name,) for name in recoveries)]
        for before, after in product(befores, afters):
            if before or after:
                yield Asked(method, block_size=block, before=before, after=after)


def found(*kinds: type) -> list[str]:
    """Names of the methods on disk that are of one of these types."""
    return [name for name in method_names() if isinstance(load_method(name), kinds)]
