"""A measured roofline: a graph's work against a plan's count of it, figures from made-up times, and the command."""

import json
from math import ceil
from pathlib import Path
from typing import Any

import onnx
import pytest
from tiny_models import save

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.decide.on_device import estimate_on
from edgepress.runtime.config import read_config
from edgepress.runtime.profile.records import SCHEMA, Header, Profile, Record, Round, Sample, Trouble
from edgepress.runtime.profile.roofline.fitting import fit
from edgepress.runtime.profile.roofline.kernels import beyond_caches, float32, quantized
from edgepress.runtime.profile.roofline.work import Scheme, read_work
from edgepress.targets.devices import Figure, Roofline, find_roofline

AT = 64  # tokens before, of a plan's estimate


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose context holds a prompt after other tokens."""
    found = save("llama", tmp_path_factory.mktemp("model") / "checkpoint")
    config = json.loads((found / "config.json").read_text())
    (found / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    return found


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    export(checkpoint, out=checkpoint.parent / "bundle", recipe="int4", target="x86-cpu")
    return checkpoint.parent / "bundle"


def test_work_is_what_the_plan_counted(checkpoint: Path, bundle: Path) -> None:
    def board(bytes_per_second: float, operations: float) -> Roofline:
        memory, cores = (Figure(value, "made up", "2026-01-01") for value in (bytes_per_second, operations))
        return Roofline(
            name="", soc="", cores="", bytes_per_second=memory,
            int8_operations_per_second=cores, float32_operations_per_second=cores,
        )  # fmt: skip

    prepared = decide(str(checkpoint), target="x86-cpu", recipe="int4")
    config = read_config(bundle)
    moved, operations = read_work(config).decode(config, AT)
    assert moved == pytest.approx(1e3 / estimate_on(prepared, board(1e3, 1e30)).decode[AT].tokens_per_second)
    assert operations == pytest.approx(1e3 / estimate_on(prepared, board(1e30, 1e3)).decode[AT].tokens_per_second)


def test_a_prompt_reads_weights_once_a_chunk_and_computes_what_follows_attention_once(
    checkpoint: Path, bundle: Path
) -> None:
    sizes = json.loads((checkpoint / "config.json").read_text())
    config = read_config(bundle)
    work = read_work(config)
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"] * sizes["head_dim"]
    # of the last layer only what attention writes goes through output, MLP and head, for the last token
    assert work.last_weights == hidden * (heads + 3 * sizes["intermediate_size"] + sizes["vocab_size"])
    for length in (1, 128, 129, 300):
        moved, operations = work.prefill(config, length)
        states = moved - ceil(length / 128) * work.weight_bytes
        assert states == work.decode(config, length)[0] - work.weight_bytes
        pairs = sum(range(length))  # each token sees those before it
        attention = 4 * heads * sizes["num_hidden_layers"] * pairs
        assert operations == 2 * (work.weights * length + work.last_weights) + attention


def test_a_product_alone_has_the_bytes_of_the_bundle_s_own(bundle: Path) -> None:
    scheme = read_work(read_config(bundle)).scheme
    graph = onnx.load(bundle / "model.onnx", load_external_data=False).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    node = next(node for node in graph.node if node.op_type == "MatMulNBits")
    sizes = {attribute.name: attribute.i for attribute in node.attribute}
    widths = {onnx.TensorProto.UINT8: 1, onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.BFLOAT16: 2}
    stored = 0
    for name in node.input[1:]:
        tensor = constants[casts.get(name, name)]
        count = widths.get(tensor.data_type, 4)
        for size in tensor.dims:
            count *= size
        stored += count
    assert quantized(scheme, sizes["K"], sizes["N"], threads=1).nbytes == stored


@pytest.mark.parametrize("scheme", [Scheme(4, 32, 4, False, 2), Scheme(8, 64, 0, True, 4), Scheme(2, 32, 0, True, 2)])
def test_onnxruntime_runs_products_alone(scheme: Scheme) -> None:
    product = quantized(scheme, 128, 64, threads=1)
    assert len(product.seconds(rows=3, repeats=2)) == 2
    assert product.operations(3) == 2 * 3 * 128 * 64


def test_a_float32_product_is_one() -> None:
    product = float32(64, threads=1)
    assert product.nbytes == 4 * 64 * 64
    assert len(product.seconds(rows=2, repeats=1)) == 1


def test_a_weight_is_larger_than_the_largest_cache(tmp_path: Path) -> None:
    assert beyond_caches(tmp_path) == 64 << 20
    (tmp_path / "index9" / "size").mkdir(parents=True)  # one that cannot be read
    for number, words in enumerate(("48K\n", "30720K\n", "strange")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(words)
    assert beyond_caches(tmp_path) == 120 << 20
    (tmp_path / "index2" / "size").write_text("1G")
    assert beyond_caches(tmp_path) == 512 << 20


def made_up(*, step: float = 0.0125, first: float = 0.110, marks: tuple[str, ...] = (), **changes: Any) -> Profile:
    """10 GB/s and 100 thousand million operations/s; a step of 100 MB, a prompt of 10 thousand million operations."""
    clusters = [{"cores": [0, 1], "name": "Cortex-A76"}]
    header: dict[str, Any] = {
        "schema": SCHEMA, "started": "2026-01-02T03:04:05+00:00", "bundle": "b", "bundle_hash": None,
        "bundle_bytes": 1, "device": "ssh:board", "versions": {"edgepress": "9.9"}, "settings": {"threads": 2},
        "description": {"model": "Board 5", "soc": "X1", "clusters": clusters, "memory_bytes": 8_000_000_000},
    }  # fmt: skip
    alone = {"bytes": 1_000_000_000, "operations": 10_000_000_000, "rows": 1, "threads": 2}
    samples = [
        *(
            Sample(of="roofline", round=0, what=kind, measured={f"{kind}_seconds": [0.1]}, detail=alone, marks=[*marks])
            for kind in ("memory", "int8", "float32")
        ),
        *(
            Sample(
                of="roofline", round=0, what="work", detail={"call": call},
                measured={"bytes": [moved], "operations": [operations]},
            )
            for call, moved, operations in (("step_seconds at 64", 1e8, 1e6), ("ttft_seconds at 64", 1e8, 1e10))
        ),
        Sample(of="speed", round=0, what="decode", measured={"step_seconds": [step]}, detail={"length": 64}),
        Sample(of="speed", round=0, what="prefill", measured={"ttft_seconds": [first]}, detail={"length": 64}),
    ]  # fmt: skip
    records: list[Record] = []
    for of in ("roofline", "speed"):
        records += [sample for sample in samples if sample.of == of] + [Round(of=of, round=0, whole=True)]
    return Profile(Header(**(header | changes)), records)


def test_figures_are_rates_and_the_error_is_the_largest() -> None:
    found = fit(made_up(), "board")
    assert found.bytes_per_second.value == pytest.approx(1e10)
    assert found.int8_operations_per_second.value == pytest.approx(1e11)
    assert (found.name, found.soc, found.cores) == ("board", "X1", "2 × Cortex-A76")
    assert found.bytes_per_second.source.startswith("measured by edgepress 9.9 on Board 5, 2026-01-02")
    assert found.bytes_per_second.date == "2026-01-02"
    assert found.error is not None
    assert found.error.share == pytest.approx(0.2)  # 10 ms of 12.5; 100 ms of 110 are nearer
    assert "step_seconds at 64 10.00 ms predicted, 12.50 ms measured" in found.error.source
    assert "ttft_seconds at 64 100.00 ms predicted, 110.00 ms measured" in found.error.source
    slow = fit(made_up(first=0.05), "board").error
    assert slow is not None
    assert slow.share == pytest.approx(1.0)  # 100 ms of 50: a bound that is too slow is an error, too


def without(profile: Profile, of: str, *instead: Record) -> Profile:
    return Profile(
        profile.header, [record for record in profile.records if getattr(record, "of", "") != of] + [*instead]
    )


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (made_up(description={"emulated": True}), "ssh:board is emulated"),
        (without(made_up(), "speed"), "pass speed: it was not taken"),
        (without(made_up(), "roofline"), "pass roofline: it was not taken"),
        (without(made_up(), "roofline", Trouble(of="roofline", error="no MatMulNBits")), "roofline: no MatMulNBits"),
        (made_up(marks=("throttled",)), "no sample of it is good"),
    ],
)
def test_what_gives_no_figures_says_why(profile: Profile, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(profile, "board")


def test_the_command_writes_a_file_whose_error_the_plan_tells(
    bundle: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "board.toml"
    asked = ["profile", str(bundle), "--out", str(tmp_path / "p.jsonl"), "--threads", "1", "--prompt-lengths", "8"]
    asked += ["--decode-tokens", "4", "--rounds", "3", "--seconds", "0.1", "--no-prepare", "--fit"]
    place.write_text("name = 'mine'\n")
    assert main([*asked, str(place)]) == 2
    assert "board.toml is not replaced" in capsys.readouterr().err
    assert not (tmp_path / "p.jsonl").exists()
    place.unlink()
    assert main([*asked, str(place), "--device", "emulator:cortex-a76"]) == 2
    assert "emulator:cortex-a76 is emulated" in capsys.readouterr().err
    assert main([*asked, "/"]) == 2
    assert "--fit '/' is no name of a device" in capsys.readouterr().err
    assert main([*asked, str(tmp_path / "board")]) == 0
    found = find_roofline(str(place))
    assert found.error is not None
    assert main(["plan", str(checkpoint), "--recipe", "int4", "--device", str(place)]) == 0
    assert f"±{found.error.share:.0%} where measured" in capsys.readouterr().out
    assert main([*asked, str(place)]) == 0  # the profile is done, the file of this form replaced
