"""Figures of devices: every one has a source and a date, and a file that is none is refused."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.targets.devices import Call, Error, Figure, Roofline, find_roofline, roofline_names, write_roofline
from edgepress.targets.devices.packing import KINDS

WHOLE = """
name = "Board"
soc = "X1"
cores = "1"
[bytes_per_second]
value = 1e9
source = "a data sheet"
date = "2026-01-01"
[int8_operations_per_second]
value = 1e10
source = "computed"
date = "2026-01-01"
[float32_operations_per_second]
value = 1e9
source = "computed"
date = "2026-01-01"
"""


@pytest.mark.parametrize("name", roofline_names())
def test_every_device_has_figures_with_sources_that_fit_together(name: str) -> None:
    found = find_roofline(name)
    assert 1e9 < found.bytes_per_second.value < 1e12
    # four 8-bit products where one 32-bit one fits
    assert found.int8_operations_per_second.value == pytest.approx(
        4 * found.float32_operations_per_second.value, rel=0.02
    )
    for figure in (found.bytes_per_second, found.int8_operations_per_second):
        assert len(figure.source) > 20
    assert found.error is None, "an error needs a measurement on the device; say where it was made"


def test_a_file_of_the_same_form_is_read(tmp_path: Path) -> None:
    (tmp_path / "board.toml").write_text(WHOLE)
    assert find_roofline(str(tmp_path / "board.toml")).name == "Board"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("value = 1e9", "value = 0"), "a figure needs a value above 0"),
        (('source = "a data sheet"', 'source = " "'), "a figure needs"),
        (('soc = "X1"', ""), "missing required field `soc`"),
        (('soc = "X1"', 'soc = "X1"\nclock = 3'), "unknown field `clock`"),
        (('cores = "1"', "cores = ["), "no figures of a device"),
    ],
)
def test_what_is_none_is_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "board.toml").write_text(WHOLE.replace(*change, 1))
    with pytest.raises(InputError, match=message):
        find_roofline(str(tmp_path / "board.toml"))


def test_an_unknown_device_is_told_from_the_known() -> None:
    with pytest.raises(InputError, match="did you mean raspberry-pi-5"):
        find_roofline("rasperry-pi-5")
    with pytest.raises(InputError, match="cannot be read"):
        find_roofline("nothing.toml")


SAID = st.text(min_size=1).filter(str.strip)
FIGURES = st.builds(Figure, st.floats(1e-3, 1e15), SAID, st.just("2026-01-01"))
ROOFLINES = st.builds(
    Roofline, name=st.text(), soc=st.text(), cores=st.text(), bytes_per_second=FIGURES,
    int8_operations_per_second=FIGURES, float32_operations_per_second=FIGURES, memory_bytes=st.none() | FIGURES,
    process_bytes=st.none() | FIGURES, nodes_per_second=st.none() | FIGURES, kernels=st.none() | st.sampled_from(KINDS),
    error=st.none() | st.builds(Error, st.floats(0, 10), SAID),
)  # fmt: skip


@settings(max_examples=40)
@given(ROOFLINES)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, roofline: Roofline) -> None:
    path = tmp_path_factory.getbasetemp() / "written.toml"
    write_roofline(path, roofline)
    assert find_roofline(str(path)) == roofline


def test_only_a_file_of_this_form_is_replaced(tmp_path: Path) -> None:
    roofline = find_roofline("raspberry-pi-5")
    other = tmp_path / "pyproject.toml"
    other.write_text("[project]\n")
    (tmp_path / "link.toml").symlink_to(other)
    for name in ("pyproject.toml", "link.toml"):
        with pytest.raises(InputError, match=f"{name} is not replaced"):
            write_roofline(tmp_path / name, roofline)
    assert other.read_text() == "[project]\n"
    write_roofline(tmp_path / "board.toml", roofline)
    write_roofline(tmp_path / "board.toml", msgspec.structs.replace(roofline, name="Other"))
    assert find_roofline(str(tmp_path / "board.toml")).name == "Other"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["board.toml", "link.toml", "pyproject.toml"]


def test_the_larger_of_two_times_is_the_bound() -> None:
    memory, cores = Figure(1e9, "made up", "2026-01-01"), Figure(1e10, "made up", "2026-01-01")
    board = Roofline(
        name="", soc="", cores="", bytes_per_second=memory, int8_operations_per_second=cores,
        float32_operations_per_second=memory,
    )  # fmt: skip
    call = Call(weight_bytes=1.5e9, state_bytes=5e8, products=4e9, attention=1e9, nodes=10, numbers=1e6, rows=1)
    assert (board.seconds(call), board.bound_by(call)) == (pytest.approx(2.0), "memory")
    many = msgspec.structs.replace(call, products=3.9e10)
    assert (board.seconds(many), board.bound_by(many)) == (pytest.approx(4.0), "arithmetic")


def test_measured_kernels_add_their_own_times() -> None:
    def figure(value: float) -> Figure:
        return Figure(value, "made up", "2026-01-01")

    board = Roofline(
        name="", soc="", cores="", bytes_per_second=figure(1e9), int8_operations_per_second=figure(1e10),
        float32_operations_per_second=figure(1e9), attention_decode_operations_per_second=figure(1e9),
        attention_prefill_operations_per_second=figure(4e9), nodes_per_second=figure(100.0),
        numbers_per_second=figure(1e7),
    )  # fmt: skip
    call = Call(weight_bytes=2e9, state_bytes=5e8, products=4e9, attention=1e9, nodes=10, numbers=1e6, rows=1)
    assert board.seconds(call) == pytest.approx(2.0 + 1.0 + 0.1 + 0.1), "states are read by attention"
    assert board.seconds(msgspec.structs.replace(call, rows=128)) == pytest.approx(2.0 + 0.25 + 0.1 + 0.1)
