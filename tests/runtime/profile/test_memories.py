"""What is said of memory in a profile: leaks against scatter, growth by token, limits and what stands around."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.runtime.profile.memories import growth, known_limits, leak, memory_figures
from edgepress.runtime.profile.page.page import render
from edgepress.runtime.profile.records import SCHEMA, Header, Profile, Round, Sample
from edgepress.runtime.profile.settings import Settings

MB = 1_000_000


def sample(what: str, repeat: int, anonymous: float | None, tokens: int = 0, **detail: object) -> Sample:
    measured = {"rss_bytes": [100.0 * MB]} | ({} if anonymous is None else {"anonymous_bytes": [float(anonymous)]})
    return Sample(
        of="memory", round=0, what=what, measured=measured, detail={"repeat": repeat, "tokens": tokens, **detail}
    )


def made_of(samples: Sequence[Sample], limit: int | None = None, *others: Sample) -> Profile:
    header = Header(
        schema=SCHEMA, started="2026-01-01", bundle="b", bundle_hash="a" * 64, bundle_bytes=10, device="local",
        description={"model": "Board", "page_bytes": 4096}, versions={},
        settings=Settings(memory_limit_bytes=limit).to_json(),
    )  # fmt: skip
    whole = [Round(of=of, round=0, whole=True) for of in ("memory", "limit")]
    return Profile(header, [*samples, whole[0], *others, whole[1]])


def left(*sizes: float) -> Profile:
    return made_of([sample("unloaded", repeat, size) for repeat, size in enumerate(sizes)])


def said(profile: Profile) -> dict[str, str]:
    return dict(memory_figures(profile))


def test_memory_that_grows_with_each_opening_is_called_a_leak() -> None:
    profile = left(20 * MB, 25 * MB, 26 * MB, 27.05 * MB, 28 * MB)
    found = leak(profile)
    assert found is not None
    assert found.bytes == pytest.approx(1.005 * MB)
    assert found.certain
    assert "it leaks" in said(profile)["opening and closing once more"]


@pytest.mark.parametrize(
    "sizes",
    [
        (20, 25, 25, 25, 25),  # what the first opening loaded stays, and is no leak
        (20, 25, 29, 24, 26),  # up and down
        (20, 28, 27, 26, 25),  # less each time
        (20, 25, 25.001, 25.002, 25.003),  # less than a page
    ],
)
def test_memory_that_scatters_is_not(sizes: tuple[float, ...]) -> None:
    profile = left(*(size * MB for size in sizes))
    found = leak(profile)
    assert found is not None
    assert not found.certain
    assert "no leak is seen" in said(profile)["opening and closing once more"]


def test_a_slope_needs_three_readings_after_the_first() -> None:
    assert leak(left(1, 2, 3)) is None
    assert leak(made_of([sample("unloaded", repeat, None) for repeat in range(5)])) is None


@given(st.lists(st.integers(0, 10**9), min_size=4, max_size=9))
def test_the_line_is_least_squares(sizes: list[int]) -> None:
    found = leak(left(*sizes))
    assert found is not None
    slope = np.polyfit(np.arange(len(sizes) - 1), np.array(sizes[1:], float), 1)[0]
    assert found.bytes == pytest.approx(slope, rel=1e-6, abs=1.0)
    assert found.low < found.bytes < found.high


def test_noise_alone_is_seldom_called_a_leak() -> None:
    chance = np.random.default_rng(0)
    runs = [leak(left(0, *(50 * MB + chance.normal(0, MB, 4)))) for _ in range(2000)]
    share = sum(found is not None and found.certain for found in runs) / len(runs)
    assert 0.015 < share < 0.035  # one side of a 95 % interval


def texts(repeats: int = 3, state: int = 1000, kept: int = 1100) -> list[Sample]:
    """Openings with prompts of 64 and 256 tokens and an answer of 32."""
    found = []
    for repeat in range(repeats):
        for what, tokens, work in (("prefilled", 64, 5), ("prefilled", 256, 9), ("decoded", 288, 9)):
            size = 30 * MB + work * MB + kept * tokens + repeat
            found.append(sample(what, repeat, size, tokens, state_bytes=state * tokens))
    return found


def test_a_token_takes_what_states_say_and_what_was_measured_beside_it() -> None:
    found = growth(made_of(texts()))
    assert found is not None
    assert (found.shorter, found.longer, found.states, found.measured) == (256, 288, 1000, 1100)
    words = said(made_of(texts()))
    assert words["a token, by the manifest"].startswith("takes 1,000 bytes of states, between 256 and 288")
    assert words["a token, as measured"].startswith("takes 1,100 bytes of anonymous memory")


def test_growth_is_not_told_where_it_was_not_measured() -> None:
    assert growth(made_of([sample("prefilled", 0, MB, 64), sample("decoded", 0, MB, 96)])) is None
    assert growth(made_of([sample("unloaded", 0, MB)])) is None
    unread = made_of([sample(item.what, 0, None, item.detail["tokens"], state_bytes=8) for item in texts(1)])
    found = growth(unread)
    assert found is not None
    assert found.measured is None
    assert "a token, as measured" not in said(unread)


GROUP = {"version": 2, "limit_bytes": 150 * MB, "used_bytes": 90 * MB}


def test_what_stands_around_is_told() -> None:
    profile = made_of(
        [
            sample("before load", 0, MB, control_group=GROUP | {"used_bytes": 70 * MB}, available_bytes=900 * MB),
            sample("decoded", 0, MB, control_group=GROUP, available_bytes=800 * MB, android={"graphics_bytes": 3 * MB}),
            sample("unloaded", 0, MB, control_group=None, available_bytes=890 * MB),
        ]
    )
    words = said(profile)
    assert words["memory that is available"] == "900 MB before, 890 MB after"
    assert words["control group"] == "a limit of 150 MB, at most 90 MB used by all that is in it"
    assert words["memory, decoded, Android's"] == "graphics 3.0 MB"


def trial(limit: int) -> Sample:
    detail = {"by": "cgroup", "survived": True, "error": ""}
    return Sample(of="limit", round=0, what="trial", measured={"limit_bytes": [float(limit)]}, detail=detail)


def test_the_picture_has_a_level_for_the_least_limit_and_words_for_one_that_is_far_or_does_not_bind() -> None:
    near = made_of([sample("loaded", 0, MB, control_group=GROUP)], 300 * MB, trial(300 * MB))
    assert {limit.bytes for limit in known_limits(near)} == {300 * MB, 150 * MB}
    page = render(near)
    assert page.count('<line class="level"') == 2  # the limit, and where it was opened
    assert ">limit of the control group, 150 MB</text>" in page
    assert "Not drawn: limit tried (cgroup), 300 MB." in page
    far = render(made_of([sample("loaded", 0, MB, control_group=GROUP | {"limit_bytes": 8000 * MB})]))
    assert far.count('<line class="level"') == 1
    assert "Not drawn: limit of the control group, 8,000 MB." in far


def test_trials_of_a_search_are_no_limit_of_a_run() -> None:
    assert known_limits(made_of([sample("loaded", 0, MB)], None, trial(300 * MB))) == []
