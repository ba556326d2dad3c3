"""What a plan accepts, an export does: both verbs refuse the same inputs, alike, and before a weight is read."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_models
from safetensors.numpy import load_file, save_file
from tiny_models import TEXT, save

from edgepress.cli import main
from edgepress.exporter.learn.budget import measure
from edgepress.exporter.methods.kinds import (
    LayerMethod,
    LinearMethod,
    Method,
    Pruning,
    Repair,
    Transform,
    load_method,
    method_names,
)
from edgepress.exporter.methods.options import Option
from edgepress.exporter.source.checkpoint import Checkpoint

PLAIN = "[weights]\nbits = 4\n[embedding]\nmethod = 'rtn'\n"
LEARNED = "[weights]\nmethod = 'gptq'\nbits = 4\n[embedding]\nmethod = 'rtn'\n"


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(name="refused")
def _refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Runs both verbs; returns the one message with which both refuse, no weight having been read."""

    def read(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(Checkpoint, "part_rows", read)

    def run(model: str | Path, *arguments: str, recipe: str = "") -> str:
        path = tmp_path / "mine.toml"
        if recipe:
            path.write_text(recipe, encoding="utf-8")
            arguments = (*arguments, "--recipe", str(path))
        out = tmp_path / "out"
        messages = []
        capsys.readouterr()
        for verb in (["plan"], ["export", "--out", str(out)]):
            code = main([*verb, str(model), *arguments])
            message = capsys.readouterr().err
            assert code == 2, (verb, recipe, message)
            assert message.startswith("edgepress: ")
            assert "Traceback" not in message
            messages.append(message)
        assert messages[0] == messages[1]
        assert [entry.name for entry in tmp_path.iterdir() if "out" in entry.name] == []
        return messages[0]

    return run


def placed(name: str) -> str:
    """A recipe that uses the method where it belongs."""
    method = load_method(name)
    if isinstance(method, Pruning):
        return f"prune = ['{name}']\n{PLAIN}"
    if isinstance(method, Transform):
        return f"before = ['{name}']\n{PLAIN}"
    if isinstance(method, Repair):
        return f"after = ['{name}']\n{PLAIN}"
    return f"[weights]\nmethod = '{name}'\nbits = 4\n"


def wrong_values(option: Option) -> Iterator[str]:
    """Values, as TOML, that no option of this type may have, and those just beyond what it says it may be."""
    if isinstance(option.default, bool):
        yield from ("1", "0", "'true'", "1.0")
    elif isinstance(option.default, str):
        yield from ("5", "true", "1.5")
        if option.choices:
            yield "'nonsense'"
    else:
        yield from ("-1", "true", "false", "'8'", "nan", "inf", "-inf", str(10**30), "-1e300")
        yield from ("1.5",) if isinstance(option.default, int) else ("1e300",)
        step = 1 if isinstance(option.default, int) else 1e-6
        yield from (str(option.least - step), str(option.most + step), str(option.above), str(option.below))
        if option.unset_at_zero:
            yield "0"


@pytest.mark.parametrize("name", method_names())
def test_options_out_of_range_are_refused_by_both_before_a_weight_is_read(
    name: str, model: Path, refused: Callable[..., str]
) -> None:
    declared = load_method(name).declared
    for key, option in declared.items():
        assert not option.problem(option.default) or option.unset_at_zero
        if isinstance(option.default, int | float) and not isinstance(option.default, bool):
            assert max(option.least, option.above) >= 0, f"{name}: {key} has no lower bound"
            assert min(option.most, option.below) < 1e30, f"{name}: {key} has no upper bound"
        for value in wrong_values(option):
            message = refused(model, recipe=f"{placed(name)}[options.{name}]\n{key} = {value}\n")
            assert f"[options.{name}] {key}" in message
    assert "has no option 'nothing'" in refused(model, recipe=f"{placed(name)}[options.{name}]\nnothing = 1\n")
    for key in declared:
        typo = f"{key}s"
        message = refused(model, recipe=f"{placed(name)}[options.{name}]\n{typo} = 1\n")
        assert f"no option {typo!r}; did you mean" in message


@pytest.mark.parametrize("name", method_names())
def test_methods_in_the_place_of_others_are_refused_by_both(
    name: str, model: Path, refused: Callable[..., str]
) -> None:
    method = load_method(name)
    rounds = isinstance(method, Method | LinearMethod | LayerMethod)
    places = {
        f"prune = ['{name}']\n{PLAIN}": isinstance(method, Pruning),
        f"before = ['{name}']\n{PLAIN}": isinstance(method, Transform),
        f"after = ['{name}']\n{PLAIN}": isinstance(method, Repair),
        f"[weights]\nmethod = '{name}'\nbits = 4\n": rounds,
        f"{PLAIN}[head]\nmethod = '{name}'\n": rounds,
        f"[weights]\nbits = 4\n[embedding]\nmethod = '{name}'\n": rounds,
        f"{PLAIN}[[override]]\nmatch = '*.down'\nmethod = '{name}'\n": rounds,
        f"[weights]\nmethod = 'autoround'\nbits = 4\n[options.autoround]\nstart = '{name}'\n": isinstance(
            method, Method | LinearMethod
        ),
        f"[weights]\nmethod = 'wanda'\nbits = 4\n[options.wanda]\nthen = '{name}'\n": isinstance(method, Method)
        or name == "gptq",
    }
    for recipe, fits in places.items():
        if not fits:
            assert name in refused(model, recipe=recipe)


WRONG = {
    "budget, integer activations": (
        "[weights]\nbits = 8\nblock_size = 'channel'\n[activations]\ntype = 'uint8'\n[budget]\nkl = 0.1\n",
        "cannot be chosen: [activations] type",
    ),
    "budget smaller than all": ("[budget]\nsize_mb = 0.001\n", "size_mb = 0.001 cannot be met"),
    "memory smaller than the cache": ("[budget]\nmemory_mb = 0.001\n", "memory_mb = 0.001 cannot be met"),
    "budget like a smaller preset": (
        "[budget]\nlike = 'int4'\ncandidates = ['8:32']\n",
        'like = "int4"',
    ),
    "budget with zeros": ("[weights]\nmethod = 'wanda'\n[budget]\nkl = 0.1\n", "[budget] measures"),
    "one sequence to learn from": (
        f"after = ['distill']\n{LEARNED}[calibration]\ntokens = 8\ntraining_tokens = 8\nlength = 16\n",
        "distill needs two calibration sequences",
    ),
    "one sequence for a layer": (
        "[weights]\nmethod = 'autoround'\nbits = 4\n[embedding]\nmethod = 'rtn'\n"
        "[calibration]\ntokens = 8\ntraining_tokens = 8\nlength = 16\n",
        "autoround needs two calibration sequences",
    ),
    "one sequence for a layer, more for the whole": (
        "after = ['distill']\n[weights]\nmethod = 'autoround'\nbits = 4\n[embedding]\nmethod = 'rtn'\n"
        "[calibration]\ntokens = 8\ntraining_tokens = 64\nlength = 16\n[options.autoround]\ntokens = 16\n",
        "raise [options.autoround] tokens or name more text",
    ),
    "what learns no layers in the place of a repair": (
        f"after = ['distill']\n{LEARNED}[options.distill]\ninstead = 'rtn'\n",
        "[options.distill] instead = 'rtn': it must be a method that learns layers",
    ),
    "what starts elsewhere in the place of a repair": (
        f"after = ['distill']\n{PLAIN}[options.distill]\ninstead = 'autoround'\n",
        "that starts with gptq, and the recipe rounds by rtn",
    ),
    "a head that nothing learns": (
        "[weights]\nmethod = 'autoround'\nbits = 4\n[options.autoround]\nstart = 'rtn'\n",
        "the head is in none",
    ),
    "zeros of floats": ("[weights]\nmethod = 'wanda'\nbits = 32\n", "which are floats"),
    "no such tensor": (f"{PLAIN}[[override]]\nmatch = 'nothing'\nbits = 8\n", "matches no tensor"),
    "options of a step that is not there": (f"{PLAIN}[options.depth]\nlayers = 2\n", "`prune` has no step"),
    "a step that leaves nothing": (f"prune = ['depth']\n{PLAIN}[options.depth]\nshare = 0.01\n", "leaves none"),
    "a context that is too long, after steps": (f"prune = ['depth']\ncontext_length = 9999\n{PLAIN}", "9999"),
    "text that is not there": (f"{LEARNED}[calibration]\ntext = 'nothing.txt'\n", "nothing.txt cannot be read"),
    "text that is not there, for steps": (
        f"prune = ['depth']\n{PLAIN}[calibration]\ntext = 'nothing.txt'\n",
        "nothing.txt cannot be read",
    ),
    "text that is not there, for a budget": (
        "[budget]\nsize_mb = 1\n[calibration]\ntext = 'nothing.txt'\n",
        "nothing.txt cannot be read",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_recipes_that_cannot_be_done_are_refused_by_both(name: str, model: Path, refused: Callable[..., str]) -> None:
    recipe, message = WRONG[name]
    assert message in refused(model, recipe=recipe)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "qnn-htp", "--recipe", "int4"], "Recipes that fit"),
        (["--target", "qnn-htp", "--context", "1"], "a context of 2 tokens or more"),
        (["--target", "nothing"], "unknown target"),
        (["--soc", "sm8650"], "no chips"),
        (["--target", "qnn-htp", "--soc", "sm1"], "knows no chip"),
        (["--context", "0"], "the context is 0; it must be at least 1"),
        (["--context", "129"], "more than the model's 128"),
        (["--recipe", "int5"], "no recipe 'int5'"),
    ],
)
def test_what_is_asked_for_wrongly_is_refused_by_both(
    arguments: list[str], message: str, model: Path, refused: Callable[..., str]
) -> None:
    assert message in refused(model, *arguments)


