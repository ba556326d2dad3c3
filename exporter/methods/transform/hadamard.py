"""Rotations after QuaRot (Ashkboos et al. 2024): outliers are spread over all channels before weights are rounded.

- The residual stream (QuaRot's R₁): output projections are rotated, input projections rotated back. An RMS norm
  commutes with that once its gain is moved into the projections after it, which leaves ones.
- v (R₂): the rows of each of its heads are rotated, and their columns of the output projection rotated back. Not where
  a gate multiplies each channel of what is attended.

Embedding, final norm and head stay as they are, tied or not: the graph rotates the embedded tokens, and rotates back
the input of the final norm. As the rotation is a Kronecker product, both together cost hidden · (left + right) · 2
multiplications a token, and the factors a few KB; see :mod:`edgepress.exporter.model.rotation`.

A layer norm subtracts the mean before it scales; a rotation that keeps the vector of ones commutes with that. The
norm's bias moves into those of the projections, which get one where they have none.

A rotation spreads outliers (tests/exporter/methods/test_hadamard.py makes one) and gains next to nothing where there
are none: ``hadamard + gptq, …`` beside ``gptq, …`` in the results of ``benchmarks/accuracy.py``. Seeds are not
searched: the best one on the calibration text need not be the best on another.

Rotations inside attention and before ``down``, which QuaRot computes at run time (R₃, R₄) for integer caches and
activations, are not made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from edgepress.errors import InputError
from edgepress.exporter.methods.kinds import Transform, method_options
from edgepress.exporter.methods.options import Options, whole_number
from edgepress.exporter.model.description import Block, Decoder, Layer, Rotation
from edgepress.exporter.model.operations import rotate
from edgepress.exporter.model.parts.primitives import Linear, Norm, Source, Weight
from edgepress.exporter.model.parts.tree import changed, every
from edgepress.exporter.model.rotation import orthogonal, split
from edgepress.exporter.recipe.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.methods.tasks import LayerTask, Schemes


def _describe(decoder: Decoder, recipe: Recipe) -> Decoder:
    """Add the rotation to the decoder, and biases that take those of layer norms; InputError where it has one."""
    if decoder.rotation is not None:
        raise InputError("before names hadamard twice; once is enough")
    rotation = _rotation(decoder.hidden_size, decoder.layers[0], method_options(METHOD, recipe))
    return replace(decoder, rotation=rotation, layers=changed(Block, decoder.layers, _with_biases))


def _with_biases(block: Block) -> Block:
    if block.norm is None or block.norm.bias is None:
        return block

    def biased(linear: Linear) -> Linear:
        if linear.bias is not None or linear not in block.mixer.input_projections:
            return linear
        weight = linear.weight
        bias = Weight(f"{weight.name}.bias", "bias", weight.shape[:1], (), stack=weight.stack)
        return replace(linear, bias=bias)

    return changed(Linear, block, biased)


def check(decoder: Decoder, _schemes: Schemes, _options: Options) -> None:
    """Refuse a model whose norms do not commute with a rotation (InputError)."""
    for block in every(Block, decoder.layers):
        if block.mixer.scales_input:
            raise InputError(
                f"hadamard cannot rotate {decoder.model_type}: {block.name} has gains of its own for each "
                "channel; leave hadamard out of `before`"
            )
        if block.post_norm is None and block.stream_norm is None:
            continue
        what = "the residual stream itself" if block.post_norm is None else "what attention and MLP add to the stream"
        raise InputError(
            f"hadamard cannot rotate {decoder.model_type}: it normalizes {what}, with a gain for each channel, and no "
            "weight after it can take those gains; leave hadamard out of `before`"
        )


def _rotation(hidden: int, layer: Layer, options: Options) -> Rotation:
    left, right = split(hidden)
    removes_mean = any(block.norm is not None and block.norm.kind == "layer" for block in layer.blocks)
    return Rotation(left, right, int(options["seed"]), keeps_mean=removes_mean)


def _fold(task: LayerTask, options: Options) -> None:
    weights = task.weights
    for block in task.layer.blocks:  # norms last: blocks may share one
        mixer, norm = block.mixer, block.norm
        if norm is None:
            raise ValueError(f"layer {task.index} has no norm before {block.name}")
        source = mixer.source()
        if isinstance(source, Source) and source.width > 1 and source.turns:
            head = orthogonal(source.width, np.random.default_rng([int(options["seed"]), task.index]))
            _rotate_heads(source, mixer.output_projection, weights, torch.from_numpy(head).to(task.device))
        rotation = _rotation(mixer.input_projections[0].weight.shape[1], task.layer, options)
        for linear in mixer.input_projections:
            _rotate_input(norm, linear, weights, rotation)
        for writer in mixer.output_projections:
            weight = weights[writer.weight.name].double()
            weights[writer.weight.name] = rotate(rotation, weight.T).T.float().contiguous()
            if writer.bias is not None:
                weights[writer.bias.name] = rotate(rotation, weights[writer.bias.name].double()).float()
    for norm in (block.norm for block in task.layer.blocks if block.norm is not None):
        weights[norm.weight.name] = torch.ones_like(weights[norm.weight.name])
        if norm.bias is not None:
            weights[norm.bias.name] = torch.zeros_like(weights[norm.bias.name])


def _rotate_input(norm: Norm, linear: Linear, weights: dict[str, Tensor], rotation: Rotation) -> None:
    """``W (g ∘ n + b)`` becomes ``(W diag(g) R) (Rᵀ n) + W b``."""
    weight = weights[linear.weight.name].double()
    if norm.bias is not None:
        if linear.bias is None:
            raise ValueError(f"{linear.weight.name} has no bias that could take the layer norm's")
        moved = weight @ weights[norm.bias.name].double()
        weights[linear.bias.name] = (weights[linear.bias.name].double() + moved).float()
    weights[linear.weight.name] = rotate(rotation, weight * weights[norm.weight.name].double()).float()


def _rotate_heads(source: Source, linear: Linear, weights: dict[str, Tensor], head: Tensor) -> None:
    """Rotate each block of the source's rows by ``head`` (width, width), and rotate its columns of ``linear`` back."""
    width, rows = source.width, source.rows
    for weight in (source.linear.weight, source.linear.bias):
        if weight is not None:
            whole = weights[weight.name].clone()
            by_head = whole[rows].double().reshape(len(whole[rows]) // width, width, -1)
            whole[rows] = (head.T @ by_head).reshape(whole[rows].shape).float()
            weights[weight.name] = whole
    columns = weights[linear.weight.name]
    by_head = columns.double().reshape(len(columns), -1, width)
    weights[linear.weight.name] = (by_head @ head).reshape(columns.shape).float()


METHOD = Transform(
    "hadamard", _describe, _fold, needs_inputs=False, check=check, declared={"seed": whole_number(0, 0, 1 << 63)}
)
