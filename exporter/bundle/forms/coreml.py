"""Apple's CoreML: one graph in floats, of operators that its ML Programs have.

An ML Program computes in the types that it is written in, and Apple's Neural Engine in float16 alone: recipe ``fp16``
gives a graph in float16, but for what overflows there. CoreML takes no integers from onnxruntime.
"""

from edgepress.exporter.bundle.forms import Form, FormTask
from edgepress.exporter.bundle.one_graph.inside import refuse_inside, write_inside
from edgepress.exporter.graph.passes import PassOrder

ORDER = PassOrder(
    (
        *("plain-activations", "decompose-skip-norm", "bind-shapes", "float32", "fold-constants", "plain-gather"),
        *("fold-constants", "plain-attention", "plain-sum", "plain-reduce-l2", "plain-flatten", "plain-pad"),
        *("plain-expand", "fold-constants", "merge-moves"),
    )
)


def write(task: FormTask) -> dict[str, object]:
    """Write ``model.onnx``."""
    return write_inside(task.bundle, task.planned, task.target, task.folder, ORDER, half=task.samples)


FORM = Form(
    name="coreml",
    description="one static graph in floats, float16 by recipe fp16, of operators that ML Programs have",
    refuse=refuse_inside,
    write=write,
    decoders=False,
)
