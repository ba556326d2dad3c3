"""How a bundle is opened here: what is measured is kept and used, what the user says wins, limits are respected."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress import cores
from edgepress.cli import main
from edgepress.cores import quota, usable_cores
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.runtime.generation.speculation.costs import StepCosts
from edgepress.runtime.measures.bench import bench
from edgepress.runtime.prepared import prepare
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.tuning import measure
from edgepress.runtime.tuning.cores import allowed_cores, strong_cores
from edgepress.runtime.tuning.record import Choice, Steps, Tuning, here, read_tuning, write_tuning


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    export("demo", out=folder / "bundle", target="x86-cpu", recipe="int4")
    return folder / "bundle"


@pytest.fixture
def form(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    return prepare(bundle)


# ---- what may be used ------------------------------------------------------------------------------------------------


def group(root: Path, path: str, **files: str) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


def test_the_least_quota_of_a_group_and_those_above_it_counts(tmp_path: Path) -> None:
    assert quota(tmp_path) is None  # no control groups at all
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/pod/container\n")
    group(tmp_path, "pod/container", cpu__max="max 100000\n")
    assert quota(tmp_path) is None
    group(tmp_path, "pod", cpu__max="250000 100000\n")
    assert quota(tmp_path) == 2.5
    group(tmp_path, "pod/container", cpu__max="50000 100000\n")
    assert quota(tmp_path) == 0.5
    group(tmp_path, "pod/container", cpu__max="what is this\n")
    assert quota(tmp_path) == 2.5


def test_quotas_of_the_first_version_count_too(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/a\n3:cpu,cpuacct:/a\n")
    group(tmp_path, "cpu/a", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert quota(tmp_path) is None
    group(tmp_path, "cpu", cpu__cfs_quota_us="150000\n", cpu__cfs_period_us="100000\n")
    assert quota(tmp_path) == 1.5


@pytest.mark.parametrize(("share", "most"), [(None, 99), (2.5, 2), (1.0, 1), (0.2, 1)])
def test_whole_cores_of_a_quota_are_usable(share: float | None, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "quota", lambda: share)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)
    assert usable_cores() == min(8, most)


def phone(root: Path, capacities: Sequence[int]) -> Path:
    folder = root / "sys/devices/system/cpu"
    folder.mkdir(parents=True)
    (folder / "online").write_text(f"0-{len(capacities) - 1}\n")
    for core, capacity in enumerate(capacities):
        (folder / f"cpu{core}").mkdir()
        (folder / f"cpu{core}" / "cpu_capacity").write_text(f"{capacity}\n")
    return root


def test_strong_cores_are_those_of_the_strongest_cluster_that_is_allowed(tmp_path: Path) -> None:
    root = phone(tmp_path, [300, 300, 700, 700, 1024])
    assert strong_cores((0, 1, 2, 3, 4), root) == (4,)
    assert strong_cores((0, 1, 2, 3), root) == (2, 3)  # a cpuset without the strongest
    assert strong_cores((1,), root) == (1,)
    assert strong_cores((0, 1), tmp_path / "nothing there") == (0, 1)
    assert strong_cores(()) == ()


# ---- what is chosen --------------------------------------------------------------------------------------------------


Steps3 = dict[tuple[int, bool, bool], float]  # seconds by threads, whether kept to cores, whether spinning


class Clock:
    """Sessions that take as long as a rule says: :func:`measure._timed` reads this in the place of the time."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, step: dict[tuple[int, bool, bool], float], pieces: dict
    ) -> None:
        self.how: Choice | None = None
        self.step, self.pieces, self.opened = step, pieces, list[Choice]()
        monkeypatch.setattr(measure, "_REST", 0.0)
        monkeypatch.setattr(measure, "_open", self.open)
        monkeypatch.setattr(measure, "_timed", self.time)
        monkeypatch.setattr(measure, "measure_steps", lambda _session: StepCosts({1: 1.0, 2: 1.1}, exact=2))

    def open(self, config: object, how: Choice, context: int) -> CpuSession:
        clock = self
        del config, context
        self.opened.append(how)

        class Session:
            def reset(self) -> None:
                clock.how = how

            def append(self, tokens: Sequence[int]) -> None:
                clock.length = len(tokens)

        return Session()  # type: ignore[return-value] # it has what is used

    def time(self, action: object) -> float:
        action()  # type: ignore[operator]
        assert self.how is not None
        how = self.how
        if self.length > 1:
            return self.pieces.get(how.prefill_chunk, 9.0)
        return self.step.get((how.threads, bool(how.cores), how.spinning), 9.0)


CASES = [
    # seconds of a step by threads, kept to strong cores, spinning; of a prompt by its pieces; what is chosen
    ({(1, False, True): 1.0, (2, False, True): 0.6, (2, False, False): 0.8}, {64: 1.0, 128: 0.8}, (2, (), True, 128)),
    ({(1, False, True): 1.0, (2, False, True): 0.98}, {64: 1.0, 256: 0.98}, (1, (), True, 64)),
    ({(2, False, True): 0.6, (2, False, False): 0.61}, {128: 1.0, 256: 0.99}, (2, (), False, 128)),
    ({(2, False, True): 0.6, (2, True, True): 0.4, (2, True, False): 0.5}, {64: 1.0}, (2, (2, 3), True, 64)),
]


