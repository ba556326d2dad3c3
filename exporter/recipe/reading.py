"""A recipe read: a preset by its name or a TOML file, every key and value checked, the nearest valid key named."""

import difflib
import tomllib
from dataclasses import fields
from pathlib import Path

from edgepress.bundle.kept_text import FIRST
from edgepress.errors import InputError
from edgepress.exporter.arrays.scheme import BITS, BLOCK_SIZES
from edgepress.exporter.recipe.recipe import (
    ACCURACY_LEVELS,
    ACTIVATION_TYPES,
    CACHE_BITS,
    HALF_BITS,
    KEPT_BITS,
    LIMITS,
    PER_CHANNEL,
    RANGES,
    Activations,
    Budget,
    Cache,
    CalibrationText,
    Draft,
    OptionValue,
    Override,
    Recipe,
    Storage,
)
from edgepress.schema import DEEPEST, is_deep, read_bytes
from edgepress.text.documents import decode

_LARGEST = 1 << 20  # bytes of a recipe
_MOST_DOTS = 200  # in a line: the parser's time and memory grow with the square of the parts of a key
PRESETS = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names of the presets that ship with edgepress."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def read_recipe(recipe: str | Path) -> Recipe:
    """Read a preset by its name, or a TOML file by its path.

    Raises:
        InputError: no such preset or file, not TOML, an unknown key (the nearest valid one is named) or a bad value.

    """
    text = str(recipe)
    path = PRESETS / f"{text}.toml" if text in preset_names() else Path(recipe)
    if not path.is_file():
        near = difflib.get_close_matches(text, preset_names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"no recipe {text!r}{hint or '.'} Presets: {', '.join(preset_names())}; or name a TOML file")
    try:
        text = decode(read_bytes(path, "name a TOML file", largest=_LARGEST), path)
        _refuse_depth(text, path)
        content = tomllib.loads(text.replace("\r\n", "\n").replace("\r", "\n"))
    except (ValueError, RecursionError) as error:  # ValueError: integers of thousands of digits too
        raise InputError(f"{path} is not a TOML recipe: {error}") from error
    if is_deep(content):
        raise InputError(f"{path} is not a recipe: it is nested more than {DEEPEST} levels deep")
    return _recipe(content, path)


def _refuse_depth(text: str, path: Path) -> None:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.count(".") > _MOST_DOTS:
            raise InputError(f"{path}, line {number} has more than {_MOST_DOTS} dots; a recipe's keys have two at most")


_KEYS = (
    "weights",
    "embedding",
    "head",
    "override",
    "accuracy_level",
    "context_length",
    "prune",
    "before",
    "after",
    "options",
    "calibration",
    "budget",
    "promise",
    "activations",
    "cache",
    "mtp",
    "draft",
)
_DRAFT_KEYS = ("weights", "embedding", "head", "override", "accuracy_level", "prune", "before", "after", "options")
_DRAFT_WEIGHTS = {"bits": 4, "block_size": 32}


def _recipe(content: dict[str, object], path: Path) -> Recipe:
    _known(content, _KEYS, path, "")
    if "weights" not in content and "budget" not in content:
        raise InputError(f"{path}: a recipe needs a [weights] table with at least `bits`")
    weights = _storage(content.get("weights", {}), Storage(), path, "[weights]")
    embedding = _storage(content.get("embedding", {}), weights, path, "[embedding]")
    head = _storage(content.get("head", {}), embedding, path, "[head]")
    entries = content.get("override", [])
    if not isinstance(entries, list):
        raise InputError(f"{path}: overrides are written as [[override]] tables")
    promise = _promise(content.get("promise", {}), path)
    return Recipe(
        name=path.stem,
        weights=weights,
        embedding=embedding,
        head=head,
        overrides=tuple(_override(entry, weights, path) for entry in entries),
        accuracy_level=_choice(content.get("accuracy_level", 4), ACCURACY_LEVELS, path, "accuracy_level"),
        context_length=_context(content.get("context_length"), path),
        prune=_names(content.get("prune", []), path, "prune"),
        before=_names(content.get("before", []), path, "before"),
        after=_names(content.get("after", []), path, "after"),
        options=_options(content.get("options", {}), path),
        calibration=_calibration(content.get("calibration", {}), path),
        budget=_budget(content["budget"], path) if "budget" in content else None,
        promise={} if content.get("prune") else promise,  # which is of rounding alone
        activations=_activations(content.get("activations", {}), path),
        cache=_cache(content.get("cache", {}), path),
        mtp=_flag(content.get("mtp", False), path, "mtp"),
        draft=_draft(content["draft"], path) if "draft" in content else None,
    )


