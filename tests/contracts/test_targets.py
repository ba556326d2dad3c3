"""Every target found on disk is held to the same contract."""

import pytest

from edgepress.errors import InputError
from edgepress.targets import Operator, find_target, missing_kernels, target_names


@pytest.mark.parametrize("name", target_names())
def test_a_target_is_named_as_its_file_and_says_how_it_is_checked(name: str) -> None:
    target = find_target(name)
    assert target.name == name
    assert target.checked in {"asked", "emulated", "table"}
    assert target.provider.endswith("ExecutionProvider")
    assert target.description


def test_an_unknown_target_names_the_nearest_and_all() -> None:
    with pytest.raises(InputError, match=r"did you mean arm64-cpu\? Known: .*arm64-cpu"):
        find_target("arm64cpu")


def test_the_kernel_registry_knows_what_the_cpu_runs() -> None:
    target = find_target("arm64-cpu")
    present = Operator("com.microsoft", "MatMulNBits", 1)
    absent = [Operator("com.microsoft", "NoSuchOperator", 1), Operator("", "MatMul", 0)]
    assert missing_kernels(target, [present, *absent]) == absent
