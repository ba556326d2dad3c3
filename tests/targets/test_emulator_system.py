"""Machines that count instructions: against loops of known length, and between boots."""

import base64
import io
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import arm64_loop
import numpy as np
import onnx
import pytest

from edgepress.calls.guest import describe
from edgepress.errors import CheckFailed, InputError
from edgepress.exporter import export
from edgepress.runtime.measures.counting import BundleCost, count_bundles
from edgepress.targets.emulator import Call, Installation, ModelCost, System, count_model, find_system
from edgepress.targets.emulator.init import MARK
from edgepress.targets.emulator.initramfs import Initramfs
from edgepress.targets.emulator.system import _memory_mb, boot, read_console

T = TypeVar("T")
ROUNDS = 10_000_000
CONTEXT = 48  # tokens of the text that a token is decoded after
TIMEOUT = 400  # seconds: a hang ends, a slow machine does not fail


class Machine:
    """Stands for ``boot``: it notes what is asked, then one machine does all of it, and then it answers."""

    def __init__(self, *place: Any) -> None:
        self._place, self._answers = place, []
        self._asked: list[tuple[Sequence[Call], Mapping[str, Path]]] = []

    def __call__(self, *asked: Any, timeout: float) -> list[dict[str, Any]]:
        assert (*asked[:3], timeout) == (*self._place, TIMEOUT)
        if self._answers:
            return self._answers.pop(0)
        self._asked.append(asked[3:])
        raise LaterError

    def answer(self, questions: Sequence[Callable[[], T]]) -> list[T]:
        """What ``questions`` return, each of which boots a machine once."""
        with pytest.MonkeyPatch.context() as patch:
            for module in ("edgepress.targets.emulator.model", "edgepress.runtime.measures.counting.bundle"):
                patch.setattr(f"{module}.boot", self)
            for question in questions:
                with pytest.raises(LaterError):
                    question()
            calls = [call for asked, _ in self._asked for call in asked]
            files = {name: path for _, asked in self._asked for name, path in asked.items()}
            told = iter(boot(*self._place, calls, files, timeout=TIMEOUT))
            self._answers = [[next(told) for _ in asked] for asked, _ in self._asked]
            return [question() for question in questions]


class LaterError(Exception):
    """No machine has been booted yet."""


@dataclass
class Counted:
    loops: list[dict[str, Any]]
    product: ModelCost
    bundle: BundleCost
    real: dict[str, Any]


@pytest.fixture(scope="module")
def counted(emulator: Installation, system: System, tmp_path_factory: pytest.TempPathFactory) -> Counted:
    """One machine counts everything."""
    folder = tmp_path_factory.mktemp("counted")
    export("demo", out=folder / "demo", recipe="int4")
    x, path = np.ones((512, 256), np.float32), product(folder)
    place = emulator, system, "cortex-a53"
    machine = Machine(*place)

    def bundle() -> list[BundleCost]:
        asked = {"prompt": "ROMEO:\n", "max_tokens": 4, "contexts": [CONTEXT], "by_operator": True}
        return count_bundles(emulator, system, [folder / "demo"], ["cortex-a53"], timeout=TIMEOUT, **asked)

    calls = [Call(arm64_loop.loop, {"rounds": rounds}) for rounds in (ROUNDS, 2 * ROUNDS)]
    calls.append(Call(arm64_loop.real_text, {"bundle": "/bundle/0", "context": CONTEXT}))
    loop_file = {"import/arm64_loop.py": Path(arm64_loop.__file__)}
    [model], [found], (*loops, real) = machine.answer(
        [
            lambda: count_model(emulator, system, path, {"x": x}, ["cortex-a53"], timeout=TIMEOUT),
            bundle,
            lambda: machine(*place, calls, loop_file, timeout=TIMEOUT),
        ]
    )
    return Counted(loops, model, found, real)


def product(folder: Path) -> Path:
    weights = np.random.default_rng(0).normal(0, 1, (256, 256)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 256])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 256])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, folder / "product.onnx", save_as_external_data=True, location="product.data", size_threshold=0)
    return folder / "product.onnx"


def test_it_counts_the_instructions_of_a_loop(counted: Counted) -> None:
    once, twice = (told["instructions"] for told in counted.loops)
    # Over what the loop takes comes the kernel's timer, 250 times in 10^9 instructions.
    assert once == pytest.approx(2 * ROUNDS, rel=0.01)
    assert once >= 2 * ROUNDS
    assert twice - once == pytest.approx(2 * ROUNDS, rel=0.01)


def test_a_made_up_text_costs_what_a_real_one_does(counted: Counted) -> None:
    [call] = counted.bundle.calls
    assert (call.tokens, call.context) == (1, CONTEXT)
    assert call.in_onnxruntime == pytest.approx(counted.real["instructions"], rel=2e-3)


