"""A graph that is run in pieces gives what one session of the whole graph gives, and no piece reads many weights."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_models

from edgepress.exporter import decide
from edgepress.exporter.bundle.cpu_graph import graphs_to_compare
from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.export import write_weights
from edgepress.exporter.graph import piecewise
from edgepress.exporter.graph.piecewise import Piecewise
from edgepress.sessions import open_on_cpu
from edgepress.terminal.progress import silent

IDS = np.random.default_rng(2).integers(3, tiny_models.VOCABULARY, (1, 20))
BLOCKS = "[weights]\nbits = 4\nblock_size = 32\nsymmetric = false\n[embedding]\nbits = 8\n"
PLAIN = "[weights]\nbits = 32\n[embedding]\nbits = 32\n"
HALF = "[weights]\nbits = 16\n[embedding]\nbits = 16\n"


def written(name: str, recipe: str, folder: Path) -> Prepared:
    checkpoint = tiny_models.save(name, folder / "checkpoint")
    (folder / "recipe.toml").write_text(f'accuracy_level = 1\n{recipe}[activations]\ntype = "float16"\n', "utf-8")
    prepared = decide(checkpoint, target="arm64-cpu", recipe=folder / "recipe.toml")
    return write_weights(folder, prepared, None, threads=1, progress=silent)[0]


def inputs_of(prepared: Prepared) -> dict[str, np.ndarray]:
    states = {state.input: np.zeros(state.sizes(0), np.float32) for state in prepared.decoder.states()}
    return {"input_ids": IDS, "attention_mask": np.ones_like(IDS), **states}


def values_of_one_session(folder: Path, model: onnx.ModelProto, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every value that depends on the inputs: each is an output of the model, which is then not fused any further."""
    every = onnx.ModelProto()
    every.CopyFrom(model)
    made = set(inputs)
    for node in model.graph.node:
        made |= set(filter(None, node.output)) if made.intersection(node.input) else set()
    names = sorted(made.difference(inputs))
    del every.graph.output[:]
    every.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    onnx.save(every, folder / "every.onnx")
    return dict(zip(names, open_on_cpu(folder / "every.onnx").run(names, inputs), strict=True))


RECIPES = {"blocks": BLOCKS, "plain": PLAIN, "half": HALF}
PIECES = (100, 3000, 1 << 30)


@pytest.mark.parametrize(  # each recipe with each name, and with each piece; and each name with each piece
    ("name", "recipe", "piece"),
    [
        (name, recipe, PIECES[(row + column) % 3])
        for row, name in enumerate(("llama", "gpt2", "gemma3_text"))
        for column, recipe in enumerate(RECIPES)
    ],
)
def test_pieces_give_the_values_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, recipe: str, piece: int
) -> None:
    prepared = written(name, RECIPES[recipe], tmp_path)
    graph, _ = graphs_to_compare(prepared, prepared.cpu)
    expected = values_of_one_session(tmp_path, graph, inputs_of(prepared))
    sizes = watch_sizes(monkeypatch)
    pieces, found = Piecewise(tmp_path, graph, expected, threads=1, piece=piece), dict[str, np.ndarray]()
    for values in pieces.run(inputs_of(prepared)):
        found |= values
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        largest = np.abs(value).max(initial=0)
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-5 * largest, err_msg=key)
    # what is looked up is IDS.size rows at most, and a row is never cut
    assert max(sizes) <= max(piece, IDS.size * 64, 96)
    assert len(pieces) > 1 or piece > 3000


def watch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Elements of the largest constant of each session that is opened from now on."""
    sizes: list[int] = []

    def opened(model: bytes, *rest: Any) -> Any:
        graph = onnx.load_from_string(model).graph
        sizes.append(max((math.prod(tensor.dims) for tensor in graph.initializer), default=0))
        return open_on_cpu(model, *rest)

    monkeypatch.setattr(piecewise, "open_on_cpu", opened)
    return sizes


def test_only_what_is_wanted_is_computed_and_what_nobody_reads_is_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = written("llama", BLOCKS, tmp_path)
    graph, _ = graphs_to_compare(prepared, prepared.cpu)
    run: list[str] = []
    keep_names(monkeypatch, lambda nodes: run.extend(node.name for node in nodes))
    wanted = "layers.1.attention.attended"
    pieces = Piecewise(tmp_path, graph, [wanted], threads=1, piece=3000)
    values = list(pieces.run(inputs_of(prepared)))
    assert [*values[-1]] == [wanted]
    assert not any(values[:-1])
    assert "layers.0.mlp.down.y" in run
    assert not {"layers.1.attention.output.y", "logits"} & set(run)


def keep_names(monkeypatch: pytest.MonkeyPatch, note: Callable[[Any], None]) -> None:
    def opened(model: bytes, *rest: Any) -> Any:
        note(onnx.load_from_string(model).graph.node)
        return open_on_cpu(model, *rest)

    monkeypatch.setattr(piecewise, "open_on_cpu", opened)


def test_nothing_is_computed_where_nothing_is_wanted(tmp_path: Path) -> None:
    """As of a model without attention, in which nothing overflows float16."""
    prepared = written("mamba", BLOCKS, tmp_path)
    model, _ = graphs_to_compare(prepared, prepared.cpu)
    pieces = Piecewise(tmp_path, model, [], threads=1)
    assert len(pieces) == 0
    assert list(pieces.run(inputs_of(prepared))) == [{}]
