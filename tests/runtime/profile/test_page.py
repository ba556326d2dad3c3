"""The page of a profile: complete, self-contained, well-formed; opened by a browser where there is one."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import make_bundle
from hypothesis import example, given
from hypothesis import strategies as st

from edgepress.cli import main
from edgepress.runtime.profile import breakdown
from edgepress.runtime.profile.page.page import render, write_page
from edgepress.runtime.profile.page.pictures import PICTURES, layer_of, roofline
from edgepress.runtime.profile.page.svg import axis, bars, log_axis, short
from edgepress.runtime.profile.records import SCHEMA, Header, Profile, Record, Round, Sample
from edgepress.runtime.profile.settings import Settings


def whole() -> Profile:
    """A made-up phone on which everything was measured, with names that are no HTML."""
    chance = np.random.default_rng(0)
    records: list[Record] = []

    def add(of: str, *samples: Sample) -> None:
        records.extend([Round(of=of, round=0, whole=False), *samples, Round(of=of, round=0, whole=True)])

    def sample(of: str, what: str, measured: dict[str, list[float]], **detail: object) -> Sample:
        under = {"after": {"seconds": 0.0, "celsius": {"cpu & skin": 41.0}, "mhz": [1800.0, 2400.0]}}
        return Sample(of=of, round=0, what=what, measured=measured, detail=detail, circumstances=under)

    for length in (64, 256):
        add("speed", *(sample("speed", "prefill", {"ttft_seconds": [0.1 + 0.01 * n]}, length=length) for n in range(9)))
    add("speed", sample("speed", "decode", {"step_seconds": chance.uniform(0.01, 0.02, 200).tolist()}, length=256))
    phases = ("before load", "loaded", "decoded", "unloaded")
    sizes = [{"rss_bytes": [(50 + 10 * n) * 1e6], "anonymous_bytes": [3e7]} for n in range(4)]
    add(
        "memory",
        *(
            sample("memory", phase, size, repeat=repeat, tokens=0)
            for repeat in range(2)
            for phase, size in zip(phases, sizes, strict=True)
        ),
    )
    windows = [
        {"window_seconds": [1.0], "window_tokens": [20.0 if n < 20 else 13.0], "at_seconds": [n + 1.0]}
        for n in range(40)
    ]
    add("sustained", *(sample("sustained", "window", window) for window in windows))
    add(
        "energy",
        sample(
            "energy", "trace", {"at_seconds": [0, 1, 2], "watts": [1, 4, 1]}, source="odpm", rail="<b>", counted=True
        ),
        sample("energy", "unavailable", {}, source="rapl", reason="only root <may> read it"),
    )
    nodes = ["layers.0.mlp", "layers.1.mlp", "head"]
    for what in ("prefill", "decode"):
        add(
            "operators",
            sample("operators", what, {"node_microseconds": [3, 4, 5]}, nodes=nodes, operators=["A", "A", "B<"]),
        )
    alone = [("memory", 1e8), ("int8", 1e9)]  # of 10 ms each: 10 GB/s, and 10¹¹ operations/s
    work = {"weight_bytes": [9e7], "state_bytes": [1e7], "products": [1.9e8], "attention": [1e7], "rows": [1.0]}
    add(
        "roofline",
        *(sample("roofline", kind, {f"{kind}_seconds": [0.01]}, amount=amount) for kind, amount in alone),
        sample("roofline", "work", work, call="step_seconds at 256"),
    )
    header = Header(
        schema=SCHEMA, started="2026-01-01", bundle="<script>alert(1)</script>", bundle_hash="a" * 64, bundle_bytes=10,
        device="adb:1", description={"model": "Phone & Co"}, versions={"edgepress": "1"}, settings=Settings().to_json(),
    )  # fmt: skip
    return Profile(header, records)


class Reader(HTMLParser):
    """What a page has: its tags with their attributes, and whether each is closed where it was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def test_every_picture_is_there_with_its_figures_and_nothing_is_fetched_or_run() -> None:
    text = render(whole())
    reader = read(text)
    tags = [tag for tag, _ in reader.found]
    assert tags.count("svg") == len(PICTURES)
    assert tags.count("details") == len(PICTURES)
    assert not {"script", "link", "img", "iframe", "a", "object"} & set(tags)
    assert not re.search(r"url\(|@import|https?:", text)
    assert all(attributes["aria-label"] for tag, attributes in reader.found if tag == "svg")
    assert not any(name.startswith("on") for _, attributes in reader.found for name in attributes)
    assert len(text.encode()) < 2_000_000
    words = "".join(reader.words)
    assert "<script>alert(1)</script> on Phone & Co" in words
    assert "only root <may> read it" in words
    assert "65% from here on" in words


