"""Prepared bundles: the same bits, less memory; and a cache that nothing can make wrong."""

import errno
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import prepared_bundles as made
import pytest
from prepared_bundles import Shape, make_bundle, run

from edgepress.disk.cache import cache_folder
from edgepress.disk.stamps import stamp
from edgepress.errors import InputError
from edgepress.processor import cpu_info
from edgepress.runtime import prepared
from edgepress.runtime.graph_file import form, products, repack

X86 = platform.machine() in {"x86_64", "AMD64"}
LINUX = sys.platform == "linux"
HERE = Path(__file__).parent.parent  # of prepared_bundles


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def python(code: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path.insert(0, {str(HERE)!r})\n{code}"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, check=check, capture_output=True, text=True)


# ---- what is computed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        Shape(),
        Shape(block=16),
        Shape(block=128),
        Shape(block=128, hidden=64, width=40),  # a block larger than the matrix, rows that are no multiple of a tile
        Shape(hidden=90, width=161),  # columns that are no multiple of the block
        Shape(bias=True),
        Shape(zero_points=True),
        Shape(zero_points=True, bias=True, block=64),
        Shape(bits=8),
        Shape(bits=8, zero_points=True),
        Shape(accuracy_level=1),
        Shape(accuracy_level=0, bits=8),
        Shape(half_scales=True),
        Shape(half_scales=True, block=16, zero_points=True),
        Shape(kept=True),
        Shape(kept=True, branch=True),
        Shape(experts=5),
        Shape(experts=5, zero_points=True, bias=True),
        Shape(experts=3, bits=8, accuracy_level=0),
        Shape(experts=5, half_scales=True),
    ],
    ids=str,
)
def test_the_same_bits_as_the_bundle(tmp_path: Path, cache: Path, shape: Shape) -> None:
    bundle = make_bundle(tmp_path / "bundle", shape)
    expected, unprepared = run(bundle, cache, prepared=False)
    assert unprepared == prepared.Prepared()
    written, first = run(bundle, cache)
    found, second = run(bundle, cache)
    assert written == found == expected
    assert first == second
    assert first.directory is not None
    assert first.reason == ""
    assert sum(made.forms(first.directory).values()) == (2 if shape.kept else 3)  # experts: their node, router, head
    onnx.checker.check_model(first.directory / "model.onnx")


@pytest.mark.parametrize("experts", [1, 3, 64])
def test_the_proof_sends_something_to_each_expert(experts: int) -> None:
    routes = repack.sample(f"{repack.ROUTES}0/1", experts, experts)
    assert routes.argmax(1).tolist() == list(range(experts))
    assert (routes > 0).all()  # what weighs nothing is not computed


