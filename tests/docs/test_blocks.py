"""Every command and code block of the README and of docs/ is run, or a comment before it says why it is only parsed.

Blocks of a page run one after the other in a folder of their own that has a bundle of the demo model, some text and a
small network. What is only parsed is still held against the command line's own parser, the Makefile, the extras of the
package and the scripts that it names.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import encoder_decoders
import numpy as np
import onnx
import pytest
from pages import LANGUAGES, PAGES, ROOT, Block, blocks, commands_in_sentences, name

from edgepress import cli
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.decide.checks import check_recipe
from edgepress.exporter.doors.processing.entries import task_of
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.runtime.gate.budget import read_budget
from edgepress.runtime.gate.gauges import known_gauges
from edgepress.tasks.task import Edge

BLOCKS = blocks()
OF_PAGES = {page: [block for block in BLOCKS if block.page == page] for page in dict.fromkeys(b.page for b in BLOCKS)}
RUN = {"sh", "console", "python"}
LINES = "ROMEO:\nBut soft, what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n"
MADE_BY_PYTHON = {"docs/tasks.md"}  # pages whose first block of Python makes the files that their commands read
FILE_NAME = re.compile(r"# (\S+\.(?:toml|py))\n")
NUMBER = r"[+-]?\d[\d,.]*(?:e[+-]?\d+)?"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the demo model; pages get links to its files, as nothing writes into one."""
    out = tmp_path_factory.mktemp("demo") / "bundle"
    export("demo", out=out, recipe="int4")
    return out


