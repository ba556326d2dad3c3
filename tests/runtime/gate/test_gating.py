"""Whole gates of a tiny bundle: real figures, baselines of both kinds, and what builds read of them."""

import json
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from tiny_models import save

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime.gate.figures import Request
from edgepress.runtime.gate.gating import gate, write_baseline
from edgepress.runtime.gate.gauges import instructions
from edgepress.runtime.gate.reports import known_reports
from edgepress.runtime.gate.verdict import Outcome


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("model")
    checkpoint = save("llama", directory / "checkpoint")
    for recipe in ("int4", "int8"):
        export(checkpoint, out=directory / recipe, recipe=recipe)
    return directory / "int4", directory / "int8"


def budget(folder: Path, text: str) -> Path:
    path = folder / "budget.toml"
    path.write_text(text)
    return path


SIZE = "[size]\nbundle_megabytes = { worse_by_most = 0.02 }\n"


def test_a_larger_bundle_breaks_a_rule_and_the_same_one_keeps_it(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    int4, int8 = bundles
    rules = budget(tmp_path, SIZE)
    grown = gate(int8, rules, baseline=int4)
    assert not grown.passed
    assert grown.verdicts[0].outcome is Outcome.BROKEN
    assert "worse by" in grown.verdicts[0].because
    assert gate(int4, rules, baseline=int4).passed
    assert gate(int4, rules, baseline=int8).passed  # smaller is not worse


def test_figures_of_an_earlier_gate_are_a_baseline(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    int4, int8 = bundles
    rules = budget(tmp_path, SIZE)
    write_baseline(tmp_path / "baseline.json", gate(int4, rules).baseline)
    assert gate(int4, rules, baseline=tmp_path / "baseline.json").passed
    assert not gate(int8, rules, baseline=tmp_path / "baseline.json").passed
    undecided = gate(int4, rules)
    assert undecided.passed
    assert undecided.verdicts[0].because == "there is no baseline"


def test_memory_speed_quality_and_placement_of_a_real_bundle(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("words that nobody has trained on, " * 8)
    rules = budget(
        tmp_path,
        f"""
[memory]
prompt_length = 8
decode_tokens = 4
peak_megabytes = {{ most = 2000 }}
steady_megabytes = {{ most = 1 }}
[speed]
prompt_length = 8
decode_tokens = 4
rounds = 3
decode_tokens_per_second = {{ worse_by_most = 0.99 }}
[quality]
text = "{text}"
context = 32
bits_per_byte = {{ least = 0.1, most = 50 }}
[accelerator]
target = "android-nnapi"
nodes_share = {{ least = 0.0 }}
""",
    )
    found = {verdict.figure: verdict for verdict in gate(bundles[0], rules, baseline=bundles[0]).verdicts}
    assert found["peak_megabytes"].outcome is Outcome.KEPT
    assert found["steady_megabytes"].outcome is Outcome.BROKEN
    assert found["decode_tokens_per_second"].outcome in (Outcome.KEPT, Outcome.UNDECIDED)
    assert (found["decode_tokens_per_second"].value or 0) > 0
    assert found["bits_per_byte"].outcome is Outcome.KEPT
    assert 0 <= (found["nodes_share"].value or 0) <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "ssh:board"}, "was taken on ssh:board, not on local"),
        ({"schema": 7}, "schema 7"),
        ({"options": {"memory": {"prompt_length": 9}}}, "prompt_length 9, not 64"),
        ({"figures": 3}, "is no baseline"),
    ],
)
def test_a_baseline_that_was_not_taken_alike_is_refused(
    bundles: tuple[Path, Path], tmp_path: Path, change: dict[str, object], message: str
) -> None:
    write_baseline(tmp_path / "b.json", gate(bundles[0], budget(tmp_path, SIZE)).baseline)
    content = json.loads((tmp_path / "b.json").read_text()) | change
    (tmp_path / "b.json").write_text(json.dumps(content))
    rules = budget(tmp_path, SIZE + "[memory]\nprompt_length = 64\npeak_megabytes = { most = 1 }\n")
    with pytest.raises(InputError, match=message):
        gate(bundles[0], rules, baseline=tmp_path / "b.json")


