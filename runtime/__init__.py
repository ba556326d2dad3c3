"""The device's part: bundle → tokens, and measurements of memory, latency and energy.

    from edgepress.runtime import load, bench, evaluate

    for piece in load("bundle").generate("Once upon a time", max_tokens=100):
        print(piece, end="", flush=True)

Needs numpy, onnxruntime, tokenizers and msgspec; onnxruntime itself is imported when the first bundle is opened.
"""

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
