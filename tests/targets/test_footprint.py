"""The smallest runtime for a bundle in ORT format: operators counted, and bounds that say what they are."""

import string
from pathlib import Path

import pytest
from foreign_models import MODELS, save
from hypothesis import given
from hypothesis import strategies as st

from edgepress.bundle.manifest import read_manifest
from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.targets.footprint import ENTRY, footprint_lines, operators_in, whole_library

NAMES = st.text(string.ascii_letters, min_size=1, max_size=8)
TYPES = st.sampled_from(["", '{"inputs": {"0": ["float", "int8_t"]}}', '{"outputs": {"0": ["float"], "1": ["a,b;{"]}}'])


@given(
    st.lists(
        st.tuples(NAMES, st.integers(1, 30), st.lists(st.tuples(NAMES, TYPES), min_size=1, max_size=4)), max_size=4
    )
)
def test_every_operator_is_counted_once_for_each_line_it_is_in(
    lines: list[tuple[str, int, list[tuple[str, str]]]],
) -> None:
    text = "# a comment; with, marks\n" + "\n".join(
        f"{domain};{opset};{','.join(name + types for name, types in operators)}" for domain, opset, operators in lines
    )
    expected = [f"{domain}:{name}:{opset}" for domain, opset, operators in lines for name, _ in operators]
    assert operators_in(text) == expected


@pytest.mark.parametrize("line", ["ai.onnx;x;Add", "ai.onnx;11", 'ai.onnx;11;Add{"inputs"', "ai.onnx;11;Add Mul"])
def test_what_is_no_configuration_is_refused(line: str) -> None:
    with pytest.raises(InputError, match="line 1 of the operators"):
        operators_in(line)


def test_an_export_says_how_large_it_is_and_how_that_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(MODELS["convolutions"](), tmp_path / "model.onnx")
    export(file, out=tmp_path / "bundle", recipe="fp32", target="android-cpu", threads=1)
    entry = read_manifest(tmp_path / "bundle").targets["android-cpu"]
    assert isinstance(entry, dict)
    kept = (tmp_path / "bundle/android-cpu/required_operators_and_types.config").read_text()
    assert entry[ENTRY]["operators"] == len(operators_in(kept)) > 2
    assert set(entry[ENTRY]["estimate"]) == {"at_least_bytes", "source", "date"}
    whole = whole_library()
    assert whole is not None
    assert whole > entry[ENTRY]["estimate"]["at_least_bytes"]
    assert main(["inspect", str(tmp_path / "bundle")]) == 0
    said = capsys.readouterr().out
    assert "an estimate, more than 1.6 MB" in said
    assert f"less than the {whole / 1e6:.1f} MB" in said
    assert footprint_lines({"arm64-cpu": {}}) == []
