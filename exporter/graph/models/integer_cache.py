"""Keys and values kept as integers: the scales that GroupQueryAttention reads them with.

Mixers write attention as it is with a cache of floats; what kind of cache it has is said of the finished graph, so that
none of them knows it. The operator rounds new keys, after their rotation, and values to the nearest integer of a
channel's scale as it appends them, and multiplies by the scales what it reads (onnxruntime, ContribOperators.md,
"PER_CHANNEL"). The kernel for integers wants to give the cache back, also where attention appends nothing and reads
what another layer keeps (Gemma 3n and 4): there it gives a copy that nobody reads.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgepress.bundle.states import State
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.recipe.recipe import CACHE_BITS

ATTENTION = "GroupQueryAttention"
_CACHES, _FIRST_SCALE = (3, 4), 12  # inputs: past keys and values, and from where on the scales of both


def add_scales(graph: onnx.GraphProto, plan: Plan) -> None:
    """Give each attention whose cache is integers the scales of its channels.

    Until these are found they are 1: the graph has the nodes and the bytes that it will have.
    """
    states = {name: state for state in plan.integer_states for name in (state.input, state.output)}
    if not states:
        return
    scales: dict[str, onnx.TensorProto] = {}
    for node in graph.node:
        if node.op_type != ATTENTION or not states.keys() & node.input:
            continue
        caches = [states[node.input[index]] for index in _CACHES]
        if len(node.output) == 1:  # attended, without keys and values of its own
            node.output.extend(f"{node.output[0]}.{part}" for part in ("keys", "values"))
        node.input.extend([""] * (_FIRST_SCALE - len(node.input)))
        node.input.extend(_scale(scales, plan.cache_scales, state) for state in caches)
        settings = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": CACHE_BITS}
        node.attribute.extend(helper.make_attribute(*one) for one in settings.items())
    graph.initializer.extend(scales.values())


def _scale(made: dict[str, onnx.TensorProto], found: Mapping[str, NDArray[np.float32]], state: State) -> str:
    """The constant with a state's scales, (1, heads, 1, channels)."""
    name = f"{state.name}.scale"
    if name not in made:
        _, heads, _, channels = state.sizes(0)
        scale = found.get(state.name, np.ones((1, heads, 1, channels), np.float32))
        made[name] = numpy_helper.from_array(scale, name)
    return name
