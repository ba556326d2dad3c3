"""A measurement holds every sample and what it was taken on; averages are the printer's; nothing is invented."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from tiny_models import save

from edgepress.bundle.manifest import bundle_hash
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import Measurement, bench, format_measurement
from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.host import read_host
from edgepress.runtime.machine.memory import Memory, read_memory
from edgepress.runtime.machine.metering.readings import Rail, Reading
from edgepress.runtime.measures.bench import bench_turns, default_prompt_lengths


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    export(save("llama", directory / "checkpoint"), out=directory / "bundle", recipe="int4")
    return directory / "bundle"


def measured(bundle: Path, **arguments: object) -> Measurement:
    settings = {
        "prompt_lengths": (8, 20), "decode_tokens": 6, "repetitions": 3, "warmup": 2, "threads": 1, "prepared": False
    }  # fmt: skip
    return bench(bundle, **(settings | arguments))  # type: ignore[arg-type] - keywords of any kind are the point


def test_a_measurement_holds_every_sample_and_what_it_was_taken_on(bundle: Path) -> None:
    turns: list[int] = []
    result = measured(bundle, progress=turns.append)
    assert sum(turns) == bench_turns((8, 20), 3, 2)
    assert [prefill.length for prefill in result.prefill] == [8, 20]
    for prefill in result.prefill:
        assert (len(prefill.seconds), len(prefill.warmup_seconds)) == (3, 2)
        assert min(prefill.seconds) > 0
    decode = result.decode
    assert decode.prompt_length == 20
    assert np.shape(decode.step_seconds) == (3, 6)
    assert np.shape(decode.warmup_step_seconds) == (2, 6)
    for steps, run in zip(decode.step_seconds, decode.run_seconds, strict=True):
        assert 0 < run < sum(steps)
    assert result.bundle_hash == bundle_hash(bundle)
    assert {"edgepress", "onnxruntime", "numpy", "python", "tokenizers"} <= result.versions.keys()
    assert result.settings.threads == 1
    assert result.load_seconds > 0
    # key and value of 3 layers, 2 heads of 16 float32 each, for the longest prompt and what is decoded after it
    assert result.cache_bytes == 2 * 3 * 2 * 16 * 4 * (20 + 6)
    assert result.started.endswith("+00:00")
    assert result.host.cpu
    assert json.loads(json.dumps(result.to_json(), allow_nan=False))["decode"]["prompt_length"] == 20


def test_the_printer_makes_the_averages(bundle: Path) -> None:
    result = measured(bundle)
    decode = replace(result.decode, step_seconds=((0.01,) * 99 + (0.05,),), run_seconds=(1.0,))
    text = format_measurement(replace(result, decode=decode))
    assert "96.2 tokens/s" in text  # 100 steps in 1.04 s
    assert "10.00 ms (p50)" in text
    assert "3.8% of a step" in text


@pytest.mark.parametrize("available", [True, False])
def test_energy_is_measured_or_the_reason_is_given(
    bundle: Path, available: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meter:
        """A counter of three watts."""

        rails = (Rail("all", "nothing real", "energy", 1e-6, 0.0),)
        began = perf_counter()

        def read(self) -> list[Reading]:
            now = perf_counter()
            return [Reading("all", now, 3.0 * (now - self.began))]

        def trouble(self) -> str | None:
            return None

        def close(self) -> None:
            pass

    source = EnergySource("fake", "nothing real", Meter)
    found: tuple[list[tuple[EnergySource, Meter]], dict[str, str]]
    found = ([(source, Meter())], {}) if available else ([], {"fake": "no counter"})
    monkeypatch.setattr(sys.modules[Measurement.__module__], "open_meters", lambda _names: found)
    result = measured(bundle)
    if available:
        total = result.energy.decode[0].total
        assert total is not None
        for joules, steps in zip(total, result.decode.step_seconds, strict=True):
            assert joules.value >= 3.0 * sum(steps)
        mean = sum(joules.value for joules in total) / (3 * 6)
        assert f"{mean:.3g} ± " in format_measurement(result)
    else:
        assert result.energy.decode == ()
        assert result.energy.unavailable == {"fake": "no counter"}
        assert "not measured: fake: no counter" in format_measurement(result)


def test_an_unknown_energy_source_is_refused(bundle: Path) -> None:
    with pytest.raises(InputError, match="no energy source 'sun'"):
        measured(bundle, energy=("sun",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt_lengths": (125,)}, "125 tokens and 6 decoded ones do not fit in the context of 128"),
        ({"prompt_lengths": (0,)}, "a prompt length is 0"),
        ({"decode_tokens": 0}, "decode_tokens is 0"),
        ({"repetitions": 0}, "repetitions is 0"),
        ({"warmup": -1}, "warmup is -1"),
    ],
)
def test_what_cannot_be_measured_is_refused(bundle: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measured(bundle, **arguments)


def test_default_prompts_fit_the_context(bundle: Path) -> None:
    assert default_prompt_lengths(bundle, 16) == (64,)
    assert default_prompt_lengths(bundle, 100) == (28,)


def test_memory_sees_what_the_process_takes() -> None:
    before = read_memory()
    taken = np.ones(8 << 20)  # 64 MiB
    after = read_memory()
    assert taken.size
    for name in ("rss", "pss", "anonymous"):
        old, new = getattr(before, name), getattr(after, name)
        if old is not None:
            assert new - old > 60e6
    assert after.peak_rss is None or after.rss is None or after.peak_rss >= after.rss


def test_memory_is_unknown_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("edgepress.runtime.machine.memory._ROLLUP", tmp_path / "none")
    monkeypatch.setattr("edgepress.runtime.machine.memory._STATUS", tmp_path / "none")
    found = read_memory()
    assert found == Memory(None, None, None, found.peak_rss)


def test_the_host_is_read_from_proc_and_sys(tmp_path: Path) -> None:
    cpu = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    cpu.mkdir(parents=True)
    (cpu / "scaling_governor").write_text("schedutil\n")
    (cpu / "cpuinfo_max_freq").write_text("2840000\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nHardware\t: Board\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:        8000 kB\n")
    host = read_host(tmp_path)
    assert (host.cpu, host.features) == ("Board", ("asimd", "asimddp", "fp", "i8mm"))
    assert (host.governor, host.max_mhz, host.memory_bytes) == ("schedutil", 2840.0, 8_192_000)


def test_a_host_that_tells_nothing_is_still_described(tmp_path: Path) -> None:
    host = read_host(tmp_path)
    assert (host.features, host.governor, host.max_mhz, host.memory_bytes) == ((), None, None, None)
    assert host.cpu
