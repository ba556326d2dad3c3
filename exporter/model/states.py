"""The states of a decoder: what its graph reads and gives back at each call, in the order of its inputs."""

from edgepress.exporter.model.description import Decoder
from edgepress.states import State, check_states


def decoder_states(decoder: Decoder) -> tuple[State, ...]:
    """List the states of every layer: the keys and values of its attention."""
    states = tuple(
        State(
            name=f"layers.{index}.{part}",
            input=f"past_key_values.{index}.{part}",
            output=f"present.{index}.{part}",
            shape=("batch", layer.attention.kv_heads, "past", layer.attention.head_dim),
            type="float32",
            kind="key-value",
        )
        for index, layer in enumerate(decoder.layers)
        for part in ("key", "value")
    )
    check_states(states)
    return states