@pytest.mark.skipif(not X86, reason="which inputs are packed differs between processors")
def test_int4_needs_neither_weights_nor_scales(bundle: Path, cache: Path) -> None:
    directory = prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)
    assert made.forms(directory) == {"window, open scales": 3}
    model = onnx.load(directory / "model.onnx", load_external_data=False)
    places = [
        (int(entries["offset"]), int(entries["length"]), "prepacked_0" in entries)
        for tensor in model.graph.initializer
        if (entries := {entry.key: entry.value for entry in tensor.external_data})
    ]
    weights = [place for place in places if place[2]]
    assert len(weights) == 3
    hole = max(offset for offset, _, _ in weights)
    data = (directory / "model.onnx.data").read_bytes()
    for offset, length, _ in weights:
        assert not any(data[offset : hole // 4096 * 4096]), "the weight is a window into the hole"
        assert offset + length < len(data)


@pytest.mark.parametrize(
    "shape", [Shape(), Shape(zero_points=True, bias=True), Shape(hidden=90), Shape(half_scales=True)], ids=str
)
def test_a_large_weight_in_pieces(tmp_path: Path, cache: Path, shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle", shape)
    expected, _ = run(bundle, cache, prepared=False)
    monkeypatch.setattr(products, "SPLIT_ABOVE", 8000)
    monkeypatch.setattr(products, "PIECE", 1)
    found, state = run(bundle, cache)
    assert found == expected
    assert state.directory is not None
    model = onnx.load(state.directory / "model.onnx", load_external_data=False)
    heads = [node for node in model.graph.node if node.op_type == "MatMulNBits" and node.name.startswith("logits/")]
    assert [attribute.i for node in heads for attribute in node.attribute if attribute.name == "N"] == [64] * 4
    assert [node.op_type for node in model.graph.node][-1] == "Concat"
    assert [value.name for value in model.graph.output] == ["logits"]


def test_rows_of_a_piece_that_do_not_divide(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path / "bundle", Shape(width=1000))
    expected, _ = run(bundle, cache, prepared=False)
    monkeypatch.setattr(products, "SPLIT_ABOVE", 40_000)
    monkeypatch.setattr(products, "PIECE", 48 * 192)
    found, _ = run(bundle, cache)
    assert found == expected


def test_scales_that_are_cast_cost_no_more_than_scales_that_are_stored(tmp_path: Path, cache: Path) -> None:
    """Folded scales are a file that is mapped, too, and what is computed is the same."""
    found = []
    for half in (False, True):
        shape = Shape(block=16, hidden=2048, half_scales=half)  # scales of 2048 and more than fit in the graph
        bundle = make_bundle(tmp_path / f"half-{half}", shape)
        bits, state = run(bundle, cache)
        assert bits == run(bundle, cache, prepared=False)[0]
        assert state.directory is not None
        sizes = [(state.directory / name).stat().st_size for name in ("model.onnx", "model.onnx.data")]
        found.append((bits, made.forms(state.directory), sizes[1]))
        assert sizes[0] < 16_384
        assert len(state.rows) == 2  # the table's codes and its scales
    assert found[0] == found[1]


def test_each_graph_of_a_bundle_has_a_form_of_its_own(bundle: Path, cache: Path) -> None:
    shutil.copy(bundle / "model.onnx", bundle / "model_fp16.onnx")
    made.write_manifest(bundle)
    models = [bundle / "model.onnx", bundle / "model_fp16.onnx"]
    first, second = (prepared.prepare(bundle, model=model, cache=cache) for model in models)
    assert first != second
    for model, directory in zip(models, (first, second), strict=True):
        inode = (directory / "model.onnx").stat().st_ino
        assert prepared.find_form(bundle, cache, model=model) == directory
        assert prepared.prepare(bundle, model=model, cache=cache) == directory
        assert (directory / "model.onnx").stat().st_ino == inode
        assert prepared.check(bundle, model=model, cache=cache) == []


def test_every_form_computes_the_same(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = run(bundle, cache, prepared=False)
    for index, way in enumerate(repack.FORMS):
        monkeypatch.setattr(repack, "FORMS", repack.FORMS[index:])
        found, state = run(bundle, cache / str(index))
        assert found == expected
        assert state.directory is not None
        if X86:
            assert made.forms(state.directory) == {way: 3}
        monkeypatch.undo()


@pytest.mark.parametrize("bits", [4, 8])
def test_every_form_of_experts_computes_the_same(
    tmp_path: Path, cache: Path, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path / "bundle", Shape(experts=5, bits=bits, zero_points=True))
    expected, _ = run(bundle, cache, prepared=False)
    for index, way in enumerate(repack.EXPERT_FORMS):
        monkeypatch.setattr(repack, "EXPERT_FORMS", repack.EXPERT_FORMS[index:])
        found, state = run(bundle, cache / str(index))
        assert found == expected
        assert state.directory is not None
        used = made.forms(state.directory)
        if X86 and bits == 4:  # kernels of AVX2 read the scales where there are zero points: then the next form is used
            is_next_allowed = "avx512_vnni" not in cpu_info().get("flags", "").split()
            assert used.get(way) or (is_next_allowed and used.get(f"{way}, own scales"))
        if X86 and bits == 8:  # a stub of 8 bits is not packed
            assert "stub" not in used
        monkeypatch.undo()


@pytest.mark.skipif(not X86, reason="which inputs are packed differs between processors")
def test_experts_are_found_by_a_stub_and_noticed_where_they_are_not(tmp_path: Path, cache: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", Shape(experts=5))
    expected, state = run(bundle, cache)
    assert state.directory is not None
    assert made.forms(state.directory)["stub"] == 1
    _rename_packed(state.directory)
    found, again = run(bundle, cache)
    assert found == expected
    assert again == state  # made anew


def test_a_form_that_computes_something_else_is_not_used(
    bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = run(bundle, cache, prepared=False)
    monkeypatch.setattr(repack, "_same_bits", lambda *_: False)
    found, state = run(bundle, cache)
    assert found == expected
    assert state.directory is not None
    assert made.forms(state.directory) == {"own bytes": 3}


def test_the_inputs_a_caller_sees_are_the_bundles(bundle: Path, cache: Path) -> None:
    session, _ = prepared.open_session(bundle, bundle / "model.onnx", made.options(), cache=cache)
    assert [value.name for value in session.get_inputs()] == ["ids"]
    assert [value.name for value in session.get_outputs()] == ["logits"]


def test_options_are_given_back_as_they_were(bundle: Path, cache: Path) -> None:
    options = made.options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    prepared.open_session(bundle, bundle / "model.onnx", options, cache=cache)
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED


@pytest.mark.skipif(not (LINUX and X86), reason="reads /proc")
@pytest.mark.parametrize(
    "shape",
    [
        Shape(hidden=2048, width=16384, block=128),  # 17 MB twice
        Shape(hidden=1024, width=2048, block=128, experts=8),  # 17 MB and 8 MB
    ],
    ids=str,
)
def test_packed_weights_are_mapped_and_not_anonymous(tmp_path: Path, cache: Path, shape: Shape) -> None:
    bundle = make_bundle(tmp_path / "bundle", shape)
    code = """
import prepared_bundles as made
from pathlib import Path
def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3
bundle, cache, wanted = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "True"
before = anonymous()
session, state = made.open_session(bundle, bundle / "model.onnx", made.options(), prepared=wanted, cache=cache)
made.logits(session)
print(anonymous() - before)
"""
    prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)
    with_cache, without = (float(python(code, bundle, cache, wanted).stdout) for wanted in (True, False))
    assert without > 24
    assert with_cache < 10


# ---- what is used again, and what is built anew --------------------------------------------------------------------


def written_at(directory: Path) -> int:
    return (directory / "model.onnx").stat().st_ino


def test_a_sound_form_is_used_again(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)
    monkeypatch.setattr(repack, "write", None)
    assert prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache) == directory
    assert form.check(directory) == []


def test_force_writes_anew(bundle: Path, cache: Path) -> None:
    directory = prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)
    before = written_at(directory)
    assert prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache, force=True) == directory
    assert written_at(directory) != before


def _truncate(directory: Path) -> None:
    os.truncate(directory / "model.onnx.data", 5000)


def _flip(directory: Path) -> None:
    data = bytearray((directory / "model.onnx.data").read_bytes())
    data[-1] ^= 1
    (directory / "model.onnx.data").write_bytes(data)


def _flip_graph_keeping_its_time(directory: Path) -> None:
    path = directory / "model.onnx"
    times = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\x00")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _garble_note(directory: Path) -> None:
    (directory / "prepared.json").write_text('{"key": [')


def _other_note(directory: Path) -> None:
    (directory / "prepared.json").write_text("[1]")


def _lacking_note(directory: Path) -> None:
    note = json.loads((directory / "prepared.json").read_text())
    del note["checks"]
    (directory / "prepared.json").write_text(json.dumps(note))


def _remove_data(directory: Path) -> None:
    (directory / "model.onnx.data").unlink()


def _remove_note(directory: Path) -> None:
    (directory / "prepared.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [_truncate, _flip, _flip_graph_keeping_its_time, _garble_note, _other_note, _lacking_note, _remove_data,
     _remove_note],
)  # fmt: skip
def test_a_damaged_form_is_found_and_written_anew(bundle: Path, cache: Path, damage: object) -> None:
    expected, state = run(bundle, cache)
    assert state.directory is not None
    assert callable(damage)
    damage(state.directory)
    if damage is not _lacking_note:
        assert form.check(state.directory)
    found, again = run(bundle, cache)
    assert found == expected
    assert again == state
    assert form.check(state.directory) == []


def test_a_full_check_finds_what_the_stamps_hide(bundle: Path, cache: Path) -> None:
    directory = prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)
    times = (directory / "model.onnx.data").stat()
    _flip(directory)
    os.utime(directory / "model.onnx.data", ns=(times.st_atime_ns, times.st_mtime_ns))
    (problem,) = form.check(directory)
    assert "model.onnx.data: content changed; prepare the bundle again" in problem


