"""A measured roofline: a graph's work against a plan's count of it, figures from made-up times, and the command."""

import json
from math import ceil, prod
from pathlib import Path
from typing import Any

import onnx
import pytest
from tiny_models import save

from edgepress.bundle.states import state_bytes
from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.decide.instructions import DECODE, PREFILL, PROMPT
from edgepress.exporter.decide.on_device import call_of
from edgepress.runtime.config import read_config
from edgepress.runtime.profile.records import SCHEMA, Header, Profile, Record, Round, Sample, Trouble
from edgepress.runtime.profile.roofline.fitting import fit
from edgepress.runtime.profile.roofline.kernels import (
    LIGHT,
    attention,
    beyond_caches,
    float32,
    light,
    products,
    sizes_of,
)
from edgepress.runtime.profile.roofline.work import Scheme, read_work
from edgepress.targets.devices import find_roofline

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
    """The runtime counts in a bundle's graph, without the onnx package, what a plan counts in the same graph."""
    [graph] = decide(str(checkpoint), target="x86-cpu", recipe="int4").make_graphs().values()
    config = read_config(bundle)
    work = read_work(config)
    decode, states = work.decode(config, AT), state_bytes(config.states, AT)
    assert decode == call_of(graph, DECODE, AT, work.weight_bytes, states)
    prompt, whole = work.prefill(config, PROMPT), call_of(graph, PREFILL, 0, work.weight_bytes, 0)
    assert (prompt.products, prompt.nodes, prompt.numbers) == pytest.approx(
        (whole.products, whole.nodes, whole.numbers)
    )


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
        call = work.prefill(config, length)
        assert call.weight_bytes == ceil(length / 128) * work.weight_bytes
        assert call.state_bytes == work.decode(config, length).state_bytes
        pairs = sum(range(length))  # each token sees those before it
        assert call.attention == 4 * heads * sizes["num_hidden_layers"] * pairs
        assert call.products == 2 * (work.weights * length + work.last_weights)
        assert call.rows == min(length, 128)


def test_attention_with_the_keys_of_another_layer_is_counted(tmp_path: Path) -> None:
    """Gemma 3n's later layers read what an earlier one wrote."""
    source = save("gemma3n_text", tmp_path / "checkpoint")
    sizes = json.loads((source / "config.json").read_text())
    export(source, out=tmp_path / "bundle", recipe="int4", target="x86-cpu", threads=1)
    width = sizes["num_hidden_layers"] * sizes["num_attention_heads"] * sizes["head_dim"]
    assert read_work(read_config(tmp_path / "bundle")).width == width


def test_products_alone_have_the_bytes_of_the_bundle_s_own(bundle: Path) -> None:
    work = read_work(read_config(bundle))
    graph = onnx.load(bundle / "model.onnx", load_external_data=False).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    node = next(node for node in graph.node if node.op_type == "MatMulNBits")
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    widths = {onnx.TensorProto.UINT8: 1, onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.BFLOAT16: 2}
    stored = 0
    for name in node.input[1:]:
        tensor = constants[casts.get(name, name)]
        stored += widths.get(tensor.data_type, 4) * prod(tensor.dims)
    assert (attributes["K"], attributes["N"]) == work.sizes[0]
    assert products(work.scheme, work.sizes[:1], threads=1).nbytes == stored
    assert sum(depth * columns for depth, columns in work.sizes) == work.weights


@pytest.mark.parametrize("scheme", [Scheme(4, 32, 4, False, 2), Scheme(8, 64, 0, True, 4), Scheme(2, 32, 0, True, 2)])
def test_onnxruntime_runs_products_alone(scheme: Scheme) -> None:
    alone = products(scheme, [(128, 64), (64, 32), (128, 32)], threads=1).alone
    assert len(alone.seconds(rows=3, repeats=2)) == 2
    assert alone.amount(3) == 2 * 3 * (128 * 64 + 64 * 32 + 128 * 32)