def _draft(value: object, path: Path) -> Draft:
    """A recipe inside of a recipe, by fewer keys and with another default for weights."""
    if not isinstance(value, dict):
        raise InputError(f"{path}: [draft] must be a table, not {value!r}")
    _known(value, (*_DRAFT_KEYS, "calibration", "gain"), path, "[draft] ")
    gain = value.get("gain", Draft.gain)
    if isinstance(gain, bool) or not isinstance(gain, int | float) or not 0 <= gain < float("inf"):
        raise InputError(f"{path}: [draft] gain must be a number, 0 or more, not {gain!r}")
    rest = {key: entry for key, entry in value.items() if key != "gain"}
    try:
        recipe = _recipe({"weights": _DRAFT_WEIGHTS, **rest}, path)
    except InputError as error:
        raise InputError(str(error).replace(f"{path}: ", f"{path}: [draft] ", 1)) from error
    if not recipe.prune:
        raise InputError(f'{path}: [draft] needs steps that make it smaller, such as prune = ["depth", "retrain"]')
    if "vocabulary" in recipe.prune:
        raise InputError(f"{path}: [draft] prune has vocabulary, and a draft has the model's own tokens; leave it out")
    return Draft(recipe, float(gain))


def _names(value: object, path: Path, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{path}: {where} must be a list of names, not {value!r}")
    return tuple(value)


def _options(value: object, path: Path) -> dict[str, dict[str, OptionValue]]:
    """Options as written; each method checks its own against what it declares."""
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise InputError(f"{path}: options are written as [options.<method>] tables")
    for method, table in value.items():
        for key, option in table.items():
            if not isinstance(option, bool | int | float | str):
                raise InputError(f"{path}: [options.{method}] {key} must be a number, a string or a boolean")
    return value


def _promise(value: object, path: Path) -> dict[str, float]:
    if not isinstance(value, dict) or not all(
        isinstance(kl, int | float) and not isinstance(kl, bool) and 0 <= kl < float("inf") for kl in value.values()
    ):
        raise InputError(f"{path}: [promise] gives the KL divergence measured on each model, in nats a token")
    return {model: float(kl) for model, kl in value.items()}


def _calibration(value: object, path: Path) -> CalibrationText:
    if not isinstance(value, dict):
        raise InputError(f"{path}: [calibration] must be a table, not {value!r}")
    _known(value, tuple(f.name for f in fields(CalibrationText)), path, "[calibration] ")
    text = value.get("text", [])
    names = _names([text] if isinstance(text, str) else text, path, "[calibration] text")
    default = CalibrationText()
    numbers: dict[str, int] = {}
    for key, least in (("tokens", 1), ("training_tokens", 1), ("length", 2), ("seed", 0)):
        number = value.get(key, getattr(default, key))
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise InputError(f"{path}: [calibration] {key} must be a whole number of at least {least}, not {number!r}")
        numbers[key] = number
    # a relative path in a recipe file is relative to that file
    return CalibrationText(tuple(str(path.parent / name) for name in names), **numbers)


def _budget(table: object, path: Path) -> Budget:
    if not isinstance(table, dict):
        raise InputError(f"{path}: [budget] must be a table, not {table!r}")
    _known(table, tuple(f.name for f in fields(Budget)), path, "[budget] ")
    limits = [key for key in LIMITS if key in table]
    if len(limits) != 1:
        raise InputError(f"{path}: [budget] needs exactly one of {', '.join(LIMITS)}, not {len(limits)}")
    limit = table[limits[0]]
    if limits[0] == "like":
        if limit not in preset_names():
            raise InputError(f"{path}: [budget] like must be one of {', '.join(preset_names())}, not {limit!r}")
    elif not isinstance(limit, int | float) or isinstance(limit, bool) or not 0 < limit < float("inf"):
        raise InputError(f"{path}: [budget] {limits[0]} must be a number above 0, not {limit!r}")
    default = Budget()
    candidates = _names(table.get("candidates", []), path, "[budget] candidates")
    if "candidates" in table and not candidates:
        raise InputError(f'{path}: [budget] candidates is empty; give some, such as ["4:128", "8:32"]')
    for candidate in candidates:
        _candidate(candidate, path)
    group, metric = table.get("group", default.group), table.get("metric")
    if group not in ("tensor", "layer"):
        raise InputError(f'{path}: [budget] group must be "tensor" or "layer", not {group!r}')
    if metric is not None and not isinstance(metric, str):
        raise InputError(f'{path}: [budget] metric must be a name, such as "top1", not {metric!r}')
    if limits == ["metric_loss"] and metric is None:
        raise InputError(
            f'{path}: [budget] metric_loss needs a metric; add one of those of `eval`, such as metric = "top1"'
        )
    tokens, samples = (_count(table.get(key, getattr(default, key)), path, key) for key in ("tokens", "samples"))
    measure = table.get("measure", default.measure)
    if measure not in ("every", "one"):
        raise InputError(f'{path}: [budget] measure must be "every" or "one", not {measure!r}')
    return Budget(
        **{limits[0]: limit},
        candidates=candidates,
        group=group,
        tokens=tokens,
        samples=samples,
        metric=metric,
        measure=measure,
    )


def _count(value: object, path: Path, key: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 2:
        raise InputError(f"{path}: [budget] {key} must be a whole number of at least 2, not {value!r}")
    return value


def _candidate(text: str, path: Path) -> None:
    bits, _, block = text.partition(":")
    blocks = (*map(str, BLOCK_SIZES), PER_CHANNEL)
    if text != str(KEPT_BITS) and not (bits in map(str, BITS) and block in blocks):
        raise InputError(
            f'{path}: [budget] candidate {text!r} must be "bits:block" with bits {", ".join(map(str, BITS))} and block '
            f'{", ".join(blocks)}, or "{KEPT_BITS}" for float32'
        )


def _activations(value: object, path: Path) -> Activations:
    if not isinstance(value, dict):
        raise InputError(f"{path}: [activations] must be a table, not {value!r}")
    _known(value, ("type", "ranges", "percentile", "kept"), path, "[activations] ")
    default = Activations()
    kind = _word(value.get("type", default.type), ACTIVATION_TYPES, path, "[activations] type")
    ranges = _word(value.get("ranges", default.ranges), RANGES, path, "[activations] ranges")
    share = value.get("percentile", default.percentile)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 50 < share <= 100:
        raise InputError(f"{path}: [activations] percentile must be above 50 and at most 100, not {share!r}")
    if kind == "uint16" and ranges in {"dynamic", "entropy"}:
        raise InputError(
            f'{path}: [activations] ranges = "{ranges}" needs type = "uint8"; for uint16 take minmax, percentile or mse'
        )
    if not kind.startswith("uint") and "ranges" in value:
        raise InputError(f'{path}: [activations] ranges is for integers; add type = "uint8", or leave ranges out')
    kept = _names(value.get("kept", []), path, "[activations] kept")
    if kept and (not kind.startswith("uint") or ranges == "dynamic"):
        raise InputError(
            f"{path}: [activations] kept names nodes that stay in float between integers whose ranges are fixed; add "
            'type = "uint8" and ranges = "minmax", or leave it out'
        )
    return Activations(kind, ranges, float(share), kept, is_written="type" in value)


def _cache(value: object, path: Path) -> Cache:
    if not isinstance(value, dict):
        raise InputError(f"{path}: [cache] must be a table, not {value!r}")
    _known(value, tuple(f.name for f in fields(Cache)), path, "[cache] ")
    windows = value.get("windows")
    if "windows" in value and not isinstance(windows, bool):
        raise InputError(f"{path}: [cache] windows must be true or false, not {windows!r}")
    bits = value.get("bits")
    if "bits" in value and (isinstance(bits, bool) or bits != CACHE_BITS):
        raise InputError(f"{path}: [cache] bits must be {CACHE_BITS}, not {bits!r}; leave it out for floats")
    keep, sinks = value.get("keep"), value.get("sinks", FIRST)
    for key, number in (("keep", keep), ("sinks", sinks)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
            raise InputError(f"{path}: [cache] {key} must be a number of tokens, not {number!r}")
    if "sinks" in value and keep is None:
        raise InputError(f"{path}: [cache] sinks are tokens that always stay of what keep = N keeps; add it")
    try:
        _ = Cache(windows, bits, keep, sinks).kept
    except ValueError as error:
        raise InputError(f"{path}: [cache] keep: {error}") from error
    return Cache(windows, bits, keep, sinks)


def _word(value: object, valid: tuple[str, ...], path: Path, where: str) -> str:
    if not isinstance(value, str) or value not in valid:
        raise InputError(f"{path}: {where} must be one of {', '.join(valid)}, not {value!r}")
    return value


def _override(entry: object, default: Storage, path: Path) -> Override:
    if not isinstance(entry, dict) or not isinstance(entry.get("match"), str):
        raise InputError(f"{path}: each [[override]] needs `match`, a pattern of tensor names such as 'layers.0.*'")
    rest = {key: value for key, value in entry.items() if key != "match"}
    return Override(entry["match"], _storage(rest, default, path, f"override {entry['match']!r}"))


def _storage(table: object, default: Storage, path: Path, where: str) -> Storage:
    if not isinstance(table, dict):
        raise InputError(f"{path}: {where} must be a table, not {table!r}")
    _known(table, tuple(f.name for f in fields(Storage)), path, f"{where} ")
    method = table.get("method", default.method)
    if not isinstance(method, str):
        raise InputError(f"{path}: {where} method must be a name, not {method!r}")
    bits = _choice(table.get("bits", default.bits), (*BITS, HALF_BITS, KEPT_BITS), path, f"{where} bits")
    block = _block_size(table["block_size"], path, where) if "block_size" in table else default.block_size
    symmetric = _flag(table.get("symmetric", default.symmetric), path, f"{where} symmetric")
    return Storage(method, bits, block, symmetric)


def _flag(value: object, path: Path, where: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{path}: {where} must be true or false, not {value!r}")
    return value


def _block_size(value: object, path: Path, where: str) -> int | tuple[int, ...]:
    if value == PER_CHANNEL or (isinstance(value, int) and not isinstance(value, bool) and value == 0):
        return 0
    if isinstance(value, list):
        if not value:
            raise InputError(f"{path}: {where} block_size is an empty list; give some sizes, such as [128, 64, 32]")
        sizes = {_choice(size, BLOCK_SIZES, path, f"{where} each block_size") for size in value}
        return tuple(sorted(sizes, reverse=True))
    return _choice(value, BLOCK_SIZES, path, f"{where} block_size")


def _known(table: dict[str, object], valid: tuple[str, ...], path: Path, where: str) -> None:
    for key in table:
        if key not in valid:
            near = difflib.get_close_matches(key, valid, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
            raise InputError(f"{path}: {where}unknown key {key!r}; {hint}")


def _choice(value: object, valid: tuple[int, ...], path: Path, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value not in valid:
        raise InputError(f"{path}: {where} must be one of {', '.join(map(str, valid))}, not {value!r}")
    return value


def _context(value: object, path: Path) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{path}: context_length must be a number of tokens of at least 1, not {value!r}")
    return value
