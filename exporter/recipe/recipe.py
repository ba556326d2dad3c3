"""What the user asks for: a preset name or a TOML file, validated when read.

A recipe says, for linear layers (``[weights]``), the token embedding (``[embedding]``) and the output head
(``[head]``), which method stores them at which bits and block size; ``[[override]]`` tables change that for tensors
whose name matches a pattern. ``bits = 32`` keeps float32, ``16`` stores float16. ``prune`` names steps that make the
model smaller before any weight is rounded, in their order; ``before`` and ``after`` name methods that prepare the
weights for rounding and that repair what rounding did; ``[options.<method>]`` sets a method's own options.
``block_size`` may list sizes: each tensor gets the one that takes the fewest bytes at its width, as presets do.
``[activations]`` computes in float16 or in integers. ``[cache]`` says what is kept of earlier tokens.
``[calibration]`` says which text shows the methods what the model computes. ``[budget]`` leaves bits and block size of
every tensor that no override names to measurement and a solver. Presets are the files in ``presets/``: adding one is
adding a file. ``[promise]`` is what a preset was measured to lose on models that everyone can try: KL in nats a token;
where a recipe prunes it is dropped, as it says nothing of that.
"""

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgepress.errors import InputError
from edgepress.exporter.arrays.scheme import BITS, BLOCK_SIZES
from edgepress.schema import DEEPEST, is_deep, read_bytes
from edgepress.text.documents import decode

_LARGEST = 1 << 20  # bytes of a recipe
_MOST_DOTS = 200  # in a line: the parser's time and memory grow with the square of the parts of a key
PRESETS = Path(__file__).parent / "presets"
KEPT_BITS = 32
HALF_BITS = 16
ACCURACY_LEVELS = (0, 1, 4)
PER_CHANNEL = "channel"  # a recipe's block_size for one scale a row

OptionValue = bool | int | float | str

ACTIVATION_TYPES = ("float32", "float16", "uint8", "uint16")
RANGES = ("dynamic", "minmax", "percentile", "mse", "entropy")


@dataclass(frozen=True)
class Storage:
    """One way to store a tensor: ``bits`` 2, 4 or 8 in blocks of ``block_size`` columns by ``method``, or 16 or 32: a
    float of so many.

    ``block_size`` 0, written "channel" in a recipe, gives each row one scale. Several sizes leave the choice to each
    tensor's width: the one that takes the fewest bytes. ``symmetric`` blocks store no zero point.
    """

    method: str = "rtn"
    bits: int = KEPT_BITS
    block_size: int | tuple[int, ...] = 32
    symmetric: bool = True


@dataclass(frozen=True)
class Override:
    """``storage`` for the tensors whose name matches the shell-style pattern ``match``; the last match wins.

    ``reason`` is what the plan says of it, when it was not the recipe's author who chose.
    """

    match: str
    storage: Storage
    reason: str = ""


@dataclass(frozen=True)
class Activations:
    """What goes into the products of linear layers: float32, float16, or integers of ``type``.

    With "float16" whole layers compute in it, where the target has kernels. ``is_written`` says that the recipe names
    the type. Three are decided for a model and a target, not written
    (:class:`~edgepress.exporter.recipe.decisions.Decisions`): ``float16_graph`` says that there is a graph in float16
    beside the float32 one; ``kept_layers`` are layers, such as ``layers.1``, and mixers with states, such as
    ``layers.1.attention``, that compute in float32 all the same, and why; ``float32_scales`` are tensors whose scales
    float16 cannot hold, and why.

    ``ranges`` says how real values become integers: "dynamic" finds the range of each call when it is made; the others
    find it once, from calibration text: "minmax", "percentile" (``percentile`` of the values), "mse" or "entropy".
    ``kept`` are patterns of nodes that stay in float between integers, of a model that is no language model; what that
    comes to is in ``kept_layers``.
    """

    type: str = "float32"
    ranges: str = "dynamic"
    percentile: float = 99.99
    kept: tuple[str, ...] = ()
    kept_layers: Mapping[str, str] = field(default_factory=dict)
    float32_scales: Mapping[str, str] = field(default_factory=dict)
    float16_graph: bool = False
    is_written: bool = field(default=False, compare=False)

    @property
    def is_integer(self) -> bool:
        """Whether products are computed in integers, from 8-bit weights with one scale a row."""
        return self.type.startswith("uint")

    @property
    def is_calibrated(self) -> bool:
        """Whether calibration text decides the ranges."""
        return self.is_integer and self.ranges != "dynamic"

    @property
    def in_float16(self) -> bool:
        """Whether a graph of the bundle computes in float16."""
        return self.float16_graph or self.type == "float16"

    def to_json(self) -> dict[str, object]:
        """As the manifest keeps what was asked."""
        decided = {"kept_layers": dict(self.kept_layers)}
        asked = {"type": self.type, "ranges": self.ranges, "percentile": self.percentile, "kept": list(self.kept)}
        return {**asked, **decided}


