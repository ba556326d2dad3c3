"""Run text through the model one layer at a time: load a layer, collect its statistics, compress it, go on.

The inputs of a layer are the outputs of the compressed layers before it, so that a layer can correct their errors (the
"true sequential" order of GPTQ). Peak memory is one layer, its statistics and a batch of activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from edgepress.exporter.arrays.activations import Activations
from edgepress.exporter.arrays.codes import Codes, report
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.packing import Quantized
from edgepress.exporter.arrays.parallel import each
from edgepress.exporter.arrays.sealed import save_sealed
from edgepress.exporter.learn.calibration.input_ranges import layer_ranges, model_ranges
from edgepress.exporter.learn.calibration.rounding import pass_on, round_by_linear
from edgepress.exporter.methods.kinds import (
    LayerMethod,
    LinearMethod,
    Method,
    Repair,
    Rounding,
    Transform,
    load_kind,
    load_method,
    method_options,
    round_rows,
    start_method,
)
from edgepress.exporter.methods.tasks import LayerTask, ModelTask
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import Decoder, Layer, layer_weights, rows_read
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.store import Store, StoredStages, to_arrays
from edgepress.terminal.progress import Progress, silent

_RANGES = "ranges"  # the last stage, when activations have static ranges and the whole model is repaired


class Calibration:
    """One calibration of one checkpoint: everything that is the same for all layers.

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
        self.transforms = [load_kind(name, Transform, "before") for name in recipe.before]
        self.repairs = [load_kind(name, Repair, "after") for name in recipe.after]
        self.methods: dict[str, Rounding] = {}
        for tensor in plan.tensors:
            if tensor.scheme is not None:
                start_method(tensor.scheme.method, recipe)  # which refuses what does not round
                self.methods[tensor.weight.name] = cast("Rounding", load_method(tensor.scheme.method))
        self.starts = {name: start_method(method.name, recipe) for name, method in self.methods.items()}
        self.changes_layers = any(repair.layer is not None for repair in self.repairs) or any(
            isinstance(method, LayerMethod) for method in self.methods.values()
        )
        repairs_model = any(repair.model is not None for repair in self.repairs)
        self.needs_reference = self.changes_layers or repairs_model
        self.keeps_full = bool(self.transforms) and repairs_model  # else the checkpoint has what was rounded

    def stages(self) -> list[str]:
        """Names of the stages, in order: each layer, the head, each repair of the model, static ranges after it."""
        count = len(self.decoder.layers)
        names = [f"{index:04}-layer" for index in range(count)]
        names += [f"{count:04}-head"]
        last = [repair.name for repair in self.repairs if repair.model is not None]
        if last and self.recipe.activations.is_calibrated:
            last.append(_RANGES)
        return names + [f"{count + 1 + index:04}-{name}" for index, name in enumerate(last)]

    def run(self, progress: Progress = silent) -> StoredStages:
        """Do every stage that is not done yet; ``progress`` makes a bar for the layers, and one for each repair.

        Raises:
            InputError: activations are not finite, or a method cannot use its inputs; finished stages are kept.

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
        shape = (sequences, self.tokens.shape[1], self.decoder.stream_width)
        return Activations(self.store.directory / f"{kind}-{index:04}.f32", shape, self.device)

    def _inputs(self, index: int) -> tuple[Activations, Activations | None]:
        """The inputs of layer ``index``: embedded tokens, or the outputs of the layer before it."""
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
        tables = {weight.name: self._table_rows(weight, ids, rounded=rounded) for weight in self.decoder.tables}

        def values(weight: Weight) -> Tensor:
            return tables[weight.name] if weight.name in tables else self.read(weight)

        for batch in out.batches():
            tokens = torch.from_numpy(places.reshape(out.shape[:2])[batch]).to(self.device)
            out.write(batch, network.embed(self.decoder, values, tokens))

    def _table_rows(self, weight: Weight, ids: NDArray[np.int64], *, rounded: bool) -> Tensor:
        """Rows of a table, (rows, columns), as stored when ``rounded`` and it is rounded row by row."""
        (part,) = weight.parts
        rows = np.concatenate([self.checkpoint.part_rows(part, i, i + 1) for i in rows_read(weight, ids)])
        rows += np.float32(weight.plus)
        scheme, method = self.plan.of(weight).scheme, self.methods.get(weight.name)
        if rounded and scheme is not None and isinstance(method, Method):
            return Codes.unpack(method.quantize(rows, scheme, None), scheme, rows.shape[1]).dequantize().to(self.device)
        return torch.from_numpy(rows).to(self.device)

    # ---- layers -----------------------------------------------------------------------------------------------------

    def read(self, weight: Weight) -> Tensor:
        """Read a weight as float32, as it is before any method changes it."""
        return torch.from_numpy(read_weight(self.checkpoint, weight)).to(self.device)

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
        weights = layer_weights(layer)
        return LayerTask(
            index=index,
            layer=layer,
            schemes=self.plan.schemes,
            rotaries=self.rotaries,
            weights=dict(zip([weight.name for weight in weights], each(self.read, weights, self.device), strict=True)),
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
            folded = {weight.name: task.full(weight).cpu().numpy() for weight in layer_weights(layer)}
            save_sealed(self._full_file(index), folded, {})
        _compute_reference(task)
        outputs = self._activations("inputs", index + 1)
        left = round_by_linear(task, self.starts, self.recipe, outputs=None if self.changes_layers else outputs)
        rounding = [self.methods.get(linear.weight.name) for linear in task.linears()]
        for method in {method.name: method for method in rounding if isinstance(method, LayerMethod)}.values():
            method.tune(task, method_options(method, self.recipe))
        for repair in self.repairs:
            if repair.layer is not None:
                repair.layer(task, method_options(repair, self.recipe))
        if not left:
            pass_on(task, outputs)
        files = [outputs.path]
        if task.reference_outputs is not None:
            files.append(task.reference_outputs.path)
        if self.keeps_full:
            files.append(self._full_file(index))
        unneeded = [self.store.directory / f"{kind}-{index:04}.f32" for kind in ("inputs", "reference")]
        self._save(stage, task, files=files, unneeded=unneeded)

    def _save(self, stage: str, task: LayerTask, *, files: Sequence[Path], unneeded: Sequence[Path]) -> None:
        arrays: dict[str, NDArray[Any]] = {}
        reports: dict[str, dict[str, float | None]] = {}
        if self.recipe.activations.is_calibrated:
            arrays |= layer_ranges(task.layer, task.values, task.inputs, task.rotaries, self.recipe.activations)
        for weight in layer_weights(task.layer):
            full = task.weights[weight.name]
            codes = task.codes.get(weight.name)
            if codes is None:
                arrays |= to_arrays(weight.name, task.values(weight).cpu().numpy())
                continue
            arrays |= to_arrays(weight.name, codes.pack())
            reports[weight.name] = report(full, codes)
            if weight.name in task.few:
                reports[weight.name]["few_tokens"] = task.few[weight.name]
        self.store.save(stage, arrays, {"reports": reports}, files=files, unneeded=unneeded)

    # ---- head and whole model ---------------------------------------------------------------------------------------

    def _head(self, stage: str) -> None:
        """Round an untied head when its method needs inputs; otherwise there is nothing to do here."""
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
        """Run the repairs of the whole model."""
        first = len(self.decoder.layers) + 1
        of_model = [repair for repair in self.repairs if repair.model is not None]
        for index, repair in enumerate(of_model):
            stage = f"{first + index:04}-{repair.name}"
            if not self.store.has(stage):
                task = self._model_task(progress)
                if repair.model is not None:
                    repair.model(task, method_options(repair, self.recipe))
                self._save_changed(stage, task)
        stage = f"{first + len(of_model):04}-{_RANGES}"
        if stage in self.stages() and not self.store.has(stage):
            self.store.save(stage, self._final_ranges(progress))

    def _model_task(self, progress: Progress) -> ModelTask:
        return ModelTask(
            decoder=self.decoder,
            schemes=self.plan.schemes,
            tokens=self.tokens,
            stages=self.store.weights(),
            teacher=self._activations("reference", len(self.decoder.layers)),
            read=self.read,
            full=self.full,
            rounded=round_rows,
            store=self.store,
            device=self.device,
            seed=self.recipe.calibration.seed,
            progress=progress,
        )

    def values(self) -> operations.Values:
        """Every weight as it will be stored after the stages so far, dequantized."""
        stored = self._model_task(silent).stored

        def value(weight: Weight) -> Tensor:
            found = stored(weight)
            return found.dequantize() if isinstance(found, Codes) else found

        return value

    def _final_ranges(self, progress: Progress) -> dict[str, NDArray[Any]]:
        """Static ranges once more: those of the layers were measured before the whole model was repaired."""
        shape = (self.layer_sequences, self.tokens.shape[1], self.decoder.stream_width)
        stream = Activations(self.store.directory / "ranges.f32", shape, self.device)
        count, stored = len(self.decoder.layers), self._model_task(progress).stored
        with torch.no_grad(), progress(count, "taking ranges again", " layers") as advance:
            tokens = self.tokens[: self.layer_sequences]
            found = model_ranges(self.decoder, stored, tokens, stream, self.recipe.activations, advance=advance)
        stream.path.unlink()
        return found

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


def _compute_reference(task: LayerTask) -> None:
    """Compute the layer's outputs in full precision, if a method needs them."""
    if task.reference_inputs is None or task.reference_outputs is None:
        return
    for batch in task.reference_inputs.batches():
        x = task.reference_inputs.read(batch)
        task.reference_outputs.write(batch, network.layer_forward(task.layer, task.full, x, task.rotaries))
