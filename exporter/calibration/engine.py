"""Text through the model one layer at a time: load a layer, collect what the methods ask for, compress, go on.

What goes into a layer comes from the compressed layers before it, so that a layer can make up for what they lost (the
"true sequential" order of GPTQ). Peak memory is one layer, its statistics and a batch of activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgepress.errors import InputError
from edgepress.exporter.calibration import network
from edgepress.exporter.calibration.activations import Activations
from edgepress.exporter.calibration.codes import Codes
from edgepress.exporter.calibration.moments import Moments
from edgepress.exporter.calibration.ranges import Histogram, find_range, to_scale
from edgepress.exporter.calibration.store import Store, StoredStages, to_arrays
from edgepress.exporter.checkpoint import Checkpoint, read_weight
from edgepress.exporter.compress import (
    LayerMethod,
    LinearMethod,
    Method,
    Quantized,
    Recovery,
    Rounding,
    Transform,
    load_method,
    method_options,
)
from edgepress.exporter.decoder import Decoder, Layer, Linear, Weight, layer_linears, layer_weights
from edgepress.exporter.plan import Plan
from edgepress.exporter.recipe import Recipe
from edgepress.exporter.scheme import Scheme
from edgepress.progress import Progress, silent

_KEPT_BYTES = 512 << 20  # intermediate activations of one layer that may wait in memory; beyond, they are recomputed


@dataclass
class LayerTask:
    """One layer on its way through the methods.

    ``weights`` has every weight of the layer in float32, with the transforms so far folded in; ``codes`` what is
    rounded so far, and ``repaired`` what a recovery changed of the rest. ``inputs`` is the residual stream that the
    compressed layers before this one produce; ``reference_inputs`` what the full-precision ones produce, and
    ``reference_outputs`` what this layer, in full precision, makes of that; both are kept only when a method asks.
    """

    index: int
    layer: Layer
    plan: Plan
    rotary: network.Rotary | None
    weights: dict[str, Tensor]
    inputs: Activations
    reference_inputs: Activations | None
    reference_outputs: Activations | None
    device: torch.device
    codes: dict[str, Codes] = field(default_factory=dict)
    repaired: dict[str, Tensor] = field(default_factory=dict)

    def scheme(self, weight: Weight) -> Scheme | None:
        """How ``weight`` will be stored; None when it is kept in float32."""
        return self.plan.of(weight).scheme

    def full(self, weight: Weight) -> Tensor:
        """``weight`` in full precision, transforms folded in."""
        return self.weights[weight.name]

    def values(self, weight: Weight) -> Tensor:
        """``weight`` as it will be stored, dequantized; in full precision when nothing changed it yet."""
        codes = self.codes.get(weight.name)
        return self.repaired.get(weight.name, self.weights[weight.name]) if codes is None else codes.dequantize()

    def linears(self) -> list[Linear]:
        """The layer's projections in the order in which they are computed."""
        return layer_linears(self.layer)

    def observe(self, values: network.Values) -> dict[str, Moments]:
        """Run the layer on its inputs and sum up what goes into each projection, by the weight's name."""
        moments: dict[str, Moments] = {}

        def tap(linears: tuple[Linear, ...], x: Tensor) -> Tensor:
            key = linears[0].weight.name
            if key not in moments:
                moments[key] = Moments(x.shape[-1], self.device)
            moments[key].add(x)
            for other in linears[1:]:
                moments[other.weight.name] = moments[key]
            return x

        for x in self.inputs:
            network.layer_forward(self.layer, values, x, self.rotary, tap)
        return moments


