"""A flipped bit anywhere in what a killed pruning left: the run that goes on ends with an undisturbed one's bytes."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prune_tasks import tiny

from edgepress.exporter.learn.pruning.run import Pruned, prune
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.training import Training
from edgepress.terminal.progress import silent

RECIPE = """
prune = ["mlp_width", "depth", "retrain"]
[weights]
bits = 4
[options.retrain]
steps = 8
batch = 2
[calibration]
tokens = 256
training_tokens = 512
length = 64
"""
TEXT = "".join(f"{number}: to be, or not to be, that is question {number * number}.\n" for number in range(600))

pytestmark = pytest.mark.usefixtures("one_thread")


class KilledError(Exception):
    """Raised in the middle of a training, where a kill would be."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Pruned]:
    home = tmp_path_factory.mktemp("model")
    source = Checkpoint.open(tiny("qwen2", home))
    (home / "recipe.toml").write_text(RECIPE)
    (home / "text.txt").write_text(TEXT)
    recipe = read_recipe(home / "recipe.toml")
    recipe = replace(recipe, calibration=replace(recipe.calibration, text=(str(home / "text.txt"),)))

    def steps(folder: Path) -> Pruned:
        folder.mkdir(exist_ok=True)
        return prune(source, recipe, [], folder=folder, threads=1, progress=silent)

    return steps


@pytest.fixture(scope="module")
def left(
    run: Callable[[Path], Pruned], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Pruned, dict[str, bytes]]:
    """What a kill in the last step left, and what an undisturbed run makes."""
    home = tmp_path_factory.mktemp("left")
    whole = run(home / "whole")
    original, taken = Training.step, iter(range(99))

    def step(self: Training, *arguments: object) -> None:
        if next(taken) == 5:
            raise KilledError
        original(self, *arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "step", step)
        with pytest.raises(KilledError):
            run(home / "killed")
    return home / "killed", whole, contents(home / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flipped(left: Path, name: str, bit: int, into: Path) -> Path:
    steps = Path(shutil.copytree(left, into / "steps"))
    found = bytearray((steps / name).read_bytes())
    found[bit // 8 % len(found)] ^= 1 << bit % 8
    (steps / name).write_bytes(found)
    return steps


def test_what_is_left_has_every_kind_of_file(left: tuple[Path, Pruned, dict[str, bytes]]) -> None:
    names = set(contents(left[0]))
    assert {"original.json", "text/step.json", "text/held_out.json", "text/0/text.txt"} <= names
    assert {"0-mlp_width/step.json", "1-depth/step.json", "1-depth/model.safetensors"} <= names
    assert {
        f"2-retrain.state/{name}" for name in ("step.json", "teacher.json", "teacher-3.f32", "retrain.state")
    } <= names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("original.json", "is damaged"),
        ("0-mlp_width/step.json", "0-mlp_width is damaged"),
        ("1-depth/model.safetensors", "1-depth is damaged"),
        ("2-retrain.state/retrain.state", "the saved state is damaged"),
        ("2-retrain.state/teacher-3.f32", "the original's streams are damaged"),
        ("2-retrain.state/teacher.json", "the original's streams are damaged"),
        ("2-retrain.state/step.json", "2-retrain.state is damaged"),
    ],
)
def test_what_is_damaged_is_made_anew_and_said(
    name: str,
    said: str,
    run: Callable[[Path], Pruned],
    left: tuple[Path, Pruned, dict[str, bytes]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    killed, whole, expected = left
    steps = flipped(killed, name, 4 * (killed / name).stat().st_size, tmp_path)
    with caplog.at_level(logging.WARNING):
        found = run(steps)
    assert said in caplog.text
    assert found.steps == whole.steps
    assert contents(steps) == expected


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flip_in_any_file_gives_the_bytes_of_an_undisturbed_run(
    data: st.DataObject,
    run: Callable[[Path], Pruned],
    left: tuple[Path, Pruned, dict[str, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    killed, whole, expected = left
    name = data.draw(st.sampled_from(sorted(contents(killed))), label="file")
    bit = data.draw(st.integers(0, 8 * (killed / name).stat().st_size - 1), label="bit")
    steps = flipped(killed, name, bit, tmp_path_factory.mktemp("flipped"))
    assert run(steps).steps == whole.steps
    assert contents(steps) == expected
