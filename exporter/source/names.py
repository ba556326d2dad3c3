"""Names of tensors as transformers gives them, from those that a wrapper of the model changed.

torch.compile, FSDP and activation checkpointing put a word into names; DataParallel, peft, Lightning and models with
images put one before all of them. Where that is all, taking it off changes nothing: the tensors are the same.
"""

import re
from collections.abc import Collection

_INSIDE = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_BEFORE = ("module.", "base_model.model.", "language_model.")
_NESTED = "model.language_model."  # transformers' models with images: the head is beside it
_OUTER = "model."  # a module that holds the model, whose own names begin so again
_INNER = ("model.", "transformer.", "lm_head.")
_HEAD = "lm_head.weight"


def plain_names(stored: Collection[str]) -> dict[str, str]:
    """Stored name → transformers' name; each as it is when two would become one."""
    names = {name: _INSIDE.sub("", name) for name in stored}
    while (shorter := _without_prefix(names)) is not None:
        names = shorter
    return names if len({*names.values()}) == len(names) else {name: name for name in stored}


def _without_prefix(names: dict[str, str]) -> dict[str, str] | None:
    """The names without a prefix that all of them share, None when there is none."""
    found = [*names.values()]
    for prefix in _BEFORE:
        if found and all(name.startswith(prefix) for name in found):
            return {stored: name.removeprefix(prefix) for stored, name in names.items()}
    others = [name for name in found if not name.startswith(_NESTED)]
    if others in ([], [_HEAD]) and found != others:
        return {stored: re.sub(f"^{re.escape(_NESTED)}", _OUTER, name) for stored, name in names.items()}
    if found and all(name.startswith(_OUTER) for name in found):
        inner = [name.removeprefix(_OUTER) for name in found]
        if any(name.startswith(_INNER) for name in inner):
            return {stored: name.removeprefix(_OUTER) for stored, name in names.items()}
    return None
