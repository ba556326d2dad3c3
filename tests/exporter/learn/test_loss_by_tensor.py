"""Loss by tensor, against whole-model runs with a group put back by hand, and on a bundle with one bad tensor."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TEXT, save
from whole_models import load, log_probabilities, mean_kl

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.learn import loss_by_tensor as module
from edgepress.exporter.learn.calibration.run import given_tokens
from edgepress.exporter.learn.loss_by_tensor import format_loss_by_tensor, measure_loss_by_tensor
from edgepress.exporter.streams.text import CalibrationTokens
from edgepress.exporter.streams.variants import BaseRun, Change, divergences

BAD = "[weights]\nbits = 8\n[[override]]\nmatch = 'layers.1.mlp.down'\nbits = 2\nblock_size = 32\n"
GPTQ = "[weights]\nmethod = 'gptq'\nbits = 4\n[embedding]\nmethod = 'rtn'\n[calibration]\ntokens = 256\nlength = 32\n"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("qwen2", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 3, encoding="utf-8")
    return path


def exported(model: Path, folder: Path, recipe: str, text: Path) -> Path:
    path = folder / "recipe.toml"
    path.write_text(recipe, encoding="utf-8")
    export(model, out=folder / "out", recipe=path, calibration=[text], threads=1)
    return folder / "out"


def test_the_tensor_made_bad_on_purpose_is_first(model: Path, text: Path, tmp_path: Path) -> None:
    out = exported(model, tmp_path, BAD, text)
    found = measure_loss_by_tensor(out, model, text=[text], tokens=128)
    assert found.tokens == 128
    assert json.loads(json.dumps(found.to_json()))["groups"][0]["name"] == "layers.1.mlp.down"
    worst, *others = found.groups
    assert worst.name == "layers.1.mlp.down"
    assert worst.schemes == ("rtn 2 bits, block 32",)
    assert worst.kl_saved > 0.9 * found.kl
    assert all(abs(entry.kl_saved) < 0.1 * found.kl for entry in others)
    assert worst.bytes == 64 * 96 // 4 + 2 * 64 * 3  # 64 × 96 codes of 2 bits, a float16 scale for each 32 of them
    assert worst.bytes_at_8_bits == 64 * 96 + 2 * 64 * 3
    assert len(found.groups) == 1 + 5 * 3  # the tied embedding; five projections in each of three layers
    lines = format_loss_by_tensor(found).splitlines()
    assert lines[2].startswith("layers.1.mlp.down")
    assert f"{found.kl:.6f} nats a token on 128 tokens" in lines[-1]


def test_a_group_saves_what_a_whole_model_run_finds(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = exported(model, tmp_path, "[weights]\nbits = 4\nblock_size = 32\n", text)
    read: list[CalibrationTokens] = []

    def spy(*arguments: Any) -> CalibrationTokens:
        given = given_tokens(*arguments)
        assert given is not None
        read.append(given)
        return given

    monkeypatch.setattr(module, "given_tokens", spy)
    found = measure_loss_by_tensor(out, model, text=[text], tokens=96)
    saved = {entry.name: entry.kl_saved for entry in found.groups}
    tokens = torch.from_numpy(read[0].tokens)
    stored = StoredWeights(out / DATA_FILE, decide(model, target="arm64-cpu", recipe=tmp_path / "recipe.toml").plan)
    full = load(model)
    original = {name: parameter.detach().clone() for name, parameter in full.named_parameters()}

    expected = log_probabilities(full, tokens)

    def loss(put_back: tuple[str, ...] = ()) -> float:
        with torch.no_grad():
            for name, parameter in full.named_parameters():
                parameter.copy_(original[name] if name in put_back else torch.from_numpy(stored(name)).double())
        return mean_kl(expected, log_probabilities(full, tokens))

    assert found.kl == pytest.approx(loss(), rel=1e-3)
    attention = "model.layers.0.self_attn."
    for group, parts in (
        ("embedding", ("model.embed_tokens.weight",)),
        ("layers.0.attention.qkv", tuple(f"{attention}{part}_proj.weight" for part in "qkv")),
        ("layers.2.mlp.down", ("model.layers.2.mlp.down_proj.weight",)),
    ):
        assert saved[group] == pytest.approx(loss() - loss(parts), rel=5e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("before", "after"),
    [([], ["bias_correction"]), (["hadamard"], []), (["awq"], []), (["hadamard", "smoothquant"], [])],
)
def test_all_groups_put_back_leave_no_loss_in_any_basis(
    before: list[str], after: list[str], model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything put back at once is the full-precision model: so each weight went back in the right basis."""
    together: dict[str, Callable[[], torch.Tensor]] = {}
    at_the_end: list[float] = []

    def spy(
        base: BaseRun, reference: BaseRun, start: int, changes: Sequence[Change], advance: Callable[[int], None]
    ) -> list[float]:
        for change in changes:
            together.update(change)
        if start == len(base.decoder.layers) - 1:  # the last groups: the head is tied
            at_the_end.extend(divergences(base, reference, -1, [together]))
        return divergences(base, reference, start, changes, advance)

    monkeypatch.setattr(module, "divergences", spy)
    out = exported(model, tmp_path, f"before = {before}\nafter = {after}\n{GPTQ}", text)
    found = measure_loss_by_tensor(out, model, text=[text], tokens=128)
    assert found.kl > 1e-3
    assert at_the_end == [pytest.approx(0, abs=1e-6 * found.kl + 1e-9)]
    by_layer = bool({"awq", "smoothquant"} & set(before))
    names = {entry.name for entry in found.groups}
    assert ("layers.1" in names) == by_layer
    assert ("layers.1.mlp.up" in names) != by_layer
    if by_layer:
        with pytest.raises(InputError, match=rf"{before[-1]} came from calibration.*--group layer"):
            measure_loss_by_tensor(out, model, text=[text], group="tensor")


def test_what_cannot_be_blamed_is_one_clear_error(model: Path, text: Path, tmp_path: Path) -> None:
    out = exported(model, tmp_path, "[weights]\nbits = 4\n", text)
    other = save("qwen2-version4", tmp_path / "other")
    with pytest.raises(InputError, match=r"was not made from .*other: config\.json differs"):
        measure_loss_by_tensor(out, other, text=[text])
    with pytest.raises(InputError, match="tokens is 1"):
        measure_loss_by_tensor(out, model, text=[text], tokens=1)
    with pytest.raises(InputError, match="threads is 0"):
        measure_loss_by_tensor(out, model, text=[text], threads=0)
    with pytest.raises(InputError, match=r"absent\.txt"):
        measure_loss_by_tensor(out, model, text=[tmp_path / "absent.txt"])
    data = bytearray((out / DATA_FILE).read_bytes())
    data[100] ^= 1
    (out / DATA_FILE).write_bytes(data)
    with pytest.raises(InputError, match=r"content changed.*export the bundle again"):
        measure_loss_by_tensor(out, model, text=[text])