def test_the_roofline_has_the_bend_where_memory_and_cores_take_as_long() -> None:
    """10 GB/s and 10¹¹ operations/s: 10 operations a byte. A token of 2 a byte, in some 15 ms, of 20·10⁹ at most."""
    picture = roofline(whole())
    assert picture is not None
    [(name, per_byte, speed, share)] = picture.table[1:]
    assert (name, per_byte) == ("step at 256", "2.0")
    assert float(speed) == pytest.approx(13.3, rel=0.1)  # 2·10⁸ in the median of 10 to 20 ms
    assert share == f"{float(speed) / 20:.0%}"
    [line] = re.findall(r'<polyline class="line c0" points="([^"]+)"', picture.drawing)
    ends = [tuple(map(float, point.split(","))) for point in line.split()]
    assert ends[1][1] == ends[2][1] < ends[0][1], "level right of the bend, lower left of it"
    without = [record for record in whole().records if getattr(record, "what", "") != "int8"]
    assert roofline(Profile(whole().header, without)) is None


def test_a_profile_with_nothing_in_it_is_a_page_all_the_same() -> None:
    reader = read(render(Profile(whole().header)))
    assert "svg" not in [tag for tag, _ in reader.found]


def test_labels_stay_within_their_picture() -> None:
    for tag, attributes in read(render(whole())).found:
        if tag == "text":
            assert 0 <= float(attributes["x"] or "") <= 480, attributes
        if tag == "polyline":
            for point in (attributes["points"] or "").split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= 480
                assert 0 <= y <= 240


def test_a_browser_shows_it_without_a_word_of_complaint(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium")
    write_page(whole(), tmp_path / "page.html")
    quiet = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'browser'}",
    ]  # fmt: skip
    command = [chromium, *quiet, "--enable-logging=stderr", "--dump-dom", f"file://{tmp_path / 'page.html'}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert shown.stdout.count("<svg") == len(PICTURES)
    assert "CONSOLE" not in shown.stderr


@example([5e-324], True)  # whose parts are 0
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), st.booleans())
def test_axes_hold_all_values_and_have_few_round_ticks(values: list[float], zero: bool) -> None:
    found = axis([abs(value) for value in values] if zero else values, "x", zero=zero)
    assert found.low < found.high
    assert all(found.low - 1e-6 <= tick <= found.high + 1e-6 * abs(found.high) for tick in found.ticks())
    assert len(found.ticks()) <= 8
    assert all(-1e-9 <= found.share(abs(value) if zero else value) <= 1 + 1e-9 for value in values)


@given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20))
def test_logarithmic_axes_begin_and_end_at_powers_of_ten(values: list[float]) -> None:
    found = log_axis(values, "x")
    assert all(-1e-6 <= found.share(value) <= 1 + 1e-6 for value in values)
    assert found.ticks()


@pytest.mark.parametrize(
    ("node", "layer"),
    [
        ("layers.3.mlp.down", 3),
        ("/model/layers.12/attn/q_proj/MatMul", 12),
        ("model.h.0.mlp", 0),
        ("head", None),
        ("layers.x", None),
    ],
)
def test_layers_are_told_by_names(node: str, layer: int | None) -> None:
    assert layer_of(node) == layer


def test_numbers_of_ticks_are_short_and_bars_have_their_words() -> None:
    assert [short(value) for value in (0, 0.5, 1500, 2e6, 1e-7)] == ["0", "0.5", "1,500", "2e6", "1e−7"]
    assert "99%" in bars("x", [("a", 99.0, "99%"), ("b", 0.0, "0%")])


# ---- bench --profile -------------------------------------------------------------------------------------------------


class Asked:
    """Stands for measuring: keeps what was asked, gives a profile that was written by hand."""

    settings: Settings
    passes: list[str]

    def __call__(self, bundle: Path, *, settings: Settings, passes: list[str], **rest: Any) -> Profile:
        del bundle, rest
        self.settings, self.passes = settings, passes
        return whole()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    found = Asked()
    monkeypatch.setattr(breakdown, "profile", found)
    return found


def test_it_measures_no_more_than_its_tables_need(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    words = ["bench", str(bundle), "--profile", str(tmp_path / "page.html"), "--prompt-lengths", "8", "16"]
    assert main([*words, "--threads", "2", "--no-prepare"]) == 0
    assert asked.passes == ["speed", "operators", "roofline"]
    wanted = {"threads": 2, "prompt_lengths": (8, 16), "prepared": False, "exact_rounds": 3}
    assert {name: getattr(asked.settings, name) for name in wanted} == wanted
    out = capsys.readouterr().out
    for heading in ("Time by operator.", "Time by layer.", "Roofline."):
        assert heading in out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 3
    assert main(["bench", str(bundle), "--profile"]) == 0
    assert asked.passes == ["threads", "speed", "operators", "roofline"]
    assert asked.settings.threads is None


def test_what_it_does_not_measure_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    assert main(["bench", str(bundle), "--profile", "--json"]) == 2
    assert "--json is nothing for bench --profile; `edgepress profile` measures everything" in capsys.readouterr().err
    for option in ("--decode-tokens", "--repetitions", "--warmup", "--prefill-chunk"):
        assert main(["bench", str(bundle), "--profile", option, "3"]) == 2
        assert f"{option} is nothing for bench --profile" in capsys.readouterr().err
    assert main(["bench", str(bundle), "--profile", str(tmp_path / "none" / "page.html")]) == 2
    assert "none is no folder that you may write into" in capsys.readouterr().err
    assert main(["bench", str(bundle), "--profile", str(tmp_path / "page.svg")]) == 2
    assert "page.svg does not end with .html; name it so" in capsys.readouterr().err