@dataclass
class ModelTask:
    """The whole compressed model, for a method that repairs it end to end.

    ``stages`` gives each weight as it will be stored so far; ``put`` replaces one. ``tokens`` is the calibration text,
    (sequences, length), and ``teacher`` what goes into the full-precision model's final norm for it; ``read`` gives a
    checkpoint weight in float32, without transforms, ``full`` the one that was rounded, with them. ``progress`` makes
    the method's bar.
    """

    decoder: Decoder
    plan: Plan
    tokens: NDArray[np.int64]
    stages: StoredStages
    teacher: Activations
    read: Callable[[Weight], Tensor]
    full: Callable[[Weight], Tensor]
    store: Store
    device: torch.device
    seed: int
    changed: dict[str, Quantized | NDArray[np.float32]] = field(default_factory=dict)
    progress: Progress = silent

    def put(self, weight: Weight, stored: Quantized | NDArray[np.float32]) -> None:
        """Store ``weight`` so."""
        self.changed[weight.name] = stored

    def stored(self, weight: Weight) -> Codes | Tensor:
        """``weight`` as it will be stored so far; what no stage has made is rounded from the checkpoint's rows."""
        scheme = self.plan.of(weight).scheme
        if weight.name in self.stages:
            found = self.stages.weight(weight.name)
            if isinstance(found, Quantized):
                if scheme is None:
                    raise ValueError(f"{weight.name} is stored in codes, and the plan has no scheme")
                return Codes.unpack(found, scheme, weight.shape[1]).to(self.device)
            return torch.from_numpy(found).to(self.device)
        full = self.read(weight)
        if scheme is None:
            return full
        method = load_method(scheme.method)
        if not isinstance(method, Method):
            raise InputError(
                f"{scheme.method} cannot round {weight.name}, as no layer looks at what goes into it; name a method "
                "that rounds rows from the weights alone, such as rtn"
            )
        return Codes.unpack(method.quantize(full.cpu().numpy(), scheme, None), scheme, full.shape[1]).to(self.device)


