"""The recipes that accuracy.py asks for are recipes, and its answer to the goal is what the figures say."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgepress.exporter.methods.kinds import GraphPruning, Pruning, load_method, method_names
from edgepress.exporter.recipe.reading import read_recipe


@pytest.fixture(name="accuracy")
def _accuracy(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("accuracy")


def test_every_recipe_is_read_as_it_was_meant(accuracy: ModuleType, tmp_path: Path) -> None:
    recipes = [*accuracy.grid(), *accuracy.chosen(), *accuracy.sequences()]
    for asked in recipes:
        recipe = read_recipe(asked.write(tmp_path))
        assert (recipe.before, recipe.after) == (asked.before, asked.after)
        found = recipe.weights
        assert (found.method, found.bits, found.symmetric) == (asked.method, asked.bits, asked.symmetric)
        assert found.block_size == (0 if asked.block_size == "channel" else asked.block_size)
        trained = {name: dict(options) for name, options in recipe.options.items()}
        if asked.training is None:
            assert trained == {}
        else:
            assert recipe.calibration.training_tokens == asked.training.tokens
            assert list(trained.values()) == [{"steps": asked.training.steps, "batch": asked.training.batch}]
            assert trained.keys() <= set(asked.methods)
            assert str(asked.training) in asked.name


def test_the_grid_has_every_method_in_every_scheme_and_no_sequences(accuracy: ModuleType) -> None:
    sizes = [16, 32, 64, 128, 256, "channel"]
    every = {(2, size) for size in (32, 64, 128, "channel")} | {(bits, size) for bits in (4, 8) for size in sizes}
    recipes = list(accuracy.grid())
    elsewhere = {"magnitude", "wanda", "sparsegpt"}  # sparsity.py
    for name in method_names():
        if name in elsewhere or isinstance(load_method(name), Pruning | GraphPruning):  # of a whole
            continue
        using = [asked for asked in recipes if name in asked.methods and asked.symmetric]
        assert {(asked.bits, asked.block_size) for asked in using if set(asked.methods) <= {name, "rtn"}} == every
    assert all(len(asked.before) + len(asked.after) <= 1 for asked in recipes)
    assert all(asked.method == "rtn" for asked in recipes if asked.before or asked.after)
    assert len({asked.name for asked in recipes}) == len(recipes)


def write_results(path: Path, samples: list[dict[str, object]], **changed: object) -> None:
    from common import host

    lines = [{"host": {**host(), **changed}, "date": "2026-01-01"}, *samples]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def measured(model: str, name: str, kl: float) -> dict[str, object]:
    return {"model": model, "tool": "edgepress", "name": name, "kl": kl}


def test_a_run_of_one_model_replaces_its_samples_and_leaves_those_of_others(
    accuracy: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "results.jsonl"
    write_results(
        path, [measured("demo", "int4", 1.0), measured("tiny1m", "int4", 2.0), measured("tiny1m", "old", 3.0)]
    )
    kept = accuracy.earlier(path, ["tiny1m"], whole=True)
    found = accuracy.merge(kept, [measured("tiny1m", "int4", 4.0)])
    assert [(one["model"], one["name"], one["kl"]) for one in found] == [("tiny1m", "int4", 4.0), ("demo", "int4", 1.0)]


def test_a_run_of_one_method_replaces_what_has_the_same_name_only(accuracy: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write_results(path, [measured("demo", "rtn", 1.0), measured("demo", "gptq", 2.0)], cpu="another")
    kept = accuracy.earlier(path, ["demo"], whole=False)
    assert [one["cpu"] for one in kept] == ["another", "another"]
    found = accuracy.merge(kept, [measured("demo", "gptq", 3.0), measured("demo", "new", 4.0)])
    assert {one["name"]: one["kl"] for one in found} == {"rtn": 1.0, "gptq": 3.0, "new": 4.0}


def test_samples_of_other_versions_are_not_put_beside_new_ones(accuracy: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write_results(path, [measured("demo", "int4", 1.0)], versions={"onnxruntime": "0.1"})
    with pytest.raises(SystemExit, match=r"has samples of \{'onnxruntime': '0.1'\}"):
        accuracy.earlier(path, ["tiny1m"], whole=True)
    assert accuracy.earlier(path, ["demo"], whole=True) == []


def test_peers_stay_when_only_our_version_is_another(accuracy: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    ours, theirs = measured("demo", "int4", 1.0), {**measured("demo", "Q4_0", 2.0), "tool": "llama.cpp"}
    write_results(path, [ours, theirs], versions={**accuracy.host()["versions"], "edgepress": "0.1.0"})
    with pytest.raises(SystemExit, match="measure all models and methods"):
        accuracy.earlier(path, ["demo"], whole=False)
    kept = accuracy.earlier(path, ["demo"], whole=False, again=("edgepress",))
    assert [one["name"] for one in kept] == ["Q4_0"]


@pytest.mark.usefixtures("accuracy")
def test_the_pivot_shows_kl_and_bits_with_the_least_in_bold() -> None:
    def at(title: str, block: int | str, **found: object) -> dict[str, object]:
        named = {"model": "demo", "name": f"{title}, 4 bits, block {block}", "title": title, "bits": 4}
        return {**named, "block_size": block, **found}

    samples = [
        at("rtn", 32, kl=0.000203, bits_per_weight=5.03),
        at("rtn", "channel", kl=1.20456, bits_per_weight=4.2),
        at("awq + rtn", 32, kl=0.0001014, bits_per_weight=5.04),
        at("awq + rtn", "channel", refused="why not"),
    ]
    from accuracy_tables import pivot

    assert pivot(samples).splitlines() == [
        "demo:",
        "",
        "| bits | method | block 16 | block 32 | block 64 | block 128 | block 256 | block channel |",
        "|---|---|---|---|---|---|---|---|",
        "| 4 | rtn |  | 0.000203 (5.03) |  |  |  | **1.20** (4.20) |",
        "| 4 | awq + rtn |  | **0.000101** (5.04) |  |  |  | refused |",
        "",
        "Refused:",
        "",
        "- demo, awq + rtn, 4 bits, block channel: why not",
    ]


@pytest.mark.parametrize(
    ("kl", "bits", "answers"),
    [
        (0.010, 4.25, ("yes", "yes", "yes: 4.25 against 5.00 and 4.96")),
        (0.012, 4.97, ("no", "yes", "no: 4.97 against 5.00 and 4.96")),
        (0.016, 5.10, ("no", "no", "no: 5.10 against 5.00 and 4.96")),
    ],
)
@pytest.mark.usefixtures("accuracy")
def test_the_goal_is_answered_from_the_figures(kl: float, bits: float, answers: tuple[str, ...]) -> None:
    fast = {"bits_per_weight": bits, "kl": kl}
    nearest = {"bits_per_weight": 5.0, "kl": 0.020}
    k_quant = {"bits_per_weight": 4.96, "kl": 0.015}
    from accuracy_tables import answer

    found = answer(fast, nearest, k_quant, lambda found: found["kl"])
    assert found == (f"{kl:.4f}", "0.0200", "0.0150", *answers)


def test_a_reference_is_asked_once_for_each_window(import_script: Callable[[str], ModuleType]) -> None:
    import numpy as np

    class Counted:
        calls = 0

        def logits(self, tokens: np.ndarray) -> np.ndarray:
            self.calls += 1
            return np.outer(tokens, np.ones(3)).astype(np.float32)

    source = Counted()
    reference = import_script("subjects").Remembered(source)
    for tokens in (np.arange(4), np.arange(5), np.arange(4)):
        assert np.array_equal(reference.logits(tokens), np.outer(tokens, np.ones(3)))
    assert source.calls == 2
