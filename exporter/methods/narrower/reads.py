"""Which products of a graph read which channels, while it is computed in torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.interpreter.network import Step
from edgepress.exporter.methods.narrower.coupling import Coupling, Site

DATA_AXIS: Mapping[str, int] = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}
"""The axis of channels in what these operators multiply by their weight."""

_WEIGHT = 1  # the input of these operators that is the weight


class Reads:
    """Where products read channels: by weight, the axis of the weight, and of what it is multiplied with."""

    def __init__(self, coupling: Coupling) -> None:
        self._sites = {site.tensor: site for group in coupling.groups for site in group.sites if site.reads}
        self._coupling = coupling

    def site(self, step: Step, index: int) -> Site | None:
        """The site that a node's first input goes into."""
        if index != 0 or step.key not in DATA_AXIS or len(step.inputs) < 2 or step.attributes.get("transA"):
            return None
        return self._sites.get(step.inputs[_WEIGHT])

    def channels(self, site: Site) -> NDArray[np.int64]:
        """The channel at each place along the site."""
        labels = self._coupling.tensors[site.tensor][site.axis]
        assert labels is not None  # a site has labels
        return self._coupling.channel_of[labels]
