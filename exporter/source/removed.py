"""Methods of earlier versions: a recipe may still name them, and a checkpoint may have been made by one."""

REMOVED = {
    "low_rank": "at the same size fewer bits lost less on every model that was measured; use fewer `bits`, a [budget], "
    "or mlp_width in `prune`",
    "hqq": "it was about as accurate as rtn; use rtn, or gptq where there is calibration text",
}
"""Why each was removed, and what to use instead."""


def why_removed(name: str) -> str:
    """The reason and the remedy, as a sentence that begins with the method's name."""
    return f"{name} was removed: {REMOVED[name]}"