def test_a_copied_cache_is_hashed_once_and_used(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)
    os.utime(directory / "model.onnx.data", ns=(1, 1))
    monkeypatch.setattr(repack, "write", None)
    prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)
    note = json.loads((directory / "prepared.json").read_text())
    assert note["files"]["model.onnx.data"]["stamp"] == stamp(directory / "model.onnx.data")


def _rename_packed(directory: Path) -> None:
    """File what is packed under hashes that nothing has."""
    note = json.loads((directory / "prepared.json").read_text())
    for name in ("model.onnx", "check.onnx"):
        model = onnx.load(directory / name, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "prepacked_0":
                    entry.value = entry.value.replace("+", "+9")
        onnx.save(model, directory / name)
        size, digest = (directory / name).stat().st_size, form.sha256_file(directory / name)
        note["files"][name] = {"size": size, "sha256": digest, "stamp": stamp(directory / name)}
    (directory / "prepared.json").write_text(json.dumps(note))
    assert form.check(directory) == []


def test_weights_that_are_not_found_are_noticed(bundle: Path, cache: Path) -> None:
    """As on a processor that packs differently although it has the same name."""
    expected, state = run(bundle, cache)
    assert state.directory is not None
    _rename_packed(state.directory)
    found, again = run(bundle, cache)
    assert found == expected
    assert again == state


@pytest.mark.parametrize("what", ["onnxruntime", "machine", "bundle"])
def test_another_key_is_another_form(bundle: Path, cache: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)
    if what == "onnxruntime":
        monkeypatch.setattr(onnxruntime, "__version__", "1.99.0")
    elif what == "machine":
        monkeypatch.setattr(form, "machine", lambda: "another")
    else:
        bundle = make_bundle(bundle.parent / "other", seed=1)
    assert prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache) != first
    assert form.check(first) == []


