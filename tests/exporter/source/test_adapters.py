"""LoRA adapters merged while rows are read, held against peft's own merge and against the equations in float64."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from adapters import TOKENS, factors, lora, peft_adapter, write_adapter
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.source.adapters import CONFIG, WEIGHTS, read_adapter
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.runtime import load

Q_PROJ = "model.layers.0.self_attn.q_proj"
WEIGHT = f"{Q_PROJ}.weight"
SQUARE = lora(*factors(64, 64), Q_PROJ)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("adapters") / "base")


@given(
    rows=st.tuples(st.integers(0, 63), st.integers(1, 64)),
    rank=st.integers(1, 9),
    flags=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
def test_rows_are_the_equation(
    base: Path,
    tmp_path_factory: pytest.TempPathFactory,
    rows: tuple[int, int],
    rank: int,
    flags: tuple[bool, bool],
    seed: int,
) -> None:
    (start, count), (stabilised, dora) = rows, flags
    a, b = factors(64, 64, rank, seed)
    magnitude = np.abs(np.random.default_rng(seed).normal(1, 0.2, 64)).astype(np.float32)
    tensors = lora(a, b, Q_PROJ) | ({f"{Q_PROJ}.lora_magnitude_vector": magnitude} if dora else {})
    folder = write_adapter(tmp_path_factory.mktemp("one") / "a", tensors, r=rank, use_rslora=stabilised, use_dora=dora)
    plain = Checkpoint.open(base)
    whole = plain.rows(WEIGHT, 0, 64).astype(np.float64)
    whole += 8 / (rank**0.5 if stabilised else rank) * (b.astype(np.float64) @ a)
    if dora:
        whole *= magnitude[:, None] / np.linalg.norm(whole, axis=1, keepdims=True)
    stop = min(start + count, 64)
    found = plain.with_adapters([folder]).rows(WEIGHT, start, stop)
    np.testing.assert_allclose(found, whole[start:stop], rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llama", {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}),
        ("llama", {"r": 8, "target_modules": "all-linear", "use_rslora": True, "alpha_pattern": {"up_proj": 3}}),
        ("llama", {"r": 3, "target_modules": ["o_proj", "gate_proj"], "use_dora": True, "rank_pattern": {"o_proj": 5}}),
        ("llama", {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        ("llama", {"r": 4, "target_modules": ["embed_tokens", "lm_head"]}),
        ("phi3", {"r": 4, "target_modules": ["qkv_proj", "gate_up_proj"]}),
        ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    ],
    ids=["some", "all-rslora", "dora", "saved-head", "embedding", "fused", "transposed"],
)
def test_the_merge_is_pefts(name: str, config: dict[str, object], tmp_path: Path) -> None:
    base, folder, out = save(name, tmp_path / "base"), tmp_path / "adapter", tmp_path / "bundle"
    expected = peft_adapter(base, folder, **config)
    manifest = export(base, adapters=[folder], recipe="fp32", out=out, threads=1, check=True, target="x86-cpu")
    found = load(out, prepared=False).session.append(TOKENS, 0)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(Reference(base).logits(TOKENS) - expected).max() > 1e-3 * np.abs(expected).max()  # it does something
    assert {f"adapter 1: adapter/{CONFIG}", f"adapter 1: adapter/{WEIGHTS}"} <= manifest.source.keys()
    assert any(note.startswith("adapter adapter (LoRA of rank") for note in manifest.notes)


def test_adapters_are_merged_in_turn(base: Path, tmp_path: Path) -> None:
    first, second = (factors(64, 64, seed=seed) for seed in (1, 2))
    folders = [write_adapter(tmp_path / name, lora(*pair, Q_PROJ)) for name, pair in (("a", first), ("b", second))]
    plain = Checkpoint.open(base)
    both = plain.with_adapters(folders)
    expected = plain.rows(WEIGHT, 0, 64) + 2 * (first[1] @ first[0]) + 2 * (second[1] @ second[0])
    np.testing.assert_allclose(both.rows(WEIGHT, 0, 64), expected, rtol=1e-5, atol=1e-5)
    assert len(both.source_hashes()) == len(plain.source_hashes()) + 4


def test_any_recipe_works_on_the_merged_weights(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", SQUARE)
    with_it, without = (decide(base, adapters=adapters, target="x86-cpu", recipe="int4") for adapters in ([folder], []))
    assert with_it.plan.data_bytes == without.plan.data_bytes
    export(base, adapters=[folder], recipe="int4", out=tmp_path / "bundle", threads=1, check=True)


def pickled(path: Path) -> None:
    (write_adapter(path, SQUARE) / WEIGHTS).unlink()
    (path / "adapter_model.bin").write_bytes(b"x")


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda _: None, "is no directory"),
    "empty": (lambda path: path.mkdir(), "has no adapter_config.json"),
    "pickled": (pickled, "adapter_model.bin could run code"),
    "other": (lambda path: write_adapter(path, SQUARE, peft_type="IA3"), "peft_type = 'IA3'"),
    "bias": (lambda path: write_adapter(path, SQUARE, bias="all"), "bias = 'all'"),
    "pissa": (lambda path: write_adapter(path, SQUARE, init_lora_weights="pissa_niter_4"), "convert it to plain LoRA"),
    "pattern": (lambda path: write_adapter(path, SQUARE, alpha_pattern={"(": 2}), "is no regular expression"),
    "half": (lambda path: write_adapter(path, dict([next(iter(SQUARE.items()))])), "needs A and B"),
    "nothing": (lambda path: write_adapter(path, {}), "holds no tensor"),
    "wide": (lambda path: write_adapter(path, lora(*factors(64, 96), Q_PROJ)), "made for another model"),
    "elsewhere": (
        lambda path: write_adapter(path, lora(*factors(64, 64), Q_PROJ.replace("0", "9"))),
        "which the checkpoint has not",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_what_is_no_adapter_of_the_model_is_refused(
    make: Callable[[Path], object], message: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "adapter"
    make(folder)
    with pytest.raises(InputError, match=message):
        Checkpoint.open(base).with_adapters([folder])
    assert main(["export", str(base), "--adapter", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_tied_head_is_not_changed_alone(tmp_path: Path) -> None:
    base = save("qwen2", tmp_path / "base")
    folder = write_adapter(tmp_path / "a", lora(*factors(320, 64), "model.embed_tokens"))
    with pytest.raises(InputError, match="head is tied to its embedding"):
        Checkpoint.open(base).with_adapters([folder])


def test_a_link_out_of_the_adapter_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", SQUARE)
    (folder / WEIGHTS).rename(tmp_path / "elsewhere.safetensors")
    (folder / WEIGHTS).symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(InputError):
        read_adapter(folder)
