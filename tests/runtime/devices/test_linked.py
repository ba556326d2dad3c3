"""A device behind a link, where the link is a shell of this machine: what runs there, and what is left."""

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.device_functions import double

from edgepress.calls import Call
from edgepress.errors import InputError
from edgepress.runtime.machine.devices.common import root
from edgepress.runtime.machine.devices.common.errors import DeviceUnusable, LinkLost, RunnerUnusable
from edgepress.runtime.machine.devices.common.link import Link
from edgepress.runtime.machine.devices.common.linked import Linked
from edgepress.runtime.machine.devices.common.runner import make_runner
from edgepress.targets.emulator import Installation, packages
from edgepress.targets.emulator.roots import Root

_TOOLS = (
    *("sh", "cat", "mkdir", "rm", "mv", "ln", "tar", "gzip", "df", "wc", "find", "sha256sum", "date", "kill", "chmod"),
    *("readlink", "grep", "env", "uname"),
)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with the programs that every device has, and no Python."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in _TOOLS:
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


_NAMES = st.text(st.sampled_from("a'\" -*\\$;é"), min_size=1, max_size=6).filter(lambda name: name not in {".", ".."})


def _link(tools: Path, base: Path) -> Link:
    return Link(
        "here", lambda script: ["/usr/bin/env", "-i", f"PATH={tools}", "sh", "-c", script], lambda _: None, str(base)
    )


def _device(link: Link) -> Linked:
    return Linked(link, before_call=lambda: None, close=lambda: None)


def test_its_own_python_runs_when_it_has_what_is_needed(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And then nothing is brought but edgepress; ``clean`` takes that away, too."""
    monkeypatch.setattr(root, "EXTRA_MODULES", {"lab/device_functions.py": Path(double.__code__.co_filename)})
    python = tools / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    base = tmp_path / "it's here"
    with _device(_link(tools, base)) as device:
        described = device.describe(runner=True)
        assert device.call([Call(double, {"x": 21})]) == [({"x": 42}, {})]
    assert described.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert described.notes[-1] == "functions run in its own Python"
    assert [path.name.partition("-")[0] for path in (base / "unpacked").iterdir()] == ["edgepress"]
    with _device(_link(tools, base)) as device:
        device.clean()
    assert not base.exists()


def test_an_x86_64_device_without_python_is_brought_ours(
    tools: Path, tmp_path: Path, x86_root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's Python by its own loader, beside this machine's other glibc; moved elsewhere it runs as well."""
    monkeypatch.setattr("edgepress.targets.emulator.roots.emulator_directory", lambda: x86_root.cache)
    base = tmp_path / "it's here"
    with _device(_link(tools, base)) as device:
        assert device.call([]) == []
    base.rename(tmp_path / "moved")
    with _device(_link(tools, tmp_path / "moved")) as device:
        described = device.describe(runner=True)
    assert described.versions["python"].startswith(f"{packages.PYTHON}.")
    assert described.versions["onnxruntime"] == onnxruntime.__version__
    assert (
        "the Python that edgepress brought, for its own has not what is needed (it has no python3)"
        in (described.notes[-1])
    )


def test_neither_its_own_python_nor_ours(tools: Path, tmp_path: Path) -> None:
    link = _link(tools, tmp_path / "base")
    (tmp_path / "base").mkdir()
    with pytest.raises(RunnerUnusable, match=r"is riscv64, and .* lacks .*\(it has no python3\): install Python"):
        make_runner(link, "riscv64")
    python = tools / "python3"
    python.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'numpy'\" >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(RunnerUnusable, match="No module named 'numpy'"):
        make_runner(link, "riscv64")


@pytest.mark.skipif(os.uname().machine == "aarch64", reason="arm64 programs run on this machine")
def test_a_device_where_our_programs_do_not_run(
    tools: Path, tmp_path: Path, emulator: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found with two files of glibc, before a hundred megabytes are sent; and they are taken away."""
    monkeypatch.setattr("edgepress.targets.emulator.roots.emulator_directory", lambda: emulator.directory)
    base = tmp_path / "base"
    base.mkdir()
    with pytest.raises(RunnerUnusable, match=r"do not run on here \(.*\): is .* on a noexec mount.*a native program"):
        make_runner(_link(tools, base), "aarch64")
    assert not (base / "probe").exists()
    assert [path.name.partition("-")[0] for path in (base / "unpacked").iterdir()] == ["edgepress"]


def test_a_folder_of_somebody_else_is_left_alone(tools: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    with _device(_link(tools, base)) as device:
        device.clean()
        assert not base.exists()
    base.mkdir()
    (base / "notes").write_text("of somebody")
    for use in (Linked.clean, Linked.scratch):
        with _device(_link(tools, base)) as device, pytest.raises(DeviceUnusable, match="is not edgepress's"):
            use(device)
    assert [path.name for path in base.iterdir()] == ["notes"]


def test_a_push_that_was_cut_off_goes_on(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are whole there are not sent again, and what was half there is not used."""
    source = tmp_path / "source"
    source.mkdir()
    for name in "abc":
        (source / name).write_text(name)
    sent: list[str] = []
    real = Link.put

    def put(link: Link, path: Path, there: str) -> None:
        if there.endswith("/b") and "b" not in sent:
            sent.append("b")
            raise LinkLost("the link broke")
        sent.append(Path(there).name)
        real(link, path, there)

    monkeypatch.setattr(Link, "put", put)
    with _device(_link(tools, tmp_path / "base")) as device:
        with pytest.raises(LinkLost):
            device.push(source)
        there = Path(device.push(source))
    assert [name for name in sent if len(name) == 1] == ["a", "b", "b", "c"]
    assert {path.name: path.read_text() for path in there.iterdir()} == {"a": "a", "b": "b", "c": "c"}
    with pytest.raises(InputError, match="is not there"), _device(_link(tools, tmp_path / "base")) as device:
        device.push(tmp_path / "nothing")


def test_a_name_of_two_lines_is_refused(tools: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a\nb").write_text("")
    with _device(_link(tools, tmp_path / "base")) as device, pytest.raises(InputError, match="rename it"):
        device.push(source)


@given(st.dictionaries(_NAMES, st.binary(max_size=20), min_size=1, max_size=4))
@settings(max_examples=5)
def test_any_folder_arrives_as_it_is(files: dict[str, bytes]) -> None:
    """Names with quotes, spaces, dashes, backslashes and stars; what was there before and is not here goes."""
    with TemporaryDirectory() as name:
        source, base = Path(name) / "source", Path(name) / "base"
        source.mkdir()
        with _device(_link(_own_path(), base)) as device:
            for left in (files, dict(list(files.items())[1:]) or files):
                for path in source.iterdir():
                    path.unlink()
                for file, content in left.items():
                    (source / file).write_bytes(content)
                there = Path(device.push(source))
                assert {path.name: path.read_bytes() for path in there.iterdir()} == left


def _own_path() -> Path:
    found = shutil.which("sha256sum")
    assert found is not None
    return Path(found).parent