@pytest.fixture(scope="module")
def folders(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A folder for each page, with all that its blocks may read."""
    found = {}
    for page in {block.page for block in BLOCKS}:
        folder = tmp_path_factory.mktemp(Path(page).stem)
        if not any("--out build/demo\n" in block.text for block in BLOCKS if block.page == page):  # it makes its own
            shutil.copytree(demo, folder / "build" / "demo", copy_function=os.link)
        text = "\n".join(f"{LINES}{i}" for i in range(200))
        (folder / "corpus.txt").write_text(text)
        (folder / "heldout.txt").write_text(LINES * 4)
        (folder / "stories.jsonl").write_text(f'{{"text": "{LINES.splitlines()[1]}"}}\n' * 200)
        onnx.save(network(), folder / "model.onnx")
        np.savez(folder / "inputs.npz", input=np.ones((1, 3, 8, 8), np.float32))
        for block in BLOCKS:
            if block.page == page and (named := FILE_NAME.match(block.text)):
                (folder / named[1]).write_text(block.text)
        if page in MADE_BY_PYTHON:
            first = next(block for block in BLOCKS if block.page == page and block.language == "python")
            with contextlib.chdir(folder):
                exec(compile(first.text, str(first), "exec"), {"__name__": "__main__"})
        if page == "docs/speech.md":
            encoder_decoders.save("marian", folder / "opus-mt-en-de")
        found[page] = folder
    yield found
    for folder in found.values():
        shutil.rmtree(folder)


def network() -> onnx.ModelProto:
    """A convolution, a batch norm and a Relu on images of 3 × 8 × 8."""
    generator = np.random.default_rng(0)
    shapes = {"kernel": (4, 3, 3, 3), "gain": (4,), "bias": (4,), "mean": (4,), "variance": (4,)}
    weights = [
        onnx.numpy_helper.from_array(generator.uniform(0.5, 1.5, shape).astype(np.float32), key)
        for key, shape in shapes.items()
    ]
    nodes = [
        onnx.helper.make_node("Conv", ["input", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("BatchNormalization", ["c", "gain", "bias", "mean", "variance"], ["n"]),
        onnx.helper.make_node("Relu", ["n"], ["output"]),
    ]
    values = [
        onnx.helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, shape)
        for key, shape in (("input", (1, 3, 8, 8)), ("output", (1, 4, 8, 8)))
    ]
    graph = onnx.helper.make_graph(nodes, "network", values[:1], values[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def test_readers_do_not_see_what_the_tests_do_with_a_block() -> None:
    assert not [block for block in BLOCKS if "only parsed" in block.text]
    marks = [re.findall("^<!-- only parsed", page.read_text(encoding="utf-8"), re.MULTILINE) for page in PAGES]
    assert sum(map(len, marks)) == sum(bool(block.only_parsed) for block in BLOCKS) > 0  # each stands before a block


def commands(text: str) -> list[list[str]]:
    """The words of each command, without comments."""
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def run(words: list[str]) -> None:
    assert words[0] == "edgepress", f"{words}: only edgepress is run; say why this is only parsed"
    assert cli.main(words[1:]) == 0


def test_every_block_says_what_it_is() -> None:
    assert len(BLOCKS) > 30
    assert {block.language for block in BLOCKS} <= LANGUAGES
    for block in BLOCKS:
        if block.language == "text":
            assert not re.search(r"^\s*(\$|edgepress|pip|make|python) ", block.text, re.MULTILINE), block


@pytest.mark.parametrize("page", [page for page, found in OF_PAGES.items() if {b.language for b in found} & RUN])
def test_the_blocks_of_a_page(
    page: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One test, so that a block finds what those before it wrote, whichever process runs which tests."""
    monkeypatch.chdir(folders[page])
    for block in OF_PAGES[page]:
        if block.language in RUN:
            try:
                {"sh": run_commands, "console": run_console, "python": run_python}[block.language](block, capsys)
            except BaseException as error:
                error.add_note(f"in {block}")
                raise


def run_commands(block: Block, _: pytest.CaptureFixture[str]) -> None:
    for words in commands(block.text):
        check_command(words) if block.only_parsed else run(words)


def run_console(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed is what the page shows: numbers may be others, ``…`` stands for anything."""
    assert block.text.startswith("$ ")
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        capsys.readouterr()
        run(shlex.split(command))
        said = capsys.readouterr()
        assert re.fullmatch(pattern(shown), f"{said.out.rstrip()}\n{said.err}".rstrip()), f"{said.out}\n{said.err}"


def run_python(block: Block, _: pytest.CaptureFixture[str]) -> None:
    code = compile(block.text, str(block), "exec")
    if not block.only_parsed and not block.title:  # a file's block is put into its place by test_examples.py
        exec(code, {"__name__": "__main__"})


def pattern(shown: str) -> str:
    """A regular expression for output such as ``shown``."""
    parts = re.split(rf"(\b[0-9a-f]{{64}}\b|{NUMBER}|…)", shown.rstrip())
    named = {0: re.escape, 1: lambda part: r"[\s\S]*?" if part == "…" else rf"(?:{NUMBER}|[0-9a-f]{{64}})"}
    return "".join(named[i % 2](part) for i, part in enumerate(parts))


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("2 of 3 nodes in 0.2 s\nall", True),
        ("12 of 3 nodes in 1,000.5 s\nall", True),
        ("2 of 3 nodes in 0.2 s", False),
        ("2 of 3 node in 0.2 s\nall", False),
    ],
)
def test_a_pattern_lets_numbers_be_others_and_nothing_else(said: str, answer: bool) -> None:
    assert bool(re.fullmatch(pattern("1 of 2 nodes in 5.0 s\na…\n"), said)) is answer


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=str)
def test_a_block_of_toml_is_a_recipe_or_a_budget(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(block.text, encoding="utf-8")
    if FILE_NAME.match(block.text) and "weights" not in tomllib.loads(block.text):
        assert read_budget(path, known_gauges())
        return
    (tmp_path / "stories.jsonl").write_text('{"text": "one"}\n')
    recipe = read_recipe(path)
    asked = recipe.budget
    of_outputs = asked is not None and (asked.most_lost is not None or asked.metric is not None)
    check_recipe(recipe, graphs=of_outputs or bool({"channels", "filters"} & set(recipe.prune)))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "json"], ids=str)
def test_a_block_of_json_is_the_task_of_a_graph(block: Block, tmp_path: Path) -> None:
    """Of Silero VAD, whose inputs and outputs these are."""
    (tmp_path / "task.json").write_text(block.text, encoding="utf-8")
    inputs = (
        Edge("input", "float32", ("batch", "samples")),
        Edge("state", "float32", (2, "batch", 128)),
        Edge("sr", "int64", ()),
    )
    outputs = (Edge("output", "float32", ("batch", 1)), Edge("stateN", "float32", (2, "batch", 128)))
    found = task_of(str(tmp_path / "task.json"), inputs, outputs, tmp_path).task
    assert found.answers is not None
    assert found.answers.voice is not None
    with pytest.raises(InputError, match="state"):
        task_of(str(tmp_path / "task.json"), inputs[:1], outputs, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_sentences_have_verbs_and_options_that_there_are(page: Path) -> None:
    for command in commands_in_sentences(page.read_text(encoding="utf-8")):
        verb, *rest = shlex.split(command.replace("…", ""))[1:]
        if verb.isupper():  # any verb
            continue
        parser = parser_of(verb, rest)
        options = {word for word in rest if word.startswith("--") and word != "--"}
        assert options <= set(parser._option_string_actions), command


def parser_of(verb: str, rest: list[str]) -> argparse.ArgumentParser:
    """The parser of a verb, or of an action of it."""
    parser = choices(cli._parser())[verb]
    return choices(parser)[rest[0]] if choices(parser) and rest else parser


def choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def check_command(words: list[str]) -> None:
    """Hold a command that is not run against what it would meet."""
    program, *rest = words
    if program == "edgepress":
        cli._parser().parse_args(rest)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(rest) <= set(targets)
    elif program == "pip":
        check_install(rest)
    elif program == "python":
        check_script(*rest)
    else:
        assert program in {"cd", "git", ".venv/bin/pytest"}, f"{words}: how is it held?"


def check_install(rest: list[str]) -> None:
    """``pip install '.[export]'`` and the like: the package or this checkout, with extras that it has."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert rest[0] == "install"
    for word in rest[1:]:
        found = re.fullmatch(r"(?:\.|edgepress)(?:\[([\w,]+)\])?", word)
        assert found, word
        assert set((found[1] or "").split(",")) - {""} <= set(extras)


def check_script(path: str, *rest: str) -> None:
    """A script of the checkout, and options that it names."""
    text = (ROOT / path).read_text(encoding="utf-8")
    assert all(f'"{word}"' in text for word in rest if word.startswith("--")), (path, rest)


def test_what_is_only_parsed_is_held_too() -> None:
    for wrong in (
        "edgepress export demo --colour red --out x",
        "make nothing",
        "pip install edgepress[nothing]",
        "python benchmarks/report.py --nothing",
        "rm -rf /",
    ):
        with pytest.raises((AssertionError, SystemExit)):
            check_command(shlex.split(wrong))