@dataclass(frozen=True)
class Cache:
    """What is kept of earlier tokens.

    With ``windows`` a layer whose attention sees a window keeps the keys and values of that alone; without, of all
    tokens. None leaves it to the targets (:class:`~edgepress.exporter.recipe.decisions.Decisions`).
    ``bits`` of each key and value: 8 are integers, with a scale for each channel of each head that some text gives;
    None is floats.
    """

    windows: bool | None = None
    bits: int | None = None

    @property
    def in_integers(self) -> bool:
        """Whether keys and values are integers."""
        return self.bits is not None


CACHE_BITS = 8


@dataclass(frozen=True)
class CalibrationText:
    """What the calibrated methods see: ``tokens`` of ``text`` in sequences of ``length``, chosen by ``seed``.

    ``length`` is at most the context. Methods that learn by gradients see ``training_tokens`` of it, if that is more:
    they need many, and the others few.
    ``text`` names files, each one document, or ``.jsonl`` with a ``text`` on each line; with none the model's own
    generations are used.
    """

    text: tuple[str, ...] = ()
    tokens: int = 4096
    training_tokens: int = 131_072
    length: int = 256
    seed: int = 0


@dataclass(frozen=True)
class Budget:
    """What bits and block sizes are chosen for: the least loss within a limit, or the least size within a loss.

    Exactly one of the first eight is set. ``like`` is a preset whose data file may not be exceeded; ``size_mb`` limits
    the data file, ``memory_mb`` the data file and the key-value cache at the bundle's context, both in 10⁶ bytes;
    ``ms_per_token`` the time of one decoded token's matrix products on this host; ``kl`` the KL divergence from the
    full-precision model in nats a token, or a sample of a classifier. Of models that are no language models ``error``
    limits the squared error of the outputs as a share of their squares, ``metric_loss`` how much worse than the float
    model ``metric`` may be on labelled samples, ``changed`` the share of samples that are
    answered otherwise. ``candidates`` are what a tensor may become, "bits:block" or "32", those of :data:`CANDIDATES`
    when empty; each projection is chosen by itself (``group = "tensor"``) or a layer's together (``"layer"``);
    ``tokens`` of the calibration text are used to measure, or ``samples``. With ``measure = "one"`` only one candidate
    of each group is measured, and the others' prices follow from how much they change the weights: many times quicker
    for a large model.
    """

    like: str | None = None
    size_mb: float | None = None
    memory_mb: float | None = None
    ms_per_token: float | None = None
    kl: float | None = None
    error: float | None = None
    metric_loss: float | None = None
    changed: float | None = None
    candidates: tuple[str, ...] = ()
    group: str = "tensor"
    tokens: int = 2048
    samples: int = 64
    metric: str | None = None
    measure: str = "every"

    @property
    def limit(self) -> str:
        """The limit as the recipe has it, such as ``size_mb = 1.2``."""
        key = next(key for key in LIMITS if getattr(self, key) is not None)
        return f"{key} = {getattr(self, key)!r}".replace("'", '"')

    @property
    def most_lost(self) -> float | None:
        """The limit of one in loss; None of one in bytes or time."""
        return next((limit for key in LOSSES if (limit := getattr(self, key)) is not None), None)


CANDIDATES = ("2:128", "2:32", "4:128", "4:64", "4:32", "4:16", "8:128", "8:32")
"""What a budget chooses from where the recipe names no candidates."""
CHOSEN_BY_BUDGET = "chosen by budget"
LOSSES = ("kl", "error", "metric_loss", "changed")
LIMITS = ("like", "size_mb", "memory_mb", "ms_per_token", *LOSSES)


