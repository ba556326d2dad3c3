"""The device's part: bundle → tokens, and measurements of memory, latency and energy.

    from edgepress.runtime import load, bench, evaluate

    for piece in load("bundle").generate("Once upon a time", max_tokens=100):
        print(piece, end="", flush=True)

Needs numpy, onnxruntime, tokenizers and msgspec; onnxruntime itself is imported when the first bundle is opened. Each
name is imported when it is first used: a program that only opens a bundle does not wait for what measures one.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepress.runtime.generation.constraints import Constraint
    from edgepress.runtime.generation.generation import Generation
    from edgepress.runtime.generation.sampling import Sampling
    from edgepress.runtime.generation.several.beams import Beams
    from edgepress.runtime.generation.speculation.kinds import Speculation
    from edgepress.runtime.loading import load
    from edgepress.runtime.measures.bench import Measurement, bench, format_measurement
    from edgepress.runtime.measures.evaluate import Evaluation, LogitsSource, evaluate, read_documents
    from edgepress.runtime.model import Model

__all__ = [
    "Beams",
    "Constraint",
    "Evaluation",
    "Generation",
    "LogitsSource",
    "Measurement",
    "Model",
    "Sampling",
    "Speculation",
    "bench",
    "evaluate",
    "format_measurement",
    "load",
    "read_documents",
]
_MODULES = {
    "generation.constraints": ("Constraint",),
    "generation.generation": ("Generation",),
    "generation.sampling": ("Sampling",),
    "generation.several.beams": ("Beams",),
    "generation.speculation.kinds": ("Speculation",),
    "loading": ("load",),
    "measures.bench": ("Measurement", "bench", "format_measurement"),
    "measures.evaluate": ("Evaluation", "LogitsSource", "evaluate", "read_documents"),
    "model": ("Model",),
}


def __getattr__(name: str) -> Any:
    """A name of ``__all__`` when it is first asked for (PEP 562)."""
    for module, names in _MODULES.items():
        if name in names:
            found = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
