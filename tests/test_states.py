"""The list of states: what a state may be, how large it is, and what two of them may not share."""

from typing import Any

import pytest

from edgepress.bundle.states import State, check_states, state_bytes

KEY: dict[str, Any] = {
    "name": "layers.3.key",
    "input": "past_key_values.3.key",
    "output": "present.3.key",
    "shape": ("batch", 2, "past", 64),
    "type": "float32",
    "kind": "key-value",
}
WINDOW = KEY | {"shape": ("batch", 2, "window", 64), "kind": "window", "window": 32}
CONV: dict[str, Any] = {
    "name": "layers.3.conv",
    "input": "past_conv.3",
    "output": "present_conv.3",
    "shape": ("batch", 512, 3),
    "type": "float16",
    "kind": "convolution",
}


def test_a_state_that_grows_takes_bytes_for_each_token_and_another_does_not() -> None:
    key, conv = State(**KEY), State(**CONV)
    assert (key.token_axis, key.sizes(10), key.output_shape) == (2, (1, 2, 10, 64), ("batch", 2, "total", 64))
    assert (conv.token_axis, conv.sizes(10), conv.output_shape) == (None, (1, 512, 3), ("batch", 512, 3))
    assert (key.bytes_at(10), conv.bytes_at(10)) == (4 * 2 * 10 * 64, 2 * 512 * 3)
    assert state_bytes([key, conv], 100) - state_bytes([key, conv], 99) == 4 * 2 * 64
    assert state_bytes([key, conv], 0) == 2 * 512 * 3


def test_a_window_takes_bytes_for_each_token_until_it_is_full() -> None:
    window = State(**WINDOW)
    assert (window.grows, window.in_place, window.token_axis, window.rows) == (False, True, 2, 48)
    assert (window.input_shape, window.output_shape) == (("batch", 2, "window_32", 64),) * 2
    assert window.sizes(10) == window.sizes(1000) == (1, 2, 48, 64)
    a_token = 4 * 2 * 64
    assert [window.bytes_at(tokens) // a_token for tokens in (0, 10, 48, 49, 65, 66, 1000)] == [
        0,
        10,
        48,
        49,
        65,
        65,
        65,
    ]


@pytest.mark.parametrize(
    ("of", "change", "message"),
    [
        (KEY, {"name": ""}, "1 to 200 characters, and one has 0"),
        (KEY, {"output": "x" * 201}, "1 to 200 characters, and one has 201"),
        (KEY, {"type": "float64"}, "has the type 'float64'"),
        (KEY, {"kind": "memory"}, "the kind 'memory'"),
        (KEY, {"output": "past_key_values.3.key"}, "input and output of state layers.3.key have one name"),
        (KEY, {"shape": ("batch", 2, 64)}, "the first of them batch and one other past"),
        (KEY, {"shape": ("past", "batch", 64)}, "the first of them batch and one other past"),
        (KEY, {"shape": (2, "batch", "past")}, "the first of them batch"),
        (KEY, {"shape": ("batch", "past", *[1] * 7)}, "at most 8 axes"),
        (KEY, {"shape": ()}, "the first of them batch"),
        (KEY, {"window": 32}, "the kind key-value and a window of 32 tokens"),
        (KEY, {"window": 0}, "the kind key-value and a window of 0 tokens"),
        (KEY, {"shape": ("batch", 2, "window", 64)}, "the first of them batch and one other past"),
        (WINDOW, {"window": None}, "the kind window and a window of None tokens"),
        (WINDOW, {"window": 0}, "a window of 0 tokens; a state of the kind window has one of 1 to 16,777,216"),
        (WINDOW, {"window": 2**25}, "a window of 33554432 tokens"),
        (WINDOW, {"shape": ("batch", 2, "past", 64)}, "the first of them batch and one other window"),
        (CONV, {"shape": ("batch", 512, "past")}, "the first of them batch, the rest numbers"),
        (CONV, {"shape": ("batch", 0, 3)}, "an axis is 1 to 16,777,216 long"),
        (CONV, {"shape": ("batch", -512, 3)}, "an axis is 1 to 16,777,216 long"),
        (CONV, {"shape": ("batch", 2**25)}, "an axis is 1 to 16,777,216 long"),
        (CONV, {"shape": ("batch", 2**20, 2**20)}, "at most 67,108,864 elements a token"),
    ],
)
def test_what_no_state_can_be_is_refused(of: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        State(**of | change)


@pytest.mark.parametrize("what", ["name", "input", "output"])
def test_two_states_share_no_name(what: str) -> None:
    check_states([State(**KEY), State(**CONV)])
    with pytest.raises(ValueError, match=f"two states have the {what} {KEY[what]}"):
        check_states([State(**KEY), State(**CONV | {what: KEY[what]})])


def test_more_states_than_any_model_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"there are 65,537 states"):
        check_states([State(**KEY)] * 65537)
    large = [State(f"{i}", f"in.{i}", f"out.{i}", ("batch", 8192, 8192), "float32", "recurrent") for i in range(17)]
    check_states(large[:16])
    with pytest.raises(ValueError, match="they have 1,140,850,688 elements together"):
        check_states(large)
    windows = [
        State(**WINDOW | {"name": f"{i}", "input": f"in.{i}", "output": f"out.{i}", "window": 2**20}) for i in range(99)
    ]
    check_states(windows)  # entries of a long window are memory of a text, as those of a long context are


def test_what_is_encoded_is_read_and_never_written() -> None:
    """One for all texts, with an entry for each position of the source or for a number that is always the same."""
    free = State("a", "encoded.a", "encoder.a", (1, 2, "source", 8), "float32", "encoded")
    fixed = State("b", "encoded.b", "encoder.b", (1, 2, 1500, 8), "float32", "encoded")
    assert (free.grows, free.in_place, free.token_axis) == (False, False, None)
    assert free.input_shape == free.output_shape == free.shape
    assert free.sizes(7) == (1, 2, 7, 8)
    assert (free.bytes_at(7), fixed.bytes_at(7)) == (7 * 64, 1500 * 64)


@pytest.mark.parametrize(
    "shape", [("batch", 2, "source", 8), (1, 2, "past", 8), (2, 2, 9, 8), (1, "source", "source", 8)]
)
def test_what_is_encoded_has_no_batch_and_no_past(shape: Any) -> None:
    with pytest.raises(ValueError, match="encoded state has at most"):
        State("a", "encoded.a", "encoder.a", shape, "float32", "encoded")