def test_a_form_is_of_one_kind_of_integer_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where sums saturate weights are made uint8; an emulated processor may show the flags of one that has VNNI."""
    monkeypatch.setattr(form, "saturates", lambda: False)
    exact = form.machine()
    monkeypatch.setattr(form, "saturates", lambda: True)
    assert form.machine() != exact


def test_the_machine_is_named_by_its_instruction_sets() -> None:
    assert form.machine() == form.machine()
    assert form.machine().startswith(f"{platform.system()} {platform.machine()} ")


# ---- room ----------------------------------------------------------------------------------------------------------


def test_the_form_not_used_for_longest_goes_first(tmp_path: Path, cache: Path) -> None:
    bundles = [make_bundle(tmp_path / str(seed), seed=seed) for seed in range(3)]
    first, second = (prepared.prepare(item, model=item / "model.onnx", cache=cache) for item in bundles[:2])
    for directory, used in ((first, 2_000_000_000), (second, 1_000_000_000)):
        os.utime(directory / "prepared.json", (used, used))
    stranger = cache / "notes"
    stranger.mkdir()
    size = sum(path.stat().st_blocks * 512 for path in first.iterdir())
    third = prepared.prepare(bundles[2], model=bundles[2] / "model.onnx", cache=cache, limit=int(2.5 * size))
    assert first.exists()
    assert not second.exists()
    assert third.exists()
    assert stranger.exists()


def test_using_a_form_keeps_it(bundle: Path, cache: Path) -> None:
    directory = prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)
    os.utime(directory / "prepared.json", (1, 1))
    prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)
    assert (directory / "prepared.json").stat().st_mtime > 1


def test_an_open_session_survives_its_form(bundle: Path, cache: Path) -> None:
    session, state = prepared.open_session(bundle, bundle / "model.onnx", made.options(), cache=cache)
    expected = made.logits(session).tobytes()
    assert state.directory is not None
    if LINUX:
        shutil.rmtree(state.directory)
        state.trim()
    assert made.logits(session).tobytes() == expected


@pytest.mark.parametrize("limit", [1000, 60_000])
def test_a_limit_below_one_form(bundle: Path, cache: Path, limit: int, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match=r"limited to .* MB; raise EDGEPRESS_CACHE_BYTES"):
        prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache, limit=limit)
    expected, _ = run(bundle, cache, prepared=False)
    found, state = run(bundle, cache, limit=limit)
    assert found == expected
    assert state.directory is None
    assert "EDGEPRESS_CACHE_BYTES" in state.reason
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path))
    assert cache_folder("prepared") == tmp_path
    monkeypatch.delenv("EDGEPRESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("prepared") == tmp_path / "edgepress" / "prepared"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder("prepared") == tmp_path / ".cache" / "edgepress" / "prepared"


def test_how_much_it_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEPRESS_CACHE_BYTES", raising=False)
    assert prepared.cache_limit() == prepared.DEFAULT_LIMIT
    monkeypatch.setenv("EDGEPRESS_CACHE_BYTES", "1000")
    assert prepared.cache_limit() == 1000
    monkeypatch.setenv("EDGEPRESS_CACHE_BYTES", "2 GB")
    with pytest.raises(InputError, match="whole number of bytes"):
        prepared.cache_limit()


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = tmp_path / "file"
    cache.write_text("")
    expected, _ = run(bundle, cache, prepared=False)
    found, state = run(bundle, cache)
    assert found == expected
    assert state.directory is None
    assert "cannot be written" in state.reason
    assert "EDGEPRESS_CACHE" in state.reason
    assert state.reason in caplog.text


def test_a_full_disk(bundle: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(repack, "write", fail)
    with pytest.raises(InputError, match=r"MB free\).*No space left on device.*EDGEPRESS_CACHE"):
        prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)
    with monkeypatch.context() as patch:
        patch.setattr("edgepress.disk.files.workspace.hold", fail)  # where no folder can be made either
        with pytest.raises(InputError, match=r"MB free\).*No space left on device.*EDGEPRESS_CACHE"):
            prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)
    _, state = run(bundle, cache)
    assert "No space left" in state.reason
    assert [path.name for path in cache.iterdir()] == [".lock"]


@pytest.mark.skipif(not LINUX, reason="limits file sizes by setrlimit")
@pytest.mark.parametrize("limit", [2_000, 30_000, 70_000])
def test_a_file_that_the_system_stops(bundle: Path, cache: Path, limit: int) -> None:
    """Whoever writes, Python or onnxruntime, gets an error from the system."""
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
import prepared_bundles as made
from pathlib import Path
found, state = made.run(Path(sys.argv[1]), Path(sys.argv[2]))
assert state.directory is None
print(state.reason)
"""
    done = python(code, bundle, cache, limit)
    assert "cannot be prepared in" in done.stdout
    assert "opened without its prepared form" in done.stderr
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_a_bundle_that_is_not_sound_is_not_prepared(bundle: Path, cache: Path) -> None:
    data = bytearray((bundle / "model.onnx.data").read_bytes())
    data[100] ^= 1
    (bundle / "model.onnx.data").write_bytes(data)
    with pytest.raises(InputError, match=r"model\.onnx\.data: content changed .*export it again"):
        prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)


