"""A bundle of an encoder-decoder compared with transformers' own model, on a random source: what ``--check`` does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgepress.errors import CheckFailed
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.graph.linears import compute_in_float
from edgepress.exporter.graph.models.encoder_decoder import HIDDEN, SOURCES
from edgepress.exporter.model.encoder_decoders.description import EncoderDecoder
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.onnx_graph.files import parse_model
from edgepress.sessions import open_on_cpu, session_options
from edgepress.tasks.sequences import DECODER_FILE, ENCODER_FILE
from edgepress.terminal.progress import Progress

if TYPE_CHECKING:
    from torch import nn

TOLERANCE = 1e-3  # of the largest logit: float32 graphs are within 1e-5, a wrong graph is off by 1e-1
_SOURCE, _TARGET, _SAMPLES = 24, 8, 16_000  # tokens, and samples of a wave
Arrays = dict[str, NDArray[Any]]


def parity_encoder_decoder(
    work: Path, checkpoint: Checkpoint, model: EncoderDecoder, plan: Plan, progress: Progress
) -> dict[str, object]:
    """Run transformers' model with its weights and the bundle's, the graphs with float32 products and as they are.

    Targets are given to transformers at once, and to the graphs as a prompt and then token by token.

    Raises:
        CheckFailed: the graphs do not compute what transformers computes with the same weights.

    """
    feed, target = _example(model)
    with progress(4, "checking against transformers", " runs") as advance:
        reference = _reference(checkpoint)
        original = _logits_of(reference, feed, target)
        advance(1)
        _restore(reference, model, StoredWeights(work / DATA_FILE, plan))
        restored = _logits_of(reference, feed, target)
        advance(1)
        exact = _run(work, plan, feed, target, in_float=True)
        advance(1)
        shipped = _run(work, plan, feed, target, in_float=False)
        advance(1)
    graph = _difference(exact, restored)
    if not graph <= TOLERANCE:  # written so that NaN fails too
        raise CheckFailed(
            f"the graphs do not compute what transformers computes with the same weights: largest difference "
            f"{graph:.2e} of the largest logit, tolerance {TOLERANCE:.0e}; please report this model"
        )
    return {
        "graph_difference": float(f"{graph:.3e}"),
        "graph_tolerance": TOLERANCE,
        "logits_difference": float(f"{_difference(shipped, original):.3e}"),
        "source": _SOURCE if model.source == "tokens" else int(next(iter(feed.values())).shape[-1]),
        "target": _TARGET,
    }


def _example(model: EncoderDecoder) -> tuple[Arrays, NDArray[np.int64]]:
    """A random source and a random target."""
    draw = np.random.default_rng(0)
    target = draw.integers(0, model.vocab_size, (1, min(_TARGET, model.context_length)))
    if model.source == "tokens":
        assert model.source_embedding is not None
        length = min(_SOURCE, model.source_length or _SOURCE)
        # the last rows may be padding, which positions of some families skip
        source: NDArray[Any] = draw.integers(3, max(4, model.source_embedding.shape[0] - 1), (1, length))
    elif model.source == "mel":
        stride = int(np.prod([convolution.stride for convolution in model.convolutions]))
        source = draw.standard_normal((1, model.bands, stride * model.source_length)).astype(np.float32)
    else:
        source = (0.1 * draw.standard_normal((1, _SAMPLES))).astype(np.float32)
    return {SOURCES[model.source]: source}, target


def _reference(checkpoint: Checkpoint) -> nn.Module:
    """transformers' model in float32."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(checkpoint.directory, local_files_only=True)
    found = next(
        kind
        for kind in (transformers.AutoModelForSpeechSeq2Seq, transformers.AutoModelForSeq2SeqLM)
        if type(config) in kind._model_mapping
    )
    model: nn.Module = found.from_pretrained(checkpoint.directory, dtype=torch.float32, local_files_only=True)
    return model.eval()


def _logits_of(
    reference: nn.Module, feed: Mapping[str, NDArray[Any]], target: NDArray[np.int64]
) -> NDArray[np.float32]:
    import torch

    with torch.inference_mode():
        given = {name: torch.from_numpy(array) for name, array in feed.items()}
        found: NDArray[np.float32] = reference(**given, decoder_input_ids=torch.from_numpy(target)).logits[0].numpy()
    return found


def _restore(reference: nn.Module, model: EncoderDecoder, stored: StoredWeights) -> None:
    """Put the bundle's weights into transformers' model, under the names that the checkpoint has."""
    import torch

    parameters = dict(reference.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name in {part.tensor for weight in model.weights() for part in weight.parts} - model.made.keys():
            parameters[name].copy_(torch.from_numpy(stored(name)))


def _run(
    work: Path, plan: Plan, feed: Mapping[str, NDArray[Any]], target: NDArray[np.int64], *, in_float: bool
) -> NDArray[np.float32]:
    """Logits after each token, (target, vocabulary): of a prompt of half of the target, then token by token."""
    encoder, decoder = (_open(work, name, in_float=in_float) for name in (ENCODER_FILE, DECODER_FILE))
    given = dict(zip([value.name for value in encoder.get_outputs()], encoder.run(None, dict(feed)), strict=True))
    given.pop(HIDDEN)
    own = [state for state in plan.states if state.kind != "encoded"]
    encoded = {state.input: given[state.output] for state in plan.states if state.kind == "encoded"}
    caches = {state.input: np.zeros(state.sizes(0), np.float32) for state in own}
    names = [value.name for value in decoder.get_outputs()]
    rows, length = [], target.shape[1]
    ends = [length // 2, *range(length // 2 + 1, length + 1)]
    for start, end in zip([0, *ends], ends, strict=False):
        inputs = {"input_ids": target[:, start:end], "attention_mask": np.ones((1, end), np.int64)}
        found = dict(zip(names, decoder.run(None, {**inputs, **encoded, **caches}), strict=True))
        rows.append(found["logits"][0, -1])
        caches = {state.input: found[state.output] for state in own}
    return np.array(rows)


def _open(work: Path, name: str, *, in_float: bool) -> Any:
    if not in_float:
        return open_on_cpu(work / name)
    graph: onnx.ModelProto = parse_model(work / name)
    compute_in_float(graph, 1)
    options = session_options()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    path = work / f".check.{name}"  # beside the data file that it refers to
    try:
        path.write_bytes(graph.SerializeToString())
        return open_on_cpu(path, options)
    finally:
        path.unlink(missing_ok=True)


def _difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest difference as a share of the largest logit, at the positions that both have."""
    expected = expected[-len(found) :]
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