class Calibration:
    """One calibration of one checkpoint: what is fixed while the layers pass.

    ``tokens`` is (sequences, length). The compressed layers see the first ``layer_sequences`` of them (all when None);
    the others are for methods that train the whole model.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        decoder: Decoder,
        plan: Plan,
        recipe: Recipe,
        *,
        tokens: NDArray[np.int64],
        store: Store,
        layer_sequences: int | None = None,
        device: str | None = None,
    ) -> None:
        self.checkpoint, self.decoder, self.plan, self.recipe = checkpoint, decoder, plan, recipe
        self.tokens, self.store = tokens, store
        self.layer_sequences = len(tokens) if layer_sequences is None else layer_sequences
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.rotaries = network.rotaries(decoder, tokens.shape[1], self.device)
        self.transforms = [self._before(name) for name in recipe.before]
        self.recoveries = [self._after(name) for name in recipe.after]
        self.methods: dict[str, Rounding] = {}
        for tensor in plan.tensors:
            if tensor.scheme is not None:
                self.methods[tensor.weight.name] = _rounding(tensor.scheme.method)
        self.starts = {name: self._start(method) for name, method in self.methods.items()}
        self.changes_layers = any(recovery.layer is not None for recovery in self.recoveries) or any(
            isinstance(method, LayerMethod) for method in self.methods.values()
        )
        repairs = any(recovery.model is not None for recovery in self.recoveries)
        self.needs_reference = self.changes_layers or repairs
        self.keeps_full = bool(self.transforms) and repairs  # else the checkpoint has what was rounded

    def _before(self, name: str) -> Transform:
        method = load_method(name)
        if not isinstance(method, Transform):
            raise InputError(f"before = [{name!r}]: {name} is not a transform; it belongs into [weights] or `after`")
        return method

    def _after(self, name: str) -> Recovery:
        method = load_method(name)
        if not isinstance(method, Recovery):
            raise InputError(f"after = [{name!r}]: {name} is not a recovery; it belongs into [weights] or `before`")
        return method

    def _start(self, method: Rounding) -> Method | LinearMethod:
        """How a weight is rounded at first: by the method itself, or by the ``start`` of a layer method."""
        if not isinstance(method, LayerMethod):
            return method
        name = str(method_options(method, self.recipe)["start"])
        start = load_method(name)
        if not isinstance(start, Method | LinearMethod):
            raise InputError(
                f"[options.{method.name}] start = {name!r}: it must be a method that rounds one weight, as rtn or gptq"
            )
        return start

    def stages(self) -> list[str]:
        """Names of the stages, in order: each layer, the head, each repair of the whole model."""
        count = len(self.decoder.layers)
        names = [f"{index:04}-layer" for index in range(count)]
        names += [f"{count:04}-head"]
        repairs = [recovery.name for recovery in self.recoveries if recovery.model is not None]
        return names + [f"{count + 1 + index:04}-{name}" for index, name in enumerate(repairs)]

    def run(self, progress: Progress = silent) -> StoredStages:
        """Do every stage that is not done yet; ``progress`` makes a bar for the layers, and one for each repair.

        Raises:
            InputError: activations are not finite, or a method cannot use what it was given; what is done is kept.

        """
        count = len(self.decoder.layers)
        with torch.no_grad(), progress(count + 1, "calibrating", " layers") as advance:
            for index, layer in enumerate(self.decoder.layers):
                name = f"{index:04}-layer"
                if not self.store.has(name):
                    self._layer(index, layer, name)
                advance(1)
            name = f"{count:04}-head"
            if not self.store.has(name):
                self._head(name)
            advance(1)
        self._repair(progress)
        return self.store.weights()

    # ---- activations ------------------------------------------------------------------------------------------------

    def _activations(self, kind: str, index: int) -> Activations:
        sequences = self.layer_sequences if kind == "inputs" else len(self.tokens)
        shape = (sequences, self.tokens.shape[1], self.decoder.hidden_size)
        return Activations(self.store.directory / f"{kind}-{index:04}.f32", shape, self.device)

    def _inputs(self, index: int) -> tuple[Activations, Activations | None]:
        """What goes into layer ``index``: embedded tokens, or what the layer before it left."""
        inputs = self._activations("inputs", index)
        reference = self._activations("reference", index) if self.needs_reference else None
        if index == 0:
            self._embed(inputs, rounded=True)
            if reference is not None:
                self._embed(reference, rounded=False)
        return inputs, reference

    def _embed(self, out: Activations, *, rounded: bool) -> None:
        """Embed the tokens; only the rows of the table that occur are read."""
        ids, places = np.unique(self.tokens[: out.shape[0]], return_inverse=True)  # (rows,), (sequences, length)
        table = self._table_rows(ids, rounded=rounded)

        def values(weight: Weight) -> Tensor:
            return table if weight is self.decoder.embedding else self.read(weight)

        for batch in out.batches():
            tokens = torch.from_numpy(places.reshape(out.shape[:2])[batch]).to(self.device)
            out.write(batch, network.embed(self.decoder, values, tokens))

    def _table_rows(self, ids: NDArray[np.int64], *, rounded: bool) -> Tensor:
        """Rows of the embedding, (rows, hidden), as stored when ``rounded`` and it is rounded row by row."""
        weight = self.decoder.embedding
        (part,) = weight.parts
        rows = np.concatenate([self.checkpoint.part_rows(part, i, i + 1) for i in ids]) + np.float32(weight.plus)
        scheme, method = self.plan.of(weight).scheme, self.methods.get(weight.name)
        if rounded and scheme is not None and isinstance(method, Method):
            return Codes.unpack(method.quantize(rows, scheme, None), scheme, rows.shape[1]).dequantize().to(self.device)
        return torch.from_numpy(rows).to(self.device)

    # ---- layers -----------------------------------------------------------------------------------------------------

    def read(self, weight: Weight) -> Tensor:
        """Read a checkpoint weight as float32; one without parts is zero until a method makes it."""
        if not weight.parts:
            return torch.zeros(weight.shape, device=self.device)
        whole = read_weight(self.checkpoint, weight)
        if not np.isfinite(whole).all():
            raise InputError(
                f"{weight.parts[0].tensor} holds NaN or infinite values; the checkpoint is damaged or its training "
                "diverged: take another one"
            )
        return torch.from_numpy(whole).to(self.device)

    def _full_file(self, index: int) -> Path:
        """Weights of a layer in full precision, transforms folded in."""
        return self.store.directory / f"full-{index:04}.weights"

    def full(self, weight: Weight) -> Tensor:
        """Read a weight as it was before it was rounded: in full precision, transforms folded in."""
        if self.keeps_full:
            for index, layer in enumerate(self.decoder.layers):
                if weight.name in {other.name for other in layer_weights(layer)}:
                    with safe_open(self._full_file(index), "pt", device=str(self.device)) as file:
                        folded: Tensor = file.get_tensor(weight.name)
                    return folded
        return self.read(weight)

    def _task(self, index: int, layer: Layer) -> LayerTask:
        inputs, reference = self._inputs(index)
        return LayerTask(
            index=index,
            layer=layer,
            plan=self.plan,
            rotary=None if layer.attention.rope is None else self.rotaries[layer.attention.rope],
            weights={weight.name: self.read(weight) for weight in layer_weights(layer)},
            inputs=inputs,
            reference_inputs=reference,
            reference_outputs=None if reference is None else self._activations("reference", index + 1),
            device=self.device,
        )

    def _layer(self, index: int, layer: Layer, stage: str) -> None:
        task = self._task(index, layer)
        for transform in self.transforms:
            transform.fold(task, method_options(transform, self.recipe))
        if self.keeps_full:
            folded = {weight.name: task.full(weight).cpu().contiguous() for weight in layer_weights(layer)}
            save_file(folded, self._full_file(index))
        _compute_reference(task)
        outputs = self._activations("inputs", index + 1)
        left = _round_by_linear(task, self.starts, self.recipe, outputs=None if self.changes_layers else outputs)
        rounding = [self.methods.get(linear.weight.name) for linear in task.linears()]
        for method in {method.name: method for method in rounding if isinstance(method, LayerMethod)}.values():
            method.tune(task, method_options(method, self.recipe))
        for recovery in self.recoveries:
            if recovery.layer is not None:
                recovery.layer(task, method_options(recovery, self.recipe))
        if not left:
            for batch in task.inputs.batches():
                y = network.layer_forward(task.layer, task.values, task.inputs.read(batch), task.rotary)
                _write_finite(outputs, batch, y, index)
        self._save(stage, task)
        for kind in ("inputs", "reference"):
            (self.store.directory / f"{kind}-{index:04}.f32").unlink(missing_ok=True)

    def _save(self, stage: str, task: LayerTask) -> None:
        arrays: dict[str, NDArray[Any]] = {}
        reports = {}
        if self.recipe.activations.is_calibrated:
            arrays |= self._ranges(task)
        for weight in layer_weights(task.layer):
            full = task.weights[weight.name]
            codes = task.codes.get(weight.name)
            if codes is None:
                arrays |= to_arrays(weight.name, task.values(weight).cpu().numpy())
                continue
            arrays |= to_arrays(weight.name, codes.pack())
            reports[weight.name] = report(full, codes)
        self.store.save(stage, arrays, {"reports": reports})

    def _ranges(self, task: LayerTask) -> dict[str, NDArray[Any]]:
        """Scale and zero point of what goes into each projection of the rounded layer."""
        histograms: dict[str, Histogram] = {}
        arrays: dict[str, NDArray[Any]] = {}

        def tap(linears: tuple[Linear, ...], x: Tensor) -> Tensor:
            seen = x
            if task.layer.mlp.down in linears:  # the graph scales each token to 1 there (graph/linears.py)
                seen = x / x.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
            histograms.setdefault(linears[0].weight.name, Histogram()).add(seen.cpu().numpy())
            for other in linears[1:]:
                histograms[other.weight.name] = histograms[linears[0].weight.name]
            return x

        for batch in task.inputs:
            network.layer_forward(task.layer, task.values, batch, task.rotary, tap)
        for name, histogram in histograms.items():
            kind = np.uint16 if self.recipe.activations.type == "uint16" else np.uint8
            low, high = find_range(histogram, self.recipe.activations)
            scale, zero_point = to_scale(low, high, np.iinfo(kind).bits)
            arrays[f"{name}/input_scale"] = np.array(scale, np.float32)
            arrays[f"{name}/input_zero_point"] = np.array(zero_point, kind)
        return arrays

    # ---- head and whole model ---------------------------------------------------------------------------------------

    def _head(self, stage: str) -> None:
        """Round an untied head when its method looks at what goes in; nothing else is left to do here."""
        weight = self.decoder.head.weight
        method = None if self.decoder.tied else self.starts.get(weight.name)
        arrays: dict[str, NDArray[Any]] = {}
        reports = {}
        scheme = None if method is None else self.plan.of(weight).scheme
        if isinstance(method, LinearMethod) and scheme is not None:
            moments = Moments(weight.shape[1], self.device)
            for x in self._activations("inputs", len(self.decoder.layers)):
                moments.add(next(network.head_steps(self.decoder, self.read, x))[1])
            full = self.read(weight)
            codes = method.quantize(full, scheme, moments, method_options(method, self.recipe))
            arrays = to_arrays(weight.name, codes.pack())
            reports[weight.name] = report(full, codes)
        self.store.save(stage, arrays, {"reports": reports})

    def _repair(self, progress: Progress) -> None:
        """Let the methods that look at the whole model repair it."""
        first = len(self.decoder.layers) + 1
        repairs = [recovery for recovery in self.recoveries if recovery.model is not None]
        for index, recovery in enumerate(repairs):
            stage = f"{first + index:04}-{recovery.name}"
            if not self.store.has(stage):
                task = ModelTask(
                    decoder=self.decoder,
                    plan=self.plan,
                    tokens=self.tokens,
                    stages=self.store.weights(),
                    teacher=self._activations("reference", len(self.decoder.layers)),
                    read=self.read,
                    full=self.full,
                    store=self.store,
                    device=self.device,
                    seed=self.recipe.calibration.seed,
                    progress=progress,
                )
                if recovery.model is not None:
                    recovery.model(task, method_options(recovery, self.recipe))
                self._save_changed(stage, task)

    def _save_changed(self, stage: str, task: ModelTask) -> None:
        arrays: dict[str, NDArray[Any]] = {}
        reports = {}
        for weight in self.decoder.weights():
            stored = task.changed.get(weight.name)
            if stored is None:
                continue
            arrays |= to_arrays(weight.name, stored)
            scheme = self.plan.of(weight).scheme
            if isinstance(stored, Quantized) and scheme is not None:
                codes = Codes.unpack(stored, scheme, weight.shape[1]).to(self.device)
                reports[weight.name] = report(self.full(weight), codes)
        self.store.save(stage, arrays, {"reports": reports})


def _rounding(name: str) -> Rounding:
    method = load_method(name)
    if not isinstance(method, Rounding):
        raise InputError(f"method = {name!r} does not round; it belongs into `before` or `after`")
    return method


def _round_by_linear(
    task: LayerTask, methods: dict[str, Method | LinearMethod], recipe: Recipe, *, outputs: Activations | None
) -> bool:
    """Round the projections in the order in which they are computed, each on what the rounded ones before it give.

    The layer's ``outputs`` are written when they come for free; returns whether they were.
    """
    weights = [linear.weight for linear in task.linears() if task.scheme(linear.weight) is not None]
    if not any(isinstance(methods[weight.name], LinearMethod) for weight in weights):  # no need to run the layer
        for weight in weights:
            _round(task, weight, methods[weight.name], None, recipe)
        return False
    passes = _Passes(task)
    for group in range(_GROUPS):
        linears, moments = passes.before(group)
        for linear in linears:
            if task.scheme(linear.weight) is not None:
                _round(task, linear.weight, methods[linear.weight.name], moments, recipe)
    return outputs is not None and passes.finish(outputs)


def _compute_reference(task: LayerTask) -> None:
    """Compute what the layer gives in full precision, if a method asks for it."""
    if task.reference_inputs is None or task.reference_outputs is None:
        return
    for batch in task.reference_inputs.batches():
        x = task.reference_inputs.read(batch)
        task.reference_outputs.write(batch, network.layer_forward(task.layer, task.full, x, task.rotary))


def _write_finite(outputs: Activations, batch: slice, y: Tensor, index: int) -> None:
    """Pass on what a layer gives, (sequences, length, hidden), if it can be computed with."""
    if not bool(torch.isfinite(y).all()):
        raise InputError(
            f"layer {index} gives NaN or infinite activations on the calibration text; the checkpoint "
            "overflows in float32 there: take another one, or another text"
        )
    outputs.write(batch, y)


_GROUPS = 4  # qkv; output; gate and up; down


class _Passes:
    """All batches on their way through a layer, stopped before projections that are not rounded yet.

    They wait in memory when there is room; else each group of projections is reached from the layer's inputs again.
    """

    def __init__(self, task: LayerTask) -> None:
        self._task = task
        widest = max(linear.weight.shape[1] for linear in task.linears()) + 2 * task.inputs.shape[2]
        self._keep = 4 * math.prod(task.inputs.shape[:2]) * widest <= _KEPT_BYTES
        self._waiting: list[_Waiting] = []

    def before(self, group: int) -> tuple[tuple[Linear, ...], Moments]:
        """Go on to a group of projections; returns them and what goes into them."""
        moments: Moments | None = None
        linears: tuple[Linear, ...] = ()
        for number, batch in enumerate(self._task.inputs.batches()):
            linears, x = self._reach(group, number, batch).step
            if moments is None:
                moments = Moments(x.shape[-1], self._task.device)
            moments.add(x)
        if moments is None or not bool(torch.isfinite(moments.largest).all()):
            raise InputError(
                f"NaN or infinite activations go into {linears[0].weight.name} on the calibration text; "
                "the checkpoint overflows in float32 there: take another one, or another text"
            )
        return linears, moments

    def _reach(self, group: int, number: int, batch: slice) -> _Waiting:
        if self._keep and group:
            self._waiting[number].answer()
            return self._waiting[number]
        task = self._task
        begun = _Waiting(network.layer_steps(task.layer, task.values, task.inputs.read(batch), task.rotary))
        if self._keep:
            self._waiting.append(begun)
        for _ in range(group):
            begun.answer()
        return begun

    def finish(self, outputs: Activations) -> bool:
        """Write what the layer gives if the batches wait behind their last projection; returns whether they do."""
        for batch, waiting in zip(outputs.batches(), self._waiting, strict=False):
            waiting.answer()
            _write_finite(outputs, batch, waiting.output, self._task.index)
        return self._keep


class _Waiting:
    """The steps of one batch up to projections that are not rounded yet; ``output`` is there after the last ones."""

    def __init__(self, steps: network.Steps) -> None:
        self._steps = steps
        self.step = next(steps)
        self.output = torch.empty(0)

    def answer(self) -> None:
        """Compute the projections and what follows, up to the next ones."""
        try:
            self.step = self._steps.send(self.step[1])
        except StopIteration as end:
            self.output = end.value


def _round(
    task: LayerTask, weight: Weight, method: Method | LinearMethod, moments: Moments | None, recipe: Recipe
) -> None:
    scheme, full = task.scheme(weight), task.full(weight)
    if scheme is None:
        return
    if isinstance(method, Method):
        stored = method.quantize(full.cpu().numpy(), scheme, None)
        codes = Codes.unpack(stored, scheme, full.shape[1])
        task.codes[weight.name] = codes.to(task.device)
        return
    if moments is None:
        raise ValueError(f"{weight.name}: {method.name} needs moments")
    try:
        task.codes[weight.name] = method.quantize(full, scheme, moments, method_options(method, recipe))
    except InputError as error:
        raise InputError(f"{weight.name}: {error}") from error


def report(full: Tensor, codes: Codes) -> dict[str, float | None]:
    """How near ``codes`` are to ``full``: SQNR in dB (None when exact) and the largest error."""
    error = full - codes.dequantize()
    power, noise = float(full.double().square().sum()), float(error.double().square().sum())
    return {
        "sqnr_db": 10 * math.log10(power / noise) if noise > 0 and power > 0 else None,
        "max_abs_error": float(error.abs().max()),
    }


def logits(decoder: Decoder, values: network.Values, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits (length, vocabulary) of one text (length,); ``values`` is asked for a weight when it is needed."""
    ids = torch.from_numpy(np.asarray(tokens, np.int64))[None]
    rotaries = network.rotaries(decoder, ids.shape[1])
    with torch.no_grad():
        x = network.embed(decoder, values, ids)
        for layer in decoder.layers:
            rotary = None if layer.attention.rope is None else rotaries[layer.attention.rope]
            x = network.layer_forward(layer, values, x, rotary)
        found: NDArray[np.float32] = network.head_forward(decoder, values, x)[0].numpy()
    return found
