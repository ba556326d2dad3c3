"""A bundle's graphs: what a list of them may be, which one runs on which processor, and why."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.bundle import graphs as graphs_module
from edgepress.bundle.graphs import GraphEntry, check_graphs, choose, describe_choice
from edgepress.bundle.manifest import MANIFEST_NAME, Manifest, describe_files, find_problems, read_manifest
from edgepress.bundle.states import State
from edgepress.processor import FEATURES

STATE = State("conv", "past", "present", ("batch", 8), "float32", "convolution")
HALF = replace(STATE, type="float16")
LAST = GraphEntry("model.onnx", (), (STATE,))
FIRST = GraphEntry("model_fp16.onnx", ("fp16",), (HALF,))
NEWER = GraphEntry("model_sve9.onnx", ("sve9", "fp16"), (HALF,))


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> frozenset[str]:
    found: frozenset[str] = frozenset(request.param)
    monkeypatch.setattr(graphs_module, "features", lambda: found)
    return found


@pytest.mark.parametrize(
    ("has", "words"),
    [
        ((), ("no: this edgepress knows no sve9", "no: this processor has no float16 arithmetic", "yes")),
        (("fp16",), ("no: this edgepress knows no sve9", "yes", "no: model_fp16.onnx is preferred")),
    ],
    indirect=["has"],
)
@pytest.mark.usefixtures("has")
def test_the_first_that_the_processor_has_all_for(words: tuple[str, ...]) -> None:
    chosen = choose((NEWER, FIRST, LAST))
    assert chosen == (NEWER, FIRST, LAST)[[word == "yes" for word in words].index(True)]
    assert tuple(describe_choice(entry, chosen) for entry in (NEWER, FIRST, LAST)) == words


ENTRIES = st.builds(
    GraphEntry,
    st.sampled_from(["a.onnx", "b.onnx", "c.onnx", "d.onnx"]),
    st.lists(st.sampled_from(["fp16", "sve9", "dot"]), max_size=2).map(tuple),
    st.sampled_from([(STATE,), (HALF,), ()]),
)


def is_sound(listed: list[GraphEntry], files: set[str]) -> bool:
    names = [entry.file for entry in listed]
    in_order = [bool(entry.requires) for entry in listed] == [True] * (len(listed) - 1) + [False]
    several = 2 <= len(listed) <= 8 and len(set(names)) == len(names) and set(names) <= files
    return not listed or (several and in_order and listed[-1].states == (STATE,))


@given(listed=st.lists(ENTRIES, max_size=10), has=st.sets(st.sampled_from(sorted(FEATURES))))
def test_a_list_that_is_accepted_has_one_graph_for_every_processor(listed: list[GraphEntry], has: set[str]) -> None:
    files = {"a.onnx", "b.onnx", "c.onnx"}
    if not is_sound(listed, files):
        with pytest.raises(ValueError, match=r"there|among|last one|states of"):
            check_graphs(listed, files, (STATE,))
        return
    check_graphs(listed, files, (STATE,))
    if listed:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graphs_module, "features", lambda: has)
            chosen = choose(listed)
            assert [entry for entry in listed if describe_choice(entry, chosen) == "yes"] == [chosen]
        assert set(chosen.requires) <= has
        assert all(set(entry.requires) - has for entry in listed[: listed.index(chosen)])


@given(listed=st.lists(ENTRIES, min_size=1, max_size=3))
def test_entries_are_read_as_they_were_written(listed: list[GraphEntry]) -> None:
    assert msgspec.convert(msgspec.to_builtins(listed), list[GraphEntry]) == listed


def test_a_bundle_with_graphs_is_read_back_and_one_without_has_no_entry(tmp_path: Path) -> None:
    for name in ("model.onnx", "model_fp16.onnx"):
        (tmp_path / name).write_bytes(name.encode())
    plain = Manifest("llama", {}, {}, {}, {}, (), {}, files=describe_files(tmp_path), states=(STATE,))
    assert '"graphs"' not in plain.serialize()
    for manifest in (plain, replace(plain, graphs=(FIRST, LAST))):
        (tmp_path / MANIFEST_NAME).write_text(manifest.serialize(), encoding="utf-8")
        assert find_problems(tmp_path) == []
        assert read_manifest(tmp_path).graphs == manifest.graphs
        assert read_manifest(tmp_path).serialize() == manifest.serialize()
    (tmp_path / "model_fp16.onnx").write_bytes(b"model_fp16.onny")
    assert [problem.split(":")[0] for problem in find_problems(tmp_path)] == ["model_fp16.onnx"]