@dataclass(frozen=True)
class Recipe:
    """A whole request, which nothing rewrites: what is decided stands beside it (:mod:`.decisions`).

    ``accuracy_level`` 4 lets MatMulNBits compute in int8 (fastest), 1 and 0 in float32."""

    name: str
    weights: Storage
    embedding: Storage
    head: Storage
    overrides: tuple[Override, ...] = ()
    accuracy_level: int = 4
    context_length: int | None = None
    prune: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, OptionValue]] = field(default_factory=dict)
    calibration: CalibrationText = CalibrationText()
    budget: Budget | None = None
    promise: Mapping[str, float] = field(default_factory=dict)
    activations: Activations = Activations()
    cache: Cache = Cache()

    @property
    def storages(self) -> tuple[Storage, ...]:
        """Every way to store a tensor that it names."""
        return (self.weights, self.embedding, self.head, *(entry.storage for entry in self.overrides))

    def storage(self, name: str, kind: str) -> tuple[Storage, str]:
        """Return the storage asked for a tensor, and the recipe entry that asks it."""
        override = self.override(name)
        if override is not None:
            return override.storage, override.reason or f"override {override.match!r}"
        if kind == "embedding":
            return self.embedding, "[embedding]"
        if kind == "head":
            return self.head, "[head]"
        return self.weights, "[weights]"

    def override(self, name: str) -> Override | None:
        """Return the override that is for the tensor called ``name``: the last that matches."""
        return next((entry for entry in reversed(self.overrides) if fnmatchcase(name, entry.match)), None)

    def with_methods(self, change: Callable[[str], str]) -> "Recipe":
        """The same with other methods of rounding: ``change(method)`` in the place of each."""

        def changed(storage: Storage) -> Storage:
            return replace(storage, method=change(storage.method))

        return replace(
            self,
            weights=changed(self.weights),
            embedding=changed(self.embedding),
            head=changed(self.head),
            overrides=tuple(replace(entry, storage=changed(entry.storage)) for entry in self.overrides),
        )

    def to_json(self) -> dict[str, object]:
        """Return the resolved recipe, as the manifest keeps it: files of text by their names, not their places."""
        content = asdict(self)
        content["calibration"]["text"] = [Path(name).name for name in self.calibration.text]
        content["activations"] = self.activations.to_json()
        return content


def recipe_from_json(content: Mapping[str, Any]) -> Recipe:
    """The inverse of :meth:`Recipe.to_json`, of a manifest that this version wrote (TypeError, KeyError otherwise)."""
    tables = {key: _storage_from_json(content[key]) for key in ("weights", "embedding", "head")}
    lists = {key: tuple(content.get(key, ())) for key in ("prune", "before", "after")}
    calibration, budget = content["calibration"], content["budget"]
    made = {
        "overrides": tuple(map(override_from_json, content["overrides"])),
        "activations": Activations(**{**content["activations"], "kept": tuple(content["activations"].get("kept", ()))}),
        "cache": Cache(**content.get("cache", {})),
        "calibration": CalibrationText(**{**calibration, "text": tuple(calibration["text"])}),
        "budget": budget and Budget(**{**budget, "candidates": tuple(budget["candidates"])}),
    }
    return Recipe(**{**content, **tables, **lists, **made})


def override_from_json(content: Mapping[str, Any]) -> Override:
    """An override as a manifest keeps it."""
    return Override(**{**content, "storage": _storage_from_json(content["storage"])})


def _storage_from_json(content: Mapping[str, Any]) -> Storage:
    block = content["block_size"]
    return Storage(**{**content, "block_size": tuple(block) if isinstance(block, list) else block})


def describe_promise(promise: Mapping[str, float]) -> str:
    """What a preset was measured to lose, as one line."""
    measured = ", ".join(f"{kl:.3g} on {model}" for model, kl in promise.items())
    return f"KL from the float32 model, nats a token (benchmarks/accuracy.py): {measured}"


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
)


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
    )


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


def candidate_storage(text: str, like: Storage) -> Storage:
    """The storage that a budget's candidate stands for, method and zero points as in ``like``."""
    bits, _, block = text.partition(":")
    if not block:
        return replace(like, bits=KEPT_BITS)
    return replace(like, bits=int(bits), block_size=0 if block == PER_CHANNEL else int(block))


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
    return Cache(windows, bits)


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
    symmetric = table.get("symmetric", default.symmetric)
    if not isinstance(symmetric, bool):
        raise InputError(f"{path}: {where} symmetric must be true or false, not {symmetric!r}")
    return Storage(method, bits, block, symmetric)


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
