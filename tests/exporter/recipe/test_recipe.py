"""Recipes say exactly what they mean, and a typo is never a default."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.exporter.arrays.scheme import BITS, BLOCK_SIZES
from edgepress.exporter.recipe.reading import preset_names, read_recipe
from edgepress.exporter.recipe.recipe import Storage, candidate_storage, recipe_from_json

ROOT = Path(__file__).parents[3]


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_presets_are_those_that_their_page_names() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    table = page[page.index("## Presets") : page.index("## Text")]
    assert all(f"`{name}`" in table for name in preset_names())


@pytest.mark.parametrize(
    ("name", "storage"),
    [
        ("fp32", Storage("rtn", 32, 32)),
        ("int8", Storage("rtn", 8, 32)),
        ("int4", Storage("rtn", 4, 32)),
    ],
)
def test_a_preset_stores_layers_embedding_and_head_alike(name: str, storage: Storage) -> None:
    recipe = read_recipe(name)
    assert (recipe.weights, recipe.embedding, recipe.head) == (storage, storage, storage)
    assert recipe.accuracy_level == 4


def test_the_fast_preset_is_calibrated_and_no_larger_than_block_128() -> None:
    recipe = read_recipe("int4-fast")
    assert recipe.weights == Storage("gptq", 4, (128, 64, 32))
    assert recipe.embedding == Storage("rtn", 4, (128, 64, 32))
    assert recipe.after == ("distill",)


@given(bits=st.sampled_from(BITS), block=st.sampled_from(BLOCK_SIZES), head_bits=st.sampled_from(BITS))
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, bits: int, block: int, head_bits: int
) -> None:
    text = f"context_length = 64\n[weights]\nbits = {bits}\nblock_size = {block}\n[head]\nbits = {head_bits}\n"
    recipe = read_recipe(write(tmp_path_factory.mktemp("recipe"), text))
    assert recipe.weights == recipe.embedding == Storage("rtn", bits, block)
    assert recipe.head == Storage("rtn", head_bits, block)
    assert recipe.context_length == 64


def test_a_recipe_comes_back_from_json(tmp_path: Path) -> None:
    text = (
        "before = ['hadamard']\n[weights]\nmethod = 'gptq'\nbits = 8\nblock_size = 'channel'\n"
        "[[override]]\nmatch = '*.down'\nbits = 4\nsymmetric = false\n[options.hadamard]\nseed = 3\n"
        "[budget]\nkl = 0.1\n[activations]\ntype = 'uint8'\n[cache]\nwindows = false\n[promise]\ndemo = 0.1\n"
    )
    for recipe in (read_recipe(write(tmp_path, text)), *map(read_recipe, preset_names())):
        assert recipe_from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_a_recipe_that_prunes_makes_no_promise(tmp_path: Path) -> None:
    """It was measured without: a preset's file with `prune` added would promise what it does not keep."""
    text = "[weights]\nbits = 4\n[promise]\ndemo = 0.1\n"
    assert read_recipe(write(tmp_path, text)).promise == {"demo": 0.1}
    assert read_recipe(write(tmp_path, f"prune = ['depth']\n{text}")).promise == {}


def test_several_block_sizes_are_kept_from_the_largest(tmp_path: Path) -> None:
    """Overrides, tables that follow another and a manifest's copy keep them too."""
    text = "[weights]\nbits = 4\nblock_size = [32, 128, 32]\n[[override]]\nmatch = '*.down'\nbits = 8\n"
    recipe = read_recipe(write(tmp_path, text))
    assert recipe.weights.block_size == recipe.head.block_size == (128, 32)
    assert recipe.overrides[0].storage == Storage("rtn", 8, (128, 32))
    assert recipe_from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_the_last_matching_override_wins(tmp_path: Path) -> None:
    text = (
        "[weights]\nbits = 4\n[[override]]\nmatch = 'layers.*'\nbits = 8\n[[override]]\nmatch = '*.down'\nbits = 32\n"
    )
    recipe = read_recipe(write(tmp_path, text))
    assert recipe.storage("layers.3.mlp.up", "linear")[0].bits == 8
    assert recipe.storage("layers.3.mlp.down", "linear") == (Storage("rtn", 32, 32), "override '*.down'")
    assert recipe.storage("embedding", "embedding")[0].bits == 4


