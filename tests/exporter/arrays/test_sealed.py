"""Files that know their own digest: what was written comes back, or is said to be damaged."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hypothesis_numpy

from edgepress.exporter.arrays.sealed import (
    DamagedError,
    check_hashes,
    check_sealed,
    hashes,
    load_sealed,
    read_sealed_json,
    save_sealed,
    write_sealed_json,
)

arrays_drawn = st.dictionaries(
    st.text("abc/.", min_size=1, max_size=6),
    hypothesis_numpy.arrays(
        st.sampled_from([np.float32, np.uint8, np.int64, np.float16, np.bool_]),
        hypothesis_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    max_size=4,
)
notes_drawn = st.dictionaries(st.text(max_size=4), st.floats() | st.text(max_size=4) | st.none(), max_size=3)
words = st.text(max_size=4)
json_drawn = st.recursive(
    st.none() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def flip(path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, 8 * len(content) - 1), label="bit")
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def as_bytes(arrays: dict[str, np.ndarray], notes: dict[str, Any]) -> tuple[object, str]:
    kinds = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}
    return kinds, json.dumps(notes, sort_keys=True)


@settings(deadline=None)
@given(arrays=arrays_drawn, notes=notes_drawn, data=st.data())
def test_any_flipped_bit_of_arrays_is_found_or_changes_nothing(
    arrays: dict[str, np.ndarray], notes: dict[str, Any], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("sealed") / "stage.safetensors"
    save_sealed(path, arrays, notes)
    assert as_bytes(*load_sealed(path)) == as_bytes(arrays, notes)
    assert json.dumps(check_sealed(path), sort_keys=True) == json.dumps(notes, sort_keys=True)
    flip(path, data)
    with contextlib.suppress(DamagedError):  # not where the flip was in the spaces of the header
        assert as_bytes(*load_sealed(path)) == as_bytes(arrays, notes)
    with contextlib.suppress(DamagedError):
        assert json.dumps(check_sealed(path), sort_keys=True) == json.dumps(notes, sort_keys=True)


@settings(deadline=None)
@given(content=st.dictionaries(words.filter(lambda key: key != "sha256"), json_drawn, max_size=4), data=st.data())
def test_any_flipped_bit_of_json_is_found_or_changes_nothing(
    content: dict[str, Any], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("sealed") / "step.json"
    write_sealed_json(path, content)
    assert read_sealed_json(path) == content
    flip(path, data)
    with contextlib.suppress(DamagedError):
        assert read_sealed_json(path) == content


def test_keys_that_json_turns_into_strings_are_no_damage(tmp_path: Path) -> None:
    write_sealed_json(tmp_path / "a.json", {"widths": {10: 1, 9: 2}, "pair": (1, 2)})
    assert read_sealed_json(tmp_path / "a.json") == {"widths": {"10": 1, "9": 2}, "pair": [1, 2]}


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    arrays = {name: np.arange(6, dtype=np.float32) for name in "abcdefgh"}
    for number in range(5):
        save_sealed(tmp_path / str(number), dict(sorted(arrays.items(), reverse=bool(number % 2))), {"x": 1, "y": 2})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_files_beside_are_missed_and_compared(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 9)
    noted = hashes(tmp_path, ["a", "b"])
    check_hashes(tmp_path, noted)
    (tmp_path / "b").write_bytes(b"bbbbabbbb")
    with pytest.raises(DamagedError, match="b: its SHA-256"):
        check_hashes(tmp_path, noted)
    (tmp_path / "b").unlink()
    with pytest.raises(DamagedError, match="b cannot be read"):
        check_hashes(tmp_path, noted)
    with pytest.raises(DamagedError, match=r"gone\.json cannot be read"):
        read_sealed_json(tmp_path / "gone.json")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a limit on files is one on a process")
def test_a_full_disk_is_one_clear_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit of 1 MiB on files stands for the disk; SIGXFSZ is ignored, so that writing fails as on a full one."""
    path = tmp_path / "stage.safetensors"
    save_sealed(path, {"a": np.arange(9)}, {})
    code = (
        "import resource, signal, sys\nimport numpy as np\nfrom pathlib import Path\n"
        "from edgepress.errors import InputError\nfrom edgepress.exporter.arrays.sealed import save_sealed\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "try:\n    save_sealed(Path(sys.argv[1]), {'a': np.zeros(1 << 20)}, {})\n"
        "except InputError as error:\n    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True).stdout
    assert "stage.safetensors, 8,388,608 bytes, cannot be written: " in told
    assert "free space there, or choose another output" in told
    assert [file.name for file in tmp_path.iterdir()] == ["stage.safetensors"]
    assert np.array_equal(load_sealed(path)[0]["a"], np.arange(9))