def test_a_bundle_without_manifest(bundle: Path, cache: Path) -> None:
    (bundle / "manifest.json").unlink()
    _, state = run(bundle, cache)
    assert "manifest.json" in state.reason


def test_a_graph_that_onnxruntime_refuses(bundle: Path, cache: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"no graph")
    made.write_manifest(bundle)
    with pytest.raises(InputError, match=r"model\.onnx is damaged"):
        prepared.prepare(bundle, model=bundle / "model.onnx", cache=cache)


# ---- processes at the same time ------------------------------------------------------------------------------------


def test_processes_that_start_together(bundle: Path, cache: Path) -> None:
    expected, _ = run(bundle, cache, prepared=False)
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
        + """
import prepared_bundles as made
from edgepress.runtime.graph_file import repack
from pathlib import Path
write = repack.write
def counted(*arguments):
    print("built", flush=True)
    return write(*arguments)
repack.write = counted
found, state = made.run(Path(sys.argv[1]), Path(sys.argv[2]))
print(state.directory.name, found.hex())
"""
    )
    command = [sys.executable, "-c", code, str(bundle), str(cache)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    lines = [line for process in started for line in process.communicate()[0].splitlines()]
    assert [process.returncode for process in started] == [0] * 4
    assert lines.count("built") == (1 if sys.platform != "win32" else lines.count("built"))
    results = {tuple(line.split()) for line in lines if line != "built"}
    (directory,) = (path for path in cache.iterdir() if path.is_dir())
    assert results == {(directory.name, expected.hex())}


@pytest.mark.skipif(not LINUX, reason="kills by signal")
def test_a_builder_that_is_killed_leaves_nothing_that_is_used(bundle: Path, cache: Path) -> None:
    code = """
import os, signal
import prepared_bundles as made
from edgepress.runtime.graph_file import repack
from pathlib import Path
repack._Writer.write_check = lambda self: os.kill(os.getpid(), signal.SIGKILL)
made.run(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    assert python(code, bundle, cache, check=False).returncode == -9
    (partial,) = (path for path in cache.iterdir() if path.is_dir())
    assert partial.name.endswith(".partial")
    run(bundle, cache)
    (directory,) = (path for path in cache.iterdir() if path.is_dir())
    assert form.check(directory) == []


def test_neither_torch_nor_onnx_is_loaded(bundle: Path, cache: Path) -> None:
    code = """
from pathlib import Path
import onnxruntime
from edgepress.runtime.prepared import open_session
bundle = Path(sys.argv[1])
open_session(bundle, bundle / "model.onnx", onnxruntime.SessionOptions(), cache=Path(sys.argv[2]))
assert not {"torch", "onnx"} & set(sys.modules)
"""
    python(code, bundle, cache)
