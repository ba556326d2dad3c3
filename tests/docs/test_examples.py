"""What docs/contributing.md shows is put where it says, into a copy of the package, and used from there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_models
import torch
import transformers
from pages import ROOT, blocks

FILES = {block.title: block for block in blocks() if block.title}
FOLDERS = ("exporter", "runtime", "targets")  # which src/edgepress links to


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with every file of the pages in its place, where it is not there already, word for word."""
    root = tmp_path_factory.mktemp("checkout")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "tests").mkdir()
    shutil.copytree(ROOT / "src", root / "src", symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ("oracles_decoder.py", "mixer_oracles"):
        (shutil.copy if path.endswith(".py") else shutil.copytree)(ROOT / "tests" / path, root / "tests" / path)
    for title, block in FILES.items():
        place = root / title
        assert place.parent.is_dir(), f"{block}: no folder {place.parent.name}"
        if place.exists():
            assert place.read_text(encoding="utf-8") == block.text, f"{block}: there is another such file"
        place.write_text(block.text, encoding="utf-8")
    return root


def run(package: Path, *words: str) -> str:
    """Run Python with that package in the place of this one."""
    environment = {**os.environ, "PYTHONPATH": str(package / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=package, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def edgepress(package: Path, *words: str) -> str:
    return run(package, "-m", "edgepress", *words)


def test_the_pages_show_a_file_of_each_kind() -> None:
    assert {"exporter/model/architectures", "targets"} <= {str(Path(title).parent) for title in FILES}


def test_the_files_are_as_clean_as_ours(package: Path) -> None:
    for command in (["ruff", "check"], ["ruff", "format", "--check"]):
        if shutil.which("ruff", path=str(Path(sys.executable).parent)) is None:
            pytest.skip("ruff is not installed")
        ruff = [str(Path(sys.executable).with_name("ruff")), *command[1:], "--config", str(ROOT / "pyproject.toml")]
        done = subprocess.run([*ruff, *FILES], cwd=package, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


EXPORTS = """
import sys
from edgepress.cli import main

for checkpoint, out in zip(sys.argv[1::2], sys.argv[2::2], strict=True):  # in one process: it imports torch once
    assert main(["export", checkpoint, "--recipe", "fp32", "--check", "--out", out]) == 0
"""


def test_an_architecture_is_one_file(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' own Seed-OSS, tiny and random as the page says, is exported and compared with its logits."""
    title = "exporter/model/architectures/seed_oss.py"
    kind = Path(title).stem
    page = (ROOT / FILES[title].page).read_text(encoding="utf-8")
    lines = re.findall(rf'`("{kind}[^"]*": Variant\("{kind}".*?\)),`', page)
    assert len(lines) == 2
    outs: dict[Path, Path] = {}
    for name, variant in eval(f"{{{', '.join(lines)}}}", vars(tiny_models)).items():  # noqa: S307 - of our own page
        monkeypatch.setitem(tiny_models.VARIANTS, name, variant)
        outs[tiny_models.save(name, tmp_path / f"checkpoint-{name}")] = tmp_path / f"out-{name}"
    said = run(package, "-c", EXPORTS, *(str(path) for pair in outs.items() for path in pair))
    for out in outs.values():
        assert f"{out}: {kind}, recipe fp32" in said
    differences = [line.split()[-1] for line in said.splitlines() if "description difference" in line]
    assert len(differences) == len(outs)
    assert all(float(difference) < 1e-5 for difference in differences)


SCORE = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
import numpy as np
import torch
from oracles_decoder import forward
from edgepress.exporter.model import network
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.runtime.config import read_config
from edgepress.runtime.sessions.cpu import CpuSession

checkpoint, bundle = Checkpoint.open(Path(sys.argv[1])), Path(sys.argv[2])
decoder, tokens = read_decoder(checkpoint), np.random.default_rng(0).integers(3, 300, 24)
expected = forward(decoder, lambda key: checkpoint.rows(key, 0, checkpoint.tensors[key].shape[0]), tokens)
session = CpuSession(read_config(bundle), threads=1, context=32, prefill_chunk=16)
pieces = [session.append(piece, 0) .copy() for piece in np.split(tokens, [20, 21])]
by_torch = network.logits(decoder, lambda weight: torch.from_numpy(read_weight(checkpoint, weight)), tokens)
for found in (np.concatenate(pieces), by_torch):
    print(np.abs(found - expected).max() / np.abs(expected).max())
"""


def test_a_mixer_is_one_file(package: Path, tmp_path: Path) -> None:
    """A random checkpoint with gated units: graph and torch give the oracle's logits, and it is rounded too."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**tiny_models.SMALL))
    model.save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "config.json"
    path.write_text(path.read_text().replace('"model_type": "llama"', '"model_type": "llama_glu"'))
    tiny_models.save_tokenizer(tmp_path / "checkpoint")
    for recipe in ("fp32", "int4"):
        out = ["--recipe", recipe, "--out", str(tmp_path / recipe)]
        assert "llama_glu" in edgepress(package, "export", str(tmp_path / "checkpoint"), *out)
    told = run(package, "-c", SCORE, str(tmp_path / "checkpoint"), str(tmp_path / "fp32"))
    assert all(float(difference) < 1e-5 for difference in told.split())
    assert len(told.split()) == 2


def test_a_target_is_one_file(package: Path) -> None:
    (title,) = (title for title in FILES if title.startswith("targets/"))
    target = Path(title).stem.replace("_", "-")
    contract = str(ROOT / "tests" / "contracts" / "test_targets.py")
    options = ["-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "--rootdir", str(ROOT)]
    assert " passed" in run(package, "-m", "pytest", contract, "-k", target, *options)
