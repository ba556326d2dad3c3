"""Budgets in TOML: what is read, and that one which nobody filled in is an error."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.runtime.gate.budget import Rule, read_budget
from edgepress.runtime.gate.gauges import known_gauges

GAUGES = known_gauges()


def budget(folder: Path, text: str) -> Path:
    path = folder / "budget.toml"
    path.write_text(text)
    return path


def test_sections_settings_and_rules(tmp_path: Path) -> None:
    text = """
[size]
bundle_megabytes = { most = 90 }
[memory]
prompt_length = 128
peak_megabytes = { most = 300, worse_by_most = 0.10, slack = 20 }
"""
    size, memory = read_budget(budget(tmp_path, text), GAUGES)
    assert (size.gauge.name, size.rules) == ("size", {"bundle_megabytes": Rule(most=90)})
    assert memory.options == {
        "prompt_length": 128,
        "decode_tokens": None,
        "rows": None,
        "length": None,
        "threads": None,
    }
    assert memory.rules == {"peak_megabytes": Rule(most=300, worse_by_most=0.10, slack=20)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no section, so it would pass everything"),
        ("[size]", r"\[size\] has no rule, so it would pass everything"),
        ("[memory]\nprompt_length = 64", "has no rule"),
        ("[size]\nbundle_megabytes = {}", "no bound, so it would pass everything"),
        ("[size]\nbundle_megabytes = { slack = 3 }", "no bound"),
        ('[size]\nbundle_megabytes = "90"', "no rule"),
        ("[size]\nbundle_megabytes = 90", "write for example { most = 90 }"),
        ("[size]\nbundle_megabytes = { max = 90 }", "unknown field `max`"),
        ("[size]\nbundle_megabytes = { most = nan }", "bounds nothing"),
        ("[size]\nbundle_megabytes = { worse_by_most = 20 }", "such as 0.05 for 5 %"),
        ("[size]\nbundle_megabytes = { most = 90, slack = 2 }", "goes with worse_by_most"),
        ("[size]\nbytes = { most = 90 }", "bytes is not known; figures are bundle_megabytes"),
        ("[weight]\nbytes = { most = 90 }", "nothing to gauge by the name of 'weight'; known are accelerator"),
        ("size = 3", "size is a value"),
        ("[memory]\nprompt_length = true\npeak_megabytes = { most = 1 }", "it has to be int"),
        ("[quality]\nbits_per_byte = { most = 2 }", r"\[quality\] needs text"),
        ("[size", "is no TOML"),
    ],
)
def test_a_budget_that_would_pass_everything_or_cannot_be_read_is_an_error(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_budget(budget(tmp_path, text), GAUGES)


def test_a_budget_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_budget(tmp_path / "none.toml", GAUGES)


@given(st.text(max_size=60))
def test_any_text_is_a_budget_or_one_clear_error(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "b.toml"
        path.write_bytes(text.encode("utf-8", "replace"))
        try:
            sections = read_budget(path, GAUGES)
        except InputError as error:
            message = str(error)
        else:
            message = str(path) if all(section.rules for section in sections) else "a section without a rule"
        assert str(path) in message


def test_every_gauge_has_figures_and_a_section_name() -> None:
    assert {"size", "memory", "speed", "energy", "quality", "accelerator", "instructions"} <= set(GAUGES)
    for name, gauge in GAUGES.items():
        assert gauge.name == name
        assert gauge.figures
        assert not set(gauge.figures) & set(gauge.options)
