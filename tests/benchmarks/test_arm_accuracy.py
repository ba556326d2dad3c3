"""What was measured of float16 attention on emulated ARM: near float32, and the same text but for near ties."""

import json
from pathlib import Path

SAMPLES = Path(__file__).parents[2] / "benchmarks/results/arm_accuracy.jsonl"
MOST, NEAR = 1e-3, 0.2  # of bits per byte, as a share; of the distance of two logits


def test_bits_per_byte_are_those_of_float32_and_so_is_the_text() -> None:
    samples = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()[1:]]
    assert {(one["model"], one["cpu"]) for one in samples} == {
        (model, cpu) for model in ("demo", "stories260k", "tiny1m") for cpu in ("cortex-a76", "neoverse-n2")
    }
    for sample in samples:
        bits, tokens, part = sample["bits_per_byte"], sample["tokens"], sample["part"]
        assert 0 < abs(bits["float16"] / bits["float32"] - 1) < MOST  # the same bits would be the same graph
        assert (part is None) == (tokens["float16"] == tokens["float32"])
        assert part is None or abs(part["gap"]) < NEAR
