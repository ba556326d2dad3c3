"""What integer caches may change of logits: measured by rounding keys and values, by the graph's own scales.

A graph with the same weights and a cache of floats is right to a rounding. It computes a text token by token, and what
it keeps of each is rounded to its scales before the next comes, as the integers are. What that changes of the logits is
the error of the codes on this model; the graph with integers, which rounds the last token's as well, is as far off.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import CheckFailed
from edgepress.exporter.bundle.cpu_graph import Graph, float32_plan, make_graph
from edgepress.exporter.bundle.parities.comparing import Logits, difference, open_graph
from edgepress.exporter.plan.planned import Planned
from edgepress.targets import Target

_LARGEST = 127
_CUT_OFF = 1e-2  # of the keys and values of a state: scales have a margin over what some text made largest


def rounding_of(
    work: Path,
    planned: Planned,
    graph: Graph,
    tokens: NDArray[np.int64],
    restored: Logits,
    *,
    cpu: Target,
    share: float,
) -> float:
    """How far rounding what is kept of ``tokens`` moves logits, as a share of the largest; 0 where it is floats.

    Args:
        work: the bundle.
        planned: what it was made of.
        graph: whose keys and values may be integers.
        tokens: a text (length,).
        restored: logits (length, vocabulary) of the description with the bundle's weights.
        cpu: that the graph is made for.
        share: of the positions that are compared.

    Raises:
        CheckFailed: the graph with a cache of floats is not right, or scales cut off much of the text.

    """
    decoder, floats, scales = planned.decoder, float32_plan(planned), graph.plan.cache_scales
    if not scales:
        return 0.0
    model, what = make_graph(decoder, floats, cpu), f"the graph {graph.file} with a cache in float32"
    session = open_graph(work, decoder, replace(graph, plan=floats), len(tokens), accuracy_level=1, model=model)
    plain = session.append(tokens, 0).copy()
    difference(plain, restored, what, share=share)
    session.reset()
    rounded, cut = np.empty_like(plain), dict.fromkeys(scales, 0.0)
    for at in range(len(tokens)):
        rounded[at] = session.append(tokens[at : at + 1])[-1]
        for name, scale in scales.items():
            last = session.entries(name)[..., -1:, :]  # (1, heads, 1, channels)
            codes = np.rint(last / scale)
            cut[name] += float(np.mean(np.abs(codes) > _LARGEST)) / len(tokens)
            last[...] = np.clip(codes, -_LARGEST - 1, _LARGEST) * scale
    worst = max(cut, key=cut.__getitem__)
    if cut[worst] > _CUT_OFF:
        raise CheckFailed(
            f"the scales of {worst} in {graph.file} cut off {cut[worst]:.1%} of its values on built-in prose, and at "
            f"most {_CUT_OFF:.0%} are to be; give text of the kind that the model is for in [calibration]"
        )
    return difference(rounded, plain, what, tolerance=np.inf, share=share)
