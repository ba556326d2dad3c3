"""Weights on their way to the data file: the right bytes in their place on any number of threads; and what stops it."""

import errno
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import oracles
import pytest
import torch
from safetensors.torch import save_file

from edgepress.errors import InputError
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.bundle import stream
from edgepress.exporter.bundle.stream import write_weights
from edgepress.exporter.methods.kinds import load_method
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.plan.plan import Plan, PlannedTensor, Region
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.part import Part

INT4, INT8 = Scheme("rtn", 4, 32), Scheme("rtn", 8, 16)


def _checkpoint(directory: Path, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text("{}")
    return Checkpoint.open(directory)


def _plan(entries: Sequence[tuple[Weight, Scheme | None]]) -> Plan:
    planned, end = [], 0

    def place(nbytes: int) -> Region:
        nonlocal end
        offset = -(-end // 4096) * 4096
        end = offset + nbytes
        return Region(offset, nbytes)

    for weight, scheme in entries:
        if scheme is None:
            regions = {"data": place(4 * math.prod(weight.shape))}
        else:
            rows, columns = weight.shape
            regions = {
                "values": place(math.prod(scheme.values_shape(rows, columns))),
                "scales": place(4 * math.prod(scheme.scales_shape(rows, columns))),
            }
        planned.append(PlannedTensor(weight, scheme, "test", 0, regions))
    return Plan(tuple(planned), (), end, 1, 4, ())


def _whole(name: str, shape: tuple[int, ...], plus: float = 0.0) -> Weight:
    return Weight(name, "linear", shape, (Part(name, 0, shape[0]),), plus)


def _mixed(directory: Path) -> tuple[Checkpoint, Plan, dict[str, torch.Tensor]]:
    """One of everything: both schemes, fused and transposed parts, odd columns, one dimension, an offset."""
    torch.manual_seed(0)
    tensors = {
        "q": torch.randn(40, 72).bfloat16(),
        "k": torch.randn(9, 72).bfloat16(),
        "conv": torch.randn(50, 33),
        "wide": torch.randn(3, 500).half(),
        "norm": torch.randn(72).bfloat16(),
        "zero": torch.zeros(4, 32),
    }
    fused = Weight("qk", "linear", (49, 72), (Part("q", 0, 40), Part("k", 0, 9)))
    conv = Weight("conv", "linear", (33, 50), (Part("conv", 20, 33, True), Part("conv", 0, 20, True)))
    plan = _plan(
        [
            (fused, INT4),
            (conv, INT8),
            (_whole("wide", (3, 500)), None),
            (_whole("norm", (72,), plus=1.0), None),
            (_whole("zero", (4, 32)), INT4),
        ]
    )
    return _checkpoint(directory, tensors), plan, tensors


def _expected(tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    found = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    conv = found["conv"].T
    return {
        "qk": np.concatenate([found["q"], found["k"]]),
        "conv": np.concatenate([conv[20:], conv[:20]]),
        "wide": found["wide"],
        "norm": found["norm"] + np.float32(1),
        "zero": found["zero"],
    }


def _region(path: Path, region: Region) -> bytes:
    return path.read_bytes()[region.offset : region.offset + region.nbytes]


def test_every_tensor_is_at_its_place(tmp_path: Path) -> None:
    checkpoint, plan, tensors = _mixed(tmp_path / "m")
    path = tmp_path / "data"
    reports = write_weights(checkpoint, plan, path, threads=2)
    assert path.stat().st_size == plan.data_bytes
    assert list(reports) == ["qk", "conv", "wide", "norm", "zero"]
    covered = np.zeros(plan.data_bytes, bool)
    for planned in plan.tensors:
        x, scheme, report = _expected(tensors)[planned.weight.name], planned.scheme, reports[planned.weight.name]
        for region in planned.regions.values():
            covered[region.offset : region.offset + region.nbytes] = True
        if scheme is None:
            assert _region(path, planned.regions["data"]) == x.tobytes()
            assert (report.sqnr_db, report.max_abs_error) == (None, 0)
            continue
        values = np.frombuffer(_region(path, planned.regions["values"]), np.uint8).reshape(
            scheme.values_shape(*x.shape)
        )
        scales = np.frombuffer(_region(path, planned.regions["scales"]), "<f4").reshape(scheme.scales_shape(*x.shape))
        whole = load_method("rtn").quantize(x, scheme, None)
        np.testing.assert_array_equal(values, whole.values)
        np.testing.assert_array_equal(scales, whole.scales)
        error = x - oracles.dequantize(values, scales, scheme.bits, scheme.block_size, x.shape[1])
        assert report.max_abs_error == pytest.approx(np.abs(error).max(), rel=1e-5)
        if planned.weight.name == "zero":
            assert report.sqnr_db is None
        else:
            expected = 10 * math.log10(np.square(x, dtype=np.float64).sum() / np.square(error).sum())
            assert report.sqnr_db == pytest.approx(expected, abs=1e-3)
    assert not np.frombuffer(path.read_bytes(), np.uint8)[~covered].any()


def test_same_bytes_and_report_on_any_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, plan, _ = _mixed(tmp_path / "m")
    monkeypatch.setattr(stream, "_CHUNK", 200)
    monkeypatch.setattr(stream, "_TRANSPOSED_CHUNK", 300)
    first = write_weights(checkpoint, plan, tmp_path / "1", threads=1)
    for threads in (2, 7):
        assert write_weights(checkpoint, plan, tmp_path / str(threads), threads=threads) == first
        assert (tmp_path / str(threads)).read_bytes() == (tmp_path / "1").read_bytes()


def test_same_bytes_in_chunks_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, plan, _ = _mixed(tmp_path / "m")
    write_weights(checkpoint, plan, tmp_path / "whole", threads=1)
    for chunk in (1, 150, 1000):
        monkeypatch.setattr(stream, "_CHUNK", chunk)
        monkeypatch.setattr(stream, "_TRANSPOSED_CHUNK", chunk)
        write_weights(checkpoint, plan, tmp_path / str(chunk), threads=2)
        assert (tmp_path / str(chunk)).read_bytes() == (tmp_path / "whole").read_bytes()


def test_progress_adds_up_in_the_calling_thread(tmp_path: Path) -> None:
    checkpoint, plan, tensors = _mixed(tmp_path / "m")
    told: list[int] = []

    def progress(elements: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        told.append(elements)

    write_weights(checkpoint, plan, tmp_path / "data", threads=3, progress=progress)
    assert sum(told) == sum(tensor.numel() for tensor in tensors.values())


def test_huge_weights_have_a_report(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path / "m", {"a": torch.randn(4, 32) * 1e37})
    report = write_weights(checkpoint, _plan([(_whole("a", (4, 32)), INT4)]), tmp_path / "data", threads=1)["a"]
    assert report.sqnr_db is not None
    assert 15 < report.sqnr_db < 30


@pytest.mark.parametrize("scheme", [INT4, None])
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite(tmp_path: Path, scheme: Scheme | None, bad: str) -> None:
    weights = torch.zeros(40, 32)
    weights[7, 5] = float(bad)
    weights[39, 0] = float("nan")
    checkpoint = _checkpoint(tmp_path / "m", {"a": weights})
    nans = 2 if bad == "nan" else 1
    message = rf"a holds {nans} NaN and {2 - nans} infinite values, the first at \[7, 5\]"
    with pytest.raises(InputError, match=message):
        write_weights(checkpoint, _plan([(_whole("a", (40, 32)), scheme)]), tmp_path / "data", threads=2)


def test_nan_in_a_vector(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path / "m", {"a": torch.tensor([0, 0, math.nan])})
    with pytest.raises(InputError, match=r"a holds 1 NaN and 0 infinite values, the first at \[2\]"):
        write_weights(checkpoint, _plan([(_whole("a", (3,)), None)]), tmp_path / "data", threads=1)


def _fails_with(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_full_disk_is_noticed_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, plan, _ = _mixed(tmp_path / "m")
    monkeypatch.setattr(os, "posix_fallocate", _fails_with(errno.ENOSPC), raising=False)
    monkeypatch.setattr(stream, "_write_chunk", pytest.fail)
    with pytest.raises(
        InputError, match=rf"no room for {plan.data_bytes} bytes of weights \(\d+ free: .*\); free some"
    ):
        write_weights(checkpoint, plan, tmp_path / "data", threads=1)


def test_disk_that_fills_up_during_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, plan, _ = _mixed(tmp_path / "m")
    monkeypatch.setattr(stream, "_write", _fails_with(errno.ENOSPC))
    with pytest.raises(InputError, match=r"has no room for"):
        write_weights(checkpoint, plan, tmp_path / "data", threads=2)


def test_file_system_without_fallocate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, plan, _ = _mixed(tmp_path / "m")
    monkeypatch.setattr(os, "posix_fallocate", _fails_with(errno.EOPNOTSUPP), raising=False)
    write_weights(checkpoint, plan, tmp_path / "data", threads=1)
    assert (tmp_path / "data").stat().st_size == plan.data_bytes


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    checkpoint, plan, _ = _mixed(tmp_path / "m")
    with pytest.raises(InputError, match=r"No such file or directory; choose a writable output"):
        write_weights(checkpoint, plan, tmp_path / "none" / "data", threads=1)
    (tmp_path / "data").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"File exists; choose"):
        write_weights(checkpoint, plan, tmp_path / "data", threads=1)
    assert (tmp_path / "data").read_bytes() == b"mine"


def test_unknown_method_is_said_before_the_file_is_made(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path / "m", {"a": torch.zeros(2, 32)})
    plan = _plan([(_whole("a", (2, 32)), Scheme("rnt", 4, 32))])
    with pytest.raises(InputError, match=r"unknown compression method 'rnt'"):
        write_weights(checkpoint, plan, tmp_path / "data", threads=1)
    assert not (tmp_path / "data").exists()


def test_checkpoint_that_goes_away_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    checkpoint, plan, _ = _mixed(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"cannot read .*model\.safetensors: No such file"):
        write_weights(checkpoint, plan, tmp_path / "data", threads=2)


def test_an_error_of_the_caller_is_its_own(tmp_path: Path) -> None:
    checkpoint, plan, _ = _mixed(tmp_path / "m")

    def progress(_: int) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        write_weights(checkpoint, plan, tmp_path / "data", threads=1, progress=progress)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_stops_the_other_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    checkpoint, plan, _ = _mixed(tmp_path / "m")
    monkeypatch.setattr(stream, "_CHUNK", 1)  # a hundred chunks and more
    done: list[int] = []

    def write(_: object, chunk: stream._Chunk, *__: object) -> stream._Sums:
        done.append(chunk.row)
        if len(done) == 3:
            raise error("the third")
        return stream._Sums(0, 0, 0)

    monkeypatch.setattr(stream, "_write_chunk", write)
    with pytest.raises(error, match="the third"):
        write_weights(checkpoint, plan, tmp_path / "data", threads=1)
    assert len(done) == 3


def test_an_interrupt_stops_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, plan, _ = _mixed(tmp_path / "m")
    monkeypatch.setattr(stream, "_PROGRESS_SECONDS", 0.01)
    monkeypatch.setattr(stream, "_CHUNK", 1)
    done: list[int] = []

    def write(_: object, chunk: stream._Chunk, *__: object) -> stream._Sums:
        done.append(chunk.row)
        threading.Event().wait(0.02)
        return stream._Sums(0, 0, 0)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "_write_chunk", write)
    with pytest.raises(KeyboardInterrupt):
        write_weights(checkpoint, plan, tmp_path / "data", threads=2, progress=interrupt)
    assert len(done) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgepress-weights")]


def test_chunks_bound_what_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan, _ = _mixed(tmp_path / "m")
    monkeypatch.setattr(stream, "_CHUNK", 400)
    monkeypatch.setattr(stream, "_TRANSPOSED_CHUNK", 400)
    for chunk in stream._chunks(plan.tensors, lambda part: part.transposed):
        columns = math.prod(chunk.tensor.weight.shape[1:])
        assert chunk.stop - chunk.start == 1 or (chunk.stop - chunk.start) * columns <= 400