def test_a_budget_needs_no_weights_table_and_keeps_its_limit_as_written(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, "[budget]\nsize_mb = 1.2\ncandidates = ['4:64', '8:channel', '32']\n"))
    assert recipe.budget is not None
    assert recipe.budget.limit == "size_mb = 1.2"
    storages = [candidate_storage(text, Storage("gptq", 4, 32, False)) for text in recipe.budget.candidates]
    assert storages == [Storage("gptq", 4, 64, False), Storage("gptq", 8, 0, False), Storage("gptq", 32, 32, False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[weights]\nbit = 4", "unknown key 'bit'; did you mean 'bits'"),
        ("[weights]\nbits = 4\n[embeding]\nbits = 8", "did you mean 'embedding'"),
        ("[weights]\nbits = 4\nblocksize = 32", "did you mean 'block_size'"),
        ("[weights]\nbits = 5", r"bits must be one of 2, 4, 8, 16, 32, not 5"),
        ("[weights]\nbits = '4'", "not '4'"),
        ("[weights]\nbits = true", "not True"),
        ("[weights]\nbits = 4\nblock_size = 100", "block_size must be one of"),
        ("[weights]\nbits = 4\nblock_size = []", "block_size is an empty list"),
        ("[weights]\nbits = 4\nblock_size = [128, 100]", "each block_size must be one of"),
        ("[weights]\nbits = 4\nblock_size = [128, 'channel']", "each block_size must be one of"),
        ("[weights]\nbits = 4\nblock_size = [[128]]", "each block_size must be one of"),
        ("[weights]\nbits = 4\nblock_size = [true]", "each block_size must be one of"),
        ("[weights]\nbits = 4\nblock_size = false", "block_size must be one of"),
        ("[weights]\nbits = 4\nblock_size = 0.0", "block_size must be one of"),
        ("[head]\nbits = 4", r"needs a \[weights\] table"),
        ("accuracy_level = 3\n[weights]\nbits = 4", "accuracy_level must be one of 0, 1, 4"),
        ("context_length = 0\n[weights]\nbits = 4", "context_length"),
        ("[weights]\nbits = 4\n[[override]]\nbits = 8", "needs `match`"),
        ("weights = 4", "must be a table"),
        ("[weights", "not a TOML recipe"),
        (
            "[budget]\nsize_mb = 1.0\nkl = 0.1",
            "exactly one of like, .*, kl, error, metric_loss, changed, not 2",
        ),
        ("[budget]\ntokens = 100", "exactly one of .*, not 0"),
        ("[budget]\nsize = 1.0", "did you mean 'size_mb'"),
        ("[budget]\nsize_mb = -1", "size_mb must be a number above 0, not -1"),
        ("[budget]\nkl = true", "kl must be a number above 0, not True"),
        ("[budget]\nlike = 'int5'", "like must be one of .*int4.*, not 'int5'"),
        ("[budget]\nkl = 0.1\ncandidates = []", "candidates is empty"),
        ("[budget]\nkl = 0.1\ncandidates = ['4:100']", "candidate '4:100' must be"),
        ("[budget]\nkl = 0.1\ncandidates = ['4']", "candidate '4' must be"),
        ("[budget]\nkl = 0.1\ngroup = 'model'", "group must be"),
        ("[budget]\nkl = 0.1\nmeasure = 'some'", "measure must be"),
        ("cache = true\n[weights]\nbits = 4", r"\[cache\] must be a table, not True"),
        ("[weights]\nbits = 4\n[cache]\nwindow = true", "did you mean 'windows'"),
        ("[weights]\nbits = 4\n[cache]\nwindows = 512", "windows must be true or false, not 512"),
        (
            "[budget]\nmetric_loss = 0.1",
            'metric_loss needs a metric; add one of those of `eval`, such as metric = "top1"',
        ),
        ("[budget]\nerror = 0.1\nmetric = 1", 'metric must be a name, such as "top1", not 1'),
        ("[budget]\nerror = 0.1\nsamples = 1", "samples must be a whole number of at least 2"),
        ("[budget]\nkl = 0.1\ntokens = 1", "tokens must be a whole number of at least 2"),
    ],
)
def test_a_wrong_recipe_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_recipe(write(tmp_path, text))


def test_an_unknown_preset_names_the_nearest_and_all() -> None:
    with pytest.raises(InputError, match=r"did you mean int4-fast\? Presets: .*fp32"):
        read_recipe("int4-fsat")


def test_a_promise_is_what_the_benchmark_measured() -> None:
    lines = (ROOT / "benchmarks" / "results" / "accuracy.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    samples = [json.loads(line) for line in lines]
    measured = {(one["name"], one["model"]): one["kl"] for one in samples if "kl" in one and one["tool"] == "edgepress"}
    promising = [name for name in preset_names() if read_recipe(name).promise]
    assert {"int4", "int4-fast", "int4-best", "int4-small"} <= set(promising)
    for name in promising:
        promise = read_recipe(name).promise
        assert promise.keys() == {model for preset, model in measured if preset == name}
        for model, kl in promise.items():
            assert kl == pytest.approx(measured[name, model], rel=0.01, abs=0.0005)
