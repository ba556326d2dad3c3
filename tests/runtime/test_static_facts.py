"""What a static graph's metadata says is held against types before masks and caches are made of it."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgepress.errors import InputError
from edgepress.runtime.sessions.static import METADATA, read_facts

SOUND: dict[str, object] = {"windows": {"mask": 16, "full": None}, "closed": -1e4, "long_from": None, "long_rows": 0}


def session(text: str) -> Any:
    metadata = SimpleNamespace(custom_metadata_map={METADATA: text})
    return cast("Any", SimpleNamespace(get_modelmeta=lambda: metadata))


def test_facts_are_read_as_they_were_written() -> None:
    facts = read_facts(session(json.dumps(SOUND)))
    assert (facts.windows, facts.closed, facts.long_from) == (SOUND["windows"], -1e4, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        (json.dumps(SOUND | {"closed": float("nan")}), "NaN is no number"),
        (json.dumps(SOUND | {"closed": "low"}), "closed: Expected `float`, got `str`"),
        (json.dumps(SOUND | {"windows": {"mask": "x"}}), "windows"),
        (json.dumps(SOUND | {"long_from": []}), "long_from"),
        (json.dumps({"windows": {}}), "has no entry 'closed'"),
    ],
    ids=["deep", "nan", "text", "window", "list", "missing"],
)
def test_hostile_metadata_is_one_error(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"the static graph's metadata.*{message}"):
        read_facts(session(text))
