"""Blocks follow widths: where a recipe allows several, each tensor gets the one that takes the fewest bytes."""

from pathlib import Path

import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st

from edgepress.exporter import decide, export
from edgepress.exporter.arrays.scheme import BLOCK_SIZES
from edgepress.exporter.bundle.files import DATA_FILE, MODEL_FILE
from edgepress.exporter.plan.schemes import fit_scheme
from edgepress.exporter.recipe.reading import preset_names, read_recipe
from edgepress.exporter.recipe.recipe import Storage

SIZES = st.lists(st.sampled_from(BLOCK_SIZES), min_size=1, unique=True).map(lambda sizes: tuple(sorted(sizes)[::-1]))


def row_bytes(columns: int, block: int, bits: int, *, symmetric: bool) -> int:
    """A row as MatMulNBits' documentation lays it out: whole blocks of codes, a float32 scale each, packed zeros."""
    blocks = (columns + block - 1) // block
    return blocks * block * bits // 8 + 4 * blocks + (0 if symmetric else (blocks * bits + 7) // 8)


@given(
    sizes=SIZES, columns=st.integers(257, 5000), bits=st.sampled_from((4, 8)), symmetric=st.booleans()
)  # rows that no block is too long for
def test_of_several_blocks_the_smallest_is_taken_and_the_largest_of_these(
    sizes: tuple[int, ...], columns: int, bits: int, symmetric: bool
) -> None:
    scheme = fit_scheme(Storage("rtn", bits, sizes, symmetric), columns)
    assert scheme is not None
    cost = {size: row_bytes(columns, size, bits, symmetric=symmetric) for size in sizes}
    assert scheme.block_size == max(size for size in sizes if cost[size] == min(cost.values()))


@pytest.mark.parametrize(("columns", "block"), [(192, 64), (172, 64), (96, 32), (352, 128), (128, 128), (896, 128)])
def test_the_blocks_of_presets_at_widths_that_models_have(columns: int, block: int) -> None:
    """192 columns: 108 bytes a row in blocks of 64, 120 in blocks of 32, and 136 in blocks of 128."""
    for preset in ("int4-fast", "int4-128"):
        scheme = fit_scheme(read_recipe(preset).weights, columns)
        assert scheme is not None
        assert scheme.block_size == block


@given(columns=st.integers(1, 5000), bits=st.sampled_from((4, 8)))
def test_one_scale_a_row_is_laid_out_in_the_blocks_that_pad_least(columns: int, bits: int) -> None:
    scheme = fit_scheme(Storage("rtn", bits, 0), columns)
    assert scheme is not None
    assert scheme.per_channel
    widest = next((size for size in BLOCK_SIZES if size >= columns), BLOCK_SIZES[-1])
    cost = {size: row_bytes(columns, size, bits, symmetric=True) for size in BLOCK_SIZES if size <= widest}
    assert cost[scheme.block_size] == min(cost.values())


@given(columns=st.integers(257, 5000), size=st.sampled_from(BLOCK_SIZES))
def test_a_block_that_a_recipe_names_is_kept(columns: int, size: int) -> None:
    scheme = fit_scheme(Storage("rtn", 4, size), columns)
    assert scheme is not None
    assert scheme.block_size == size


@given(columns=st.integers(1, 5000), sizes=SIZES)
def test_two_bits_have_blocks_that_kernels_take(columns: int, sizes: tuple[int, ...]) -> None:
    scheme = fit_scheme(Storage("rtn", 2, sizes), columns)
    assert scheme is not None
    assert 32 <= scheme.block_size <= 128


def test_a_width_of_192_takes_less_than_in_blocks_of_32_and_the_plan_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 192 columns are padded to 256 in blocks of 128, which the presets no longer ask for there."""
    wide = tiny_models.Variant("llama", {"hidden_size": 192, "intermediate_size": 576})
    monkeypatch.setitem(tiny_models.VARIANTS, "llama-192", wide)
    model = tiny_models.save("llama-192", tmp_path / "model")
    named = tmp_path / "named.toml"
    named.write_text("[weights]\nbits = 4\nblock_size = 128\n")
    fitted, as_named, smaller = (
        decide(model, target="arm64-cpu", recipe=recipe).plan for recipe in ("int4-128", named, "int4")
    )
    assert fitted.bits_per_weight < smaller.bits_per_weight < as_named.bits_per_weight
    (gate,) = (tensor for tensor in fitted.tensors if tensor.weight.name == "layers.0.mlp.gate")
    assert "block 128 → 64, as that takes the fewest bytes for 192 columns" in gate.reason
    assert all("→" not in tensor.reason for tensor in as_named.tensors)


def test_widths_that_are_multiples_of_128_are_stored_as_in_blocks_of_128(tmp_path: Path) -> None:
    """The bundle of the demo model is the same, byte for byte, as with the one block named."""
    named = tmp_path / "named.toml"
    named.write_text("[weights]\nmethod = 'rtn'\nbits = 4\nblock_size = 128\n")
    for out, recipe in (("fitted", "int4-128"), ("named", named)):
        export("demo", out=tmp_path / out, recipe=recipe)
    for file in (MODEL_FILE, DATA_FILE):
        assert (tmp_path / "fitted" / file).read_bytes() == (tmp_path / "named" / file).read_bytes()


@pytest.mark.parametrize("width", [40, 96, 172, 192, 352, 576])
def test_no_preset_takes_a_block_that_another_of_its_own_beats(width: int) -> None:
    """Whatever a preset allows, no tensor could be stored in fewer bytes by another block that it allows."""
    for preset in preset_names():
        recipe = read_recipe(preset)
        storages = [recipe.storage(name, kind)[0] for name, kind in (("x", "linear"), ("e", "embedding"))]
        for storage in storages:
            scheme = fit_scheme(storage, width)
            if scheme is None:
                continue
            allowed = BLOCK_SIZES if storage.block_size == 0 else storage.block_size
            sizes = allowed if isinstance(allowed, tuple) else (allowed,)
            taken = row_bytes(width, scheme.block_size, storage.bits, symmetric=storage.symmetric)
            assert taken <= min(row_bytes(width, size, storage.bits, symmetric=storage.symmetric) for size in sizes)