@pytest.mark.parametrize(("steps", "pieces", "chosen"), CASES)
def test_the_cheapest_within_three_percent_is_chosen(
    bundle: Path,
    steps: Steps3,
    pieces: dict[int, float],
    chosen: tuple[int, tuple[int, ...], bool, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Clock(monkeypatch, steps, pieces)
    monkeypatch.setattr(measure, "allowed_cores", lambda: (0, 1, 2, 3))
    monkeypatch.setattr(measure, "usable_cores", lambda: 4)
    monkeypatch.setattr(measure, "strong_cores", lambda _allowed: (2, 3))
    found = measure.tune(bundle)
    assert found.choice == Choice(*chosen)
    assert found.steps == {str(chosen[0]): Steps([(1, 1.0), (2, 1.1)], 2)}
    lines = measure.describe(found)
    said = f"opened here with {chosen[0]} thread{'s' * (chosen[0] > 1)}"
    assert lines[0].startswith((f"{said},", f"{said} on cores "))
    assert len(lines) == 1 + len(found.samples)


def test_a_quota_of_one_core_leaves_one_thread(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, {(1, False, True): 1.0, (4, False, True): 0.1}, {64: 1.0})
    monkeypatch.setattr(measure, "usable_cores", lambda: 1)
    choice = measure.tune(bundle).choice
    assert choice is not None
    assert choice.threads == 1
    assert {how.threads for how in clock.opened} == {1}


# ---- what is kept and used -------------------------------------------------------------------------------------------

counts = st.integers(1, 64)
seconds = st.floats(1e-6, 10)
records = st.builds(
    Tuning,
    st.just(1),
    st.just(allowed_cores()),
    st.just(usable_cores()),
    st.none() | st.builds(Choice, counts, st.lists(counts, max_size=4).map(tuple), st.booleans(), counts),
    st.dictionaries(st.text(max_size=9), st.lists(seconds, max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.builds(Steps, st.lists(st.tuples(counts, seconds), min_size=1), counts)),
)


@given(records)
@settings(max_examples=25, deadline=None)
def test_a_record_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, record: Tuning) -> None:
    folder = tmp_path_factory.mktemp("record")
    write_tuning(folder, record)
    assert read_tuning(folder) == record
    assert [path.name for path in folder.iterdir()] == ["tuning.json"]


def test_a_record_of_other_cores_or_none_at_all_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_tuning(None) == read_tuning(tmp_path) == here()
    write_tuning(tmp_path, Tuning(1, (97,), 1, Choice(1, (), True, 64)))
    assert read_tuning(tmp_path) == here()
    assert not caplog.records
    (tmp_path / "tuning.json").write_text('{"tuning": 1, "allowed": [0], "usable": 0}')
    assert read_tuning(tmp_path) == here()
    assert "how the bundle is best opened is not known" in caplog.text
    (tmp_path / "tuning.json").unlink()
    write_tuning(tmp_path, here())
    (tmp_path / "tuning.json").chmod(0o666)  # anybody could have written it
    caplog.clear()
    assert read_tuning(tmp_path) == here()
    assert "may be written by others" in caplog.text


def test_what_was_measured_is_how_a_bundle_opens_unless_the_user_says_otherwise(bundle: Path, form: Path) -> None:
    most = len(os.sched_getaffinity(0))
    core = min(os.sched_getaffinity(0))
    tuned = Tuning(1, allowed_cores(), usable_cores(), Choice(2, (core,), spinning=False, prefill_chunk=7))
    write_tuning(form, tuned)
    model = load(bundle)
    assert (model.threads, model.session.prefill_chunk) == (2, 7)
    assert model.session.prepared.directory == form
    options = model.session.open_graph.session.get_session_options()  # type: ignore[attr-defined] # it is the CPU's
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.intra_op_thread_affinities") == str(core + 1)
    assert load(bundle, threads=1).threads == 1
    assert load(bundle, prefill_chunk=16).session.prefill_chunk == 16
    assert load(bundle, prepared=False).threads == most
    few = {"prompt_lengths": [8], "decode_tokens": 2, "repetitions": 1, "warmup": 0}
    found = bench(bundle, **few).settings  # type: ignore[arg-type]
    assert (found.threads, found.prefill_chunk) == (2, 7)
    tokens = [5, 17, 200, 33, 8, 90, 121, 64, 7, 250, 11]
    np.testing.assert_allclose(model.prefill(tokens), load(bundle, threads=1).prefill(tokens), atol=0.2)
    with pytest.raises(InputError, match="threads is 0"):
        load(bundle, threads=0)


def test_costs_of_steps_are_measured_once_a_machine(bundle: Path, form: Path) -> None:
    measured = load(bundle, threads=1).step_costs
    assert read_tuning(form).steps["1"].costs() == measured
    marked = StepCosts({1: 1.0, 2: 1.25}, exact=2)
    write_tuning(form, Tuning(1, allowed_cores(), usable_cores(), None, {}, {"1": Steps.of(marked)}))
    assert load(bundle, threads=1).step_costs == marked


def test_prepare_measures_says_and_keeps(
    bundle: Path, form: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["prepare", str(bundle), "--no-tune"]) == 0
    assert not (form / "tuning.json").exists()
    monkeypatch.setattr(measure, "_ROUNDS", 1)
    monkeypatch.setattr(measure, "_REST", 0.0)
    assert main(["prepare", str(bundle)]) == 0
    assert "opened here with" in capsys.readouterr().out
    kept = json.loads((form / "tuning.json").read_text())
    assert kept["choice"]["threads"] in (1, 2, 4, usable_cores())
    assert set(kept["steps"]) == {str(kept["choice"]["threads"])}
    assert main(["prepare", str(bundle), "--check"]) == 0