def test_products_are_repeated_until_they_fill_memory() -> None:
    scheme, sizes = Scheme(4, 32, 4, False, 4), [(64, 32), (32, 16)]
    assert sizes_of(sizes, scheme, 1281) == [(64, 32), (32, 16), (64, 32)]  # 1,024 bytes, then 256
    many = sizes_of(sizes, scheme, 1 << 20)
    assert len(many) <= 512
    assert sum(depth * columns for depth, columns in many) >= 2 << 20
    assert {depth for depth, _ in many} == {64, 32}


def test_attention_alone_is_attention(bundle: Path) -> None:
    """Its values are set as a bundle's are: what it writes lies after the tokens before, and changes with them."""
    shape = read_work(read_config(bundle)).attention
    assert shape is not None
    alone = attention(shape, before=6, rows=2, threads=1)
    assert alone.amount(2) == 4 * shape.layers * shape.heads * shape.head_size * (6 + 7)
    inputs, _ = alone._values(2)
    alone.seconds(2, 1)
    keys = [array for name, array in inputs.items() if name.endswith("key")]
    assert len(keys) == shape.layers
    assert all(not array[:, :, :6].any() and array[:, :, 6:].any() for array in keys)


def test_other_kernels_are_run_alone() -> None:
    nodes = light(32, threads=1, amount=lambda rows: LIGHT * rows * 32)
    assert len(nodes.seconds(rows=4, repeats=2)) == 2
    assert nodes.amount(4) == 64 * 4 * 32
    product = float32(64, threads=1)
    assert product.amount(2) == 4 * 64 * 64
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


def made_up(
    *,
    step: float = 0.0125,
    first: float = 0.110,
    marks: tuple[str, ...] = (),
    more: dict[str, float] | None = None,
    **changes: Any,
) -> Profile:
    """10 GB/s and 100 thousand million operations/s; a step of 100 MB, a prompt of 10 thousand million operations."""
    clusters = [{"cores": [0, 1], "name": "Cortex-A76"}]
    header: dict[str, Any] = {
        "schema": SCHEMA, "started": "2026-01-02T03:04:05+00:00", "bundle": "b", "bundle_hash": None,
        "bundle_bytes": 1, "device": "ssh:board", "versions": {"edgepress": "9.9"}, "settings": {"threads": 2},
        "description": {"model": "Board 5", "soc": "X1", "clusters": clusters, "memory_bytes": 8_000_000_000},
    }  # fmt: skip
    amounts = {"memory": 1e9, "int8": 1e10, "float32": 1e10, **(more or {})}
    rest = {"state_bytes": 0.0, "attention": 1e6, "nodes": 100.0, "numbers": 1e6}
    samples = [
        *(
            Sample(
                of="roofline", round=0, what=kind, measured={f"{kind}_seconds": [0.1]}, marks=[*marks],
                detail={"amount": amount, "bytes": 10**9, "rows": 1, "threads": 2},
            )
            for kind, amount in amounts.items()
        ),
        *(
            Sample(
                of="roofline", round=0, what="work", detail={"call": call},
                measured={
                    name: [value]
                    for name, value in {**rest, "weight_bytes": moved, "products": products, "rows": rows}.items()
                },
            )
            for call, moved, products, rows in (
                ("step_seconds at 64", 1e8, 1e6, 1.0), ("ttft_seconds at 64", 1e8, 1e10 - 1e6, 64.0)
            )
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


def test_what_is_known_beside_products_is_added() -> None:
    """Attention at its own rate by the rows of a call, 100 nodes at 20 µs, a million numbers at 10⁹ a second."""
    rates = {"attention_decode": 1e8, "attention_prefill": 1e9, "nodes": 5e3, "numbers": 1e8}
    found = fit(made_up(more=rates), "board")
    assert found.nodes_per_second is not None
    assert found.nodes_per_second.value == pytest.approx(5e4)
    assert found.error is not None
    # 10 ms of memory, 1e6 operations of attention at 1e9 a second, 100 nodes and 1e6 numbers at 1e9 a second
    assert "step_seconds at 64 14.00 ms predicted, 12.50 ms measured" in found.error.source
    assert "ttft_seconds at 64 103.09 ms predicted, 110.00 ms measured" in found.error.source


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