def test_builds_read_what_came_of_it(
    bundles: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = budget(
        tmp_path,
        SIZE + "[memory]\npeak_megabytes = { worse_by_most = 2.0, slack = 20 }\nprompt_length = 4\ndecode_tokens = 2\n",
    )
    forms = {form: tmp_path / form for form in ("junit", "sarif", "markdown")}
    options = [word for form, path in forms.items() for word in (f"--{form}", str(path))]
    baseline = tmp_path / "b.json"
    assert main(["gate", str(bundles[0]), "--budget", str(rules), "--baseline", str(baseline), "--update"]) == 0
    assert (
        main(["gate", str(bundles[1]), "--budget", str(rules), "--baseline", str(baseline), "--github", *options]) == 1
    )
    assert "::error title=size%3A bundle_megabytes::" in capsys.readouterr().out
    suite = ElementTree.fromstring(forms["junit"].read_text())
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failed = suite.find("testcase[@name='bundle_megabytes']/failure")
    assert failed is not None
    run = json.loads(forms["sarif"].read_text())["runs"][0]
    assert run["results"][0]["ruleId"] == "size/bundle_megabytes"
    assert {rule["id"] for rule in run["tool"]["driver"]["rules"]} == {"size/bundle_megabytes", "memory/peak_megabytes"}
    assert "❌ broken" in forms["markdown"].read_text()
    assert set(known_reports()) == {"junit", "sarif", "markdown", "github"}


def test_what_was_timed_or_resident_on_another_processor_decides_nothing(
    bundles: tuple[Path, Path], tmp_path: Path
) -> None:
    memory = "[memory]\nprompt_length = 4\ndecode_tokens = 2\npeak_megabytes = { worse_by_most = 0.0 }\n"
    rules = budget(tmp_path, SIZE + memory)
    write_baseline(tmp_path / "b.json", gate(bundles[0], rules).baseline)
    content = json.loads((tmp_path / "b.json").read_text())
    content["figures"]["memory"]["peak_megabytes"] = [0.001]
    content |= {"processor": "another one"}
    (tmp_path / "b.json").write_text(json.dumps(content))
    found = {verdict.figure: verdict for verdict in gate(bundles[1], rules, baseline=tmp_path / "b.json").verdicts}
    assert found["peak_megabytes"].outcome is Outcome.UNDECIDED
    assert "it was taken on another one" in found["peak_megabytes"].because
    assert found["bundle_megabytes"].outcome is Outcome.BROKEN  # bytes are the same anywhere


def test_update_replaces_nothing_that_is_no_baseline(
    bundles: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text('{"mine": 1}')
    command = ["gate", str(bundles[0]), "--budget", str(budget(tmp_path, SIZE)), "--baseline", str(mine), "--update"]
    assert main(command) == 2
    assert "is no baseline" in capsys.readouterr().err
    assert mine.read_text() == '{"mine": 1}'
    mine.unlink()
    assert main(command) == 0
    assert main(command) == 0  # one of ours is replaced
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_strict_fails_what_cannot_be_decided(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    command = ["gate", str(bundles[0]), "--budget", str(budget(tmp_path, SIZE))]
    assert main(command) == 0
    assert main([*command, "--strict"]) == 1
    assert main([*command, "--update"]) == 2
    assert main(["gate", str(bundles[0]), "--budget", str(budget(tmp_path, "[size]"))]) == 2


def test_each_bundle_is_counted_in_a_machine_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was counted before in a machine changes counts there: here each further bundle costs a thousand more."""
    first, second = tmp_path / "first", tmp_path / "second"
    for bundle in (first, second):
        bundle.mkdir()
    asked: list[list[Path]] = []

    def count(_emulator: object, _system: object, bundles: list[Path], *_: object, **__: object) -> list[object]:
        asked.append(bundles)
        return [
            SimpleNamespace(calls=[SimpleNamespace(tokens=1, instructions=10**6 + 1000 * number),
                                   SimpleNamespace(tokens=16, instructions=64 * 10**6)])
            for number, _ in enumerate(bundles)
        ]  # fmt: skip

    monkeypatch.setattr(instructions, "count_bundles", count)
    monkeypatch.setattr(instructions, "setup", lambda: None)
    monkeypatch.setattr(instructions, "setup_system", lambda: None)
    options = {"cpu": "cortex-a76", "context": 16, "prompt_length": 16}
    requests = [Request(path, "local", ("per_decoded_token",), options) for path in (first, second)]
    found = instructions.GAUGE.take(requests)
    assert asked == [[first], [second]]
    assert [[figure.observations for figure in figures] for figures in found] == [[(1.0,), (4.0,)]] * 2
