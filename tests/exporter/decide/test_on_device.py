"""Bounds of a plan on a device, against sums made by hand from the model's sizes."""

import json
from pathlib import Path

import pytest
from tiny_models import save

from edgepress.cli import main
from edgepress.exporter import decide
from edgepress.exporter.decide.instructions import PROMPT
from edgepress.exporter.decide.on_device import estimate_on, lines_of
from edgepress.targets.devices import Error, Figure, Roofline


def board(
    bytes_per_second: float, operations: float, joules: float | None = None, error: Error | None = None
) -> Roofline:
    def figure(value: float) -> Figure:
        return Figure(value, "made up for a test", "2026-01-01")

    energy = None if joules is None else figure(joules)
    return Roofline(
        name="Board", soc="X", cores="1", bytes_per_second=figure(bytes_per_second),
        int8_operations_per_second=figure(operations), float32_operations_per_second=figure(operations / 4),
        picojoules_per_byte=energy, picojoules_per_operation=energy, error=error,
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose context holds a prompt after other tokens."""
    found = save("llama", tmp_path_factory.mktemp("model") / "checkpoint")
    config = json.loads((found / "config.json").read_text())
    (found / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    return found


def test_a_token_is_bound_by_its_bytes_or_its_operations(checkpoint: Path) -> None:
    prepared = decide(str(checkpoint), target="x86-cpu", recipe="int4")
    products = sum(
        tensor.weight.shape[0] * tensor.weight.shape[1]
        for tensor in prepared.plan.tensors
        if len(tensor.weight.shape) == 2 and "embed" not in tensor.weight.name and tensor.scheme is not None
    )
    slow_memory = estimate_on(prepared, board(1e3, 1e30))
    slow_cores = estimate_on(prepared, board(1e30, 1e3))
    [at] = slow_memory.decode
    assert slow_memory.decode[at].bound_by == "memory"
    assert slow_cores.decode[at].bound_by == "arithmetic"
    operations = 1e3 / slow_cores.decode[at].tokens_per_second
    attention = operations - 2 * products
    config = json.loads((checkpoint / "config.json").read_text())
    assert attention == pytest.approx(4 * config["hidden_size"] * config["num_hidden_layers"] * at)
    moved = 1e3 / slow_memory.decode[at].tokens_per_second
    assert 0.9 * prepared.plan.data_bytes < moved < prepared.plan.data_bytes + prepared.plan.cache_bytes + 10_000
    # a prompt reads the weights once for all its tokens
    assert slow_memory.prefill[at].tokens_per_second == pytest.approx(PROMPT * slow_memory.decode[at].tokens_per_second)


def test_energy_is_bytes_and_operations_and_none_without_a_source(checkpoint: Path) -> None:
    prepared = decide(str(checkpoint), target="x86-cpu", recipe="int4")
    [bound] = estimate_on(prepared, board(1e9, 1e9, joules=2.0)).decode.values()
    [without] = estimate_on(prepared, board(1e9, 1e9)).decode.values()
    moved, done = (
        1e9 / estimate_on(prepared, board(*speeds)).decode[64].tokens_per_second
        for speeds in ((1e9, 1e30), (1e30, 1e9))
    )
    assert bound.joules_per_token == pytest.approx(2e-12 * (moved + done))
    assert without.joules_per_token is None


def test_the_error_is_said_or_that_there_is_none(checkpoint: Path) -> None:
    prepared = decide(str(checkpoint), target="x86-cpu", recipe="int4")
    measured = board(1e9, 1e9, error=Error(0.12, "measured"))
    assert "±12% where measured" in lines_of(estimate_on(prepared, measured), measured)[0]
    unknown = board(1e9, 1e9)
    assert "nobody has measured" in lines_of(estimate_on(prepared, unknown), unknown)[0]


def test_plan_prints_it(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(checkpoint), "--device", "raspberry-pi-5"]) == 0
    assert "Raspberry Pi 5, at most, by a roofline" in capsys.readouterr().out
    assert main(["plan", str(checkpoint), "--device", "toaster"]) == 2
