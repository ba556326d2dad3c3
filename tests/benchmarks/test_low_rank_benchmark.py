"""The benchmark's recipes are what their names say, and its comparison is with what takes no more bytes."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgepress.exporter import decide
from edgepress.exporter.recipe.recipe import read_recipe


@pytest.fixture(name="low_rank")
def _low_rank(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("low_rank")


def test_every_recipe_is_what_its_name_says(low_rank: ModuleType, tmp_path: Path) -> None:
    everything = list(low_rank.chosen())
    budget = low_rank.Stored(budget=1_000_000)
    assert budget.name == "2 and 4 bits by a budget of 1.000 MB"
    recipe = read_recipe(budget.write(tmp_path))
    assert recipe.budget is not None
    assert (recipe.budget.size_mb, recipe.overrides, recipe.prune) == (1.0, (), ())
    assert len({how.name for how in everything}) == len(everything)
    for how in everything:
        recipe = read_recipe(how.write(tmp_path))
        storage, _ = recipe.storage("layers.0.mlp.up", "linear")
        assert (storage.method, storage.bits, storage.block_size) == ("gptq", how.bits, how.block_size)
        assert recipe.storage("layers.0.mlp.up.u", "linear")[0] == storage
        assert recipe.prune == (("low_rank",) if how.share < 1 else ())
        assert recipe.options.get("low_rank", {}).get("share", 1) == how.share


def test_whole_ones_have_the_bytes_of_their_plan(low_rank: ModuleType, tmp_path: Path) -> None:
    """2 bits are smaller than 4, by what the codes of the MLPs take."""
    whole = [how for how in low_rank.chosen() if how.share == 1 and how.block_size == 32]
    plans = {how.bits: decide("demo", target="arm64-cpu", recipe=how.write(tmp_path)).plan for how in whole}
    sizes = {bits: sum(tensor.bytes_after for tensor in plan.tensors) for bits, plan in plans.items()}
    assert sizes[4] - sizes[2] == 3 * 3 * 256 * 512 // 4


def test_factors_are_held_against_what_takes_no_more_bytes(low_rank: ModuleType) -> None:
    def one(share: float, size: int, kl: float, model: str = "demo") -> dict[str, object]:
        return {"model": model, "name": str(kl), "share": share, "data_bytes": size, "kl": kl, "bits_per_byte": 2.0}

    samples = [one(1, 10, 0.1), one(1, 8, 0.2), one(1, 7, 0.3), one(1, 5, 0.01, "tiny1m"), one(0.5, 8, 0.15)]
    assert low_rank.best_whole(samples[-1], samples) is samples[1]
    assert low_rank.best_whole(one(0.5, 6, 0.5), samples) is None
    printed = list(low_rank.rows(samples))
    assert printed[-1][-3] == "0.2"
    assert printed[0][-3:] == ("", "", "")
