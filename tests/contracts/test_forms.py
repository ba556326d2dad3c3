"""Every form found on disk is named as its file and belongs to a target."""

import pytest

from edgepress.exporter.bundle.forms import find_form, form_names
from edgepress.targets import find_target, target_names


@pytest.mark.parametrize("name", form_names())
def test_a_form_is_named_as_its_file_and_a_target_asks_for_it(name: str) -> None:
    form = find_form(name)
    assert form.name == name
    assert form.description
    assert name in {find_target(target).form for target in target_names()}


@pytest.mark.parametrize("name", [name for name in target_names() if find_target(name).form is not None])
def test_the_form_that_a_target_names_is_there(name: str) -> None:
    assert find_target(name).form in form_names()
