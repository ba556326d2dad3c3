"""EXAONE 4: files list which layers have windows, and those of the 1.2B say of none."""

from collections.abc import Mapping

from edgepress.errors import InputError
from edgepress.exporter.source.formats.gguf.families import Family, Values

_WINDOW, _PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"


def _windows(values: Mapping[str, object], config: Values) -> Values:
    if _WINDOW not in values:
        return {"sliding_window": None, "layer_types": None}
    slides, layers = values.get(_PATTERN), config["num_hidden_layers"]
    if not isinstance(slides, list) or len(slides) != layers:
        raise InputError(
            f"exaone4.{_PATTERN} = {str(slides)[:80]}: it must say of each of {layers} layers whether it slides; "
            "export the original checkpoint"
        )
    return {"layer_types": ["sliding_attention" if one else "full_attention" for one in slides]}


FAMILY = Family(
    "exaone4",
    "Exaone4ForCausalLM",
    keys={_WINDOW: "sliding_window", _PATTERN: "layer_types"},
    more=_windows,
)