def test_operators_are_all_of_a_call(counted: Counted) -> None:
    """But for what a session does once a run, some 30,000, and the timer, which the fewest of three leave out."""
    [call] = counted.bundle.calls
    print(counted.bundle.describe())
    assert call.operators is not None
    assert all(cost.instructions > 0 for cost in call.operators.values())
    assert 0 < call.parts["between operators"] < 120_000
    assert call.operators["GroupQueryAttention"].nodes == 3


def test_a_prompt_is_counted_with_its_tokens(counted: Counted) -> None:
    assert len(counted.bundle.decode) == 3
    for decode in counted.bundle.decode:
        assert decode == pytest.approx(counted.bundle.calls[0].instructions, rel=0.2)  # after other contexts


def test_a_model_takes_its_multiply_adds(counted: Counted) -> None:
    fused = 512 * 256 * 256 / 4  # instructions that multiply and add 4 float32 each, the widest of this processor
    assert fused < counted.product.instructions < 2 * fused


def told(answers: object) -> str:
    return f"booting\n{MARK}{base64.b64encode(json.dumps(answers).encode()).decode()}\n"


@pytest.mark.parametrize(
    ("console", "error", "message"),
    [
        (told({"done": [], "error": "no such model", "failed": False}), InputError, "^no such model$"),
        (told({"done": [], "error": "another sum", "failed": True}), CheckFailed, "^another sum$"),
        (f"{MARK}abc\n", CheckFailed, "a53 gave half an answer"),
        ("1\n2\nKernel panic\nat x\n", CheckFailed, "a53 ended without an answer: 2 / Kernel panic / at x$"),
        ("", CheckFailed, "ended without an answer: it said nothing"),
    ],
)
def test_what_went_wrong_there_is_told(console: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_console(console, "cortex-a53", "")


def test_a_model_that_is_not_there_is_named_before_a_boot(tmp_path: Path) -> None:
    absent = Installation(tmp_path, tmp_path, tmp_path, {})
    with pytest.raises(InputError, match=r"absent\.onnx is not there"):
        count_model(absent, System(tmp_path, {}), tmp_path / "absent.onnx", {}, ["cortex-a53"])


def test_a_machine_that_takes_too_long_is_ended(emulator: Installation, system: System) -> None:
    with pytest.raises(CheckFailed, match=r"cortex-a53 did not end within 0\.5 s"):
        boot(emulator, system, "cortex-a53", [Call(describe)], {}, timeout=0.5)


def test_a_machine_has_memory_for_what_it_is_sent(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    sizes = {"small": 1 << 20, "bundle/large": 300 << 20}
    for name, size in sizes.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    assert _memory_mb([tmp_path / "small"]) == _memory_mb([]) == 2048
    assert _memory_mb([tmp_path / "small", tmp_path / "bundle"]) == 2048 + 1024  # four times 301 MB, in steps of 256


def test_what_is_not_set_up_is_said_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run: edgepress emulator setup --system"):
        find_system(tmp_path)


def read_newc(data: bytes) -> dict[str, tuple[int, bytes, int]]:
    """Names, modes, contents and times, by the kernel's buffer-format.rst, apart from the writer."""
    found, position = {}, 0
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + start : position + start + 8], 16) for start in range(6, 110, 8)]
        _, mode, _, _, links, time, size, *_, name_size, check = fields
        assert (links, check) == (1, 0)
        name = data[position + 110 : position + 110 + name_size]
        start = -(-(position + 110 + name_size) // 4) * 4
        position = -(-(start + size) // 4) * 4
        if name == b"TRAILER!!!\0":
            assert position == len(data)
            return found
        assert name.endswith(b"\0")
        found[name[:-1].decode()] = (mode, data[start : start + size], time)


def test_the_archive_holds_the_files_and_their_folders_first(tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/x").write_bytes(b"odd")
    (tmp_path / "y").write_bytes(bytes(range(256)))
    (tmp_path / "y").chmod(0o755)
    os.utime(tmp_path / "y", (5, 1_700_000_000))
    (tmp_path / "link").symlink_to("deep/er/x")
    (tmp_path / "not").write_bytes(b"wanted")
    buffer = io.BytesIO()
    archive = Initramfs(buffer)
    archive.character_device("dev/console", 5, 1)
    archive.tree(tmp_path, "in", lambda name: name != "not")
    archive.finish()
    found = read_newc(buffer.getvalue())
    assert list(found) == ["dev", "dev/console", "in", "in/deep", "in/deep/er", "in/deep/er/x", "in/link", "in/y"]
    assert found["in/deep/er/x"][1] == b"odd"
    assert found["in/y"] == (stat.S_IFREG | 0o755, bytes(range(256)), 1_700_000_000)
    assert found["in/link"][:2] == (stat.S_IFLNK | 0o777, b"deep/er/x")
    assert stat.S_ISDIR(found["in/deep"][0])
    assert stat.S_ISCHR(found["dev/console"][0])
