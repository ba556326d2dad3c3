"""The registry of x86-64 speaks for ARM: operators and versions are the same there, and float16 is known."""

import pytest
from guests import Guests

from edgepress.calls import Call
from edgepress.targets import HALF_ON_ARM
from edgepress.targets.emulator.installation import Installation
from edgepress.targets.emulator.registry import kernels

Kernel = tuple[str, str, int, int, str, str]  # domain, operator, first and last version, type parameter, type


def registered(answer: dict[str, object]) -> set[Kernel]:
    return {
        (domain, op, low, high, parameter, kind)
        for domain, op, low, high, constraints in answer["kernels"]  # type: ignore[attr-defined]
        if domain in {"", "ai.onnx.ml", "com.microsoft"}
        for parameter, kinds in constraints.items()
        for kind in kinds
    }


@pytest.mark.parametrize("cpu", ["cortex-a53", "neoverse-n2"])
def test_arm_has_the_kernels_of_x86_and_known_ones_of_float16(
    emulator: Installation, one_start: Guests, cpu: str
) -> None:
    ((answer, _),) = one_start.run(emulator, cpu, [Call(kernels)])
    there, here = registered(answer), registered(kernels({}, {})[0])
    assert here <= there
    more = {(domain, op, kind) for domain, op, _, _, _, kind in there - here if op != "NhwcFusedConv"}
    half = {("", op, "tensor(float16)") for op in HALF_ON_ARM} | {("com.microsoft", "FusedConv", "tensor(float16)")}
    assert more == (half if cpu == "neoverse-n2" else set())