@pytest.mark.parametrize("prune", ["", "prune = ['depth']\n"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\xff\xfe\x00\x01" * 99, "UTF-16"), (None, "is a directory")],
)
def test_text_that_cannot_be_used_is_refused_by_both(
    content: bytes | None, message: str, prune: str, model: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    text = tmp_path / "text.txt"
    text.mkdir() if content is None else text.write_bytes(content)
    assert message in refused(model, "--calibration", str(text), recipe=f"{prune}{LEARNED}")


def changed_json(file: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps({**content, **values}))

    return change


def without_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")


def of_another_shape(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].copy()
    save_file(tensors, folder / "model.safetensors")


def cut_short(file: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) * 2 // 3])

    return cut


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "a token outside the vocabulary": (changed_json("config.json", eos_token_id=9999), "eos_token_id 9999"),
    "a token that is text": (changed_json("config.json", eos_token_id="</s>"), "eos_token_id"),
    "one in generation_config": (changed_json("generation_config.json", bos_token_id=9999), "bos_token_id 9999"),
    "no end": (changed_json("config.json", eos_token_id=None), "eos_token_id"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
    "half a tokenizer": (cut_short("tokenizer.json"), "tokenizer.json"),
    "half a checkpoint": (cut_short("model.safetensors"), "model.safetensors"),
    "a tensor is missing": (without_tensor, "up_proj"),
    "a tensor of another shape": (of_another_shape, "model.norm.weight"),
}


@pytest.mark.parametrize("prune", ["", "prune = ['depth']\n"])
@pytest.mark.parametrize("name", BROKEN)
def test_checkpoints_that_cannot_be_exported_are_refused_by_both(
    name: str, prune: str, model: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    breaks, message = BROKEN[name]
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    (broken / "generation_config.json").unlink(missing_ok=True)
    breaks(broken)
    assert message in refused(broken, recipe=f"{prune}{PLAIN}")


@pytest.mark.parametrize("name", ["gemma3_text", "olmo2"])
def test_norms_that_a_rotation_cannot_pass_are_refused_by_both(
    name: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    found = save(name, tmp_path / name)
    assert f"hadamard cannot rotate {name}" in refused(found, recipe=f"before = ['hadamard']\n{LEARNED}")


def test_heads_that_no_kernel_takes_are_refused_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.setitem(tiny_models.VARIANTS, "odd", tiny_models.Variant("llama", {"hidden_size": 48}))
    odd = save("odd", tmp_path / "odd")
    assert "head_dim is 12; GroupQueryAttention takes multiples of 8 only" in refused(odd, recipe=PLAIN)


def test_a_time_that_no_host_has_is_refused_by_both_before_a_price_is_taken(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its message says what this host needs, which is measured anew each time."""
    monkeypatch.setattr(measure, "measure_prices", None)
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[budget]\nms_per_token = 1e-9\ncandidates = ['4:32']\n")
    for verb in (["plan"], ["export", "--out", str(tmp_path / "out")]):
        assert main([*verb, str(model), "--recipe", str(recipe)]) == 2
        assert "ms_per_token = 1e-09 cannot be met with these candidates on this host" in capsys.readouterr().err


def test_what_both_accept_is_done(model: Path, tmp_path: Path) -> None:
    """The other half, on a recipe that uses a method of each kind and options at the edge of what they may be."""
    text, recipe = tmp_path / "text.txt", tmp_path / "mine.toml"
    text.write_text(TEXT * 40, encoding="utf-8")
    recipe.write_text(
        f"prune = ['depth']\nbefore = ['smoothquant']\nafter = ['bias_correction', 'distill']\n{LEARNED}"
        "[options.depth]\nlayers = 1\ntokens = 2\n[options.smoothquant]\nalpha = 1\n[options.gptq]\ndamping = 100\n"
        "[options.distill]\nsteps = 1\nbatch = 1\n[calibration]\ntokens = 64\ntraining_tokens = 64\nlength = 32\n"
    )
    shared = [str(model), "--recipe", str(recipe), "--calibration", str(text)]
    assert main(["plan", *shared]) == 0
    assert main(["export", *shared, "--out", str(tmp_path / "out"), "--threads", "1"]) == 0
