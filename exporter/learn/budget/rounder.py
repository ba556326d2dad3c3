"""Single weights rounded as the export will round them: by the recipe's method, with the projection's inputs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.methods.kinds import LinearMethod, Method, method_options, start_method
from edgepress.exporter.model import network
from edgepress.exporter.model.description import layer_linears
from edgepress.exporter.model.parts.primitives import Linear, Weight
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.streams.variants import BaseRun


class Rounder:
    """Rounds one weight of the full-precision model and tells how much that changes the projection's output.

    ``base`` is that model, run on the calibration text. The moments of a layer's inputs are computed when they are
    first needed, and kept until those of another layer are. Instead of a layer method the one that it starts with is
    used.
    """

    def __init__(self, base: BaseRun, recipe: Recipe) -> None:
        self._base, self._recipe = base, recipe
        decoder = base.decoder
        self._places = {
            linear.weight.name: index for index, layer in enumerate(decoder.layers) for linear in layer_linears(layer)
        }
        if not decoder.tied:
            self._places[decoder.head.weight.name] = len(decoder.layers)
        self._at = -1
        self._moments: dict[str, Moments] = {}

    def full(self, weight: Weight) -> Tensor:
        """``weight`` in full precision."""
        return self._base.read(weight)

    def method(self, weight: Weight, scheme: Scheme) -> Method | LinearMethod:
        """The method that rounds ``weight``: rtn instead of one that needs inputs, for an embedding table."""
        method = start_method(scheme.method, self._recipe)
        is_table = isinstance(method, LinearMethod) and weight.name not in self._places
        return start_method("rtn", self._recipe) if is_table else method

    def round(self, weight: Weight, scheme: Scheme | None) -> Tensor:
        """``weight`` rounded and dequantized.

        Raises:
            InputError: the method cannot use the projection's inputs.

        """
        full = self.full(weight)
        if scheme is None:
            return full
        method = self.method(weight, scheme)
        if isinstance(method, Method):
            stored = method.quantize(full.cpu().numpy(), scheme, None)
            codes = Codes.unpack(stored, replace(scheme, method=method.name), full.shape[1])
            return codes.dequantize().to(full.device)
        try:
            moments = self.moments(weight)
            return method.quantize(full, scheme, moments, method_options(method, self._recipe)).dequantize()
        except InputError as error:
            raise InputError(f"{weight.name}: {error}") from error

    def error(self, weight: Weight, rounded: Tensor) -> float:
        """Squared error of the projection's output, relative to its square; of the weights, for an embedding table."""
        full = self.full(weight).double()
        if weight.name in self._places:
            second = self.moments(weight).second.double()
            noise, power = (float(((x @ second) * x).sum()) for x in (full - rounded, full))
        else:
            noise, power = (float(x.square().sum()) for x in (full - rounded, full))
        return noise / power if power else 0.0

    def moments(self, weight: Weight) -> Moments:
        """Moments of the inputs of the projection with ``weight``, in the full-precision model."""
        place = self._places[weight.name]
        if place != self._at:
            self._moments, self._at = self._observe(place), place
        return self._moments[weight.name]

    def _observe(self, place: int) -> dict[str, Moments]:
        found: dict[str, Moments] = {}
        base, decoder = self._base, self._base.decoder

        def tap(linears: tuple[Linear, ...], x: Tensor) -> Tensor:
            moments = found.setdefault(linears[0].weight.name, Moments(x.shape[-1], x.device))
            moments.add(x)
            found.update(dict.fromkeys((linear.weight.name for linear in linears), moments))
            return x

        stream = base.streams[place]
        with torch.no_grad():
            if place == len(decoder.layers):
                values = base.head_values({})
                for batch in stream.batches():
                    tap(*next(network.head_steps(decoder, lambda weight: values[weight.name], stream.read(batch))))
                return found
            values = base.layer_values(place)
            for batch in stream.batches():
                base.layer(place, values, stream.read(batch), tap)
        return found
