"""What the user asks for, as data; :mod:`edgepress.exporter.recipe.reading` reads it from a preset or a TOML file.

A recipe says, for linear layers (``[weights]``), the token embedding (``[embedding]``) and the output head
(``[head]``), which method stores them at which bits and block size; ``[[override]]`` tables change that for tensors
whose name matches a pattern. ``bits = 32`` keeps float32, ``16`` stores float16. ``prune`` names steps that make the
model smaller before any weight is rounded, in their order; ``before`` and ``after`` name methods that prepare the
weights for rounding and that repair what rounding did; ``[options.<method>]`` sets a method's own options.
``block_size`` may list sizes: each tensor gets the one that takes the fewest bytes at its width, as presets do.
``[activations]`` computes in float16 or in integers. ``[cache]`` says what is kept of earlier tokens.
``mtp = true`` ships what a checkpoint has to predict a token further. ``[calibration]`` says which text shows the
methods what the model computes. ``[budget]`` leaves bits and block size of
every tensor that no override names to measurement and a solver. Presets are the files in ``presets/``: adding one is
adding a file. ``[promise]`` is what a preset was measured to lose on models that everyone can try: KL in nats a token;
where a recipe prunes it is dropped, as it says nothing of that.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from math import floor
from pathlib import Path
from typing import Any

from edgepress.bundle.kept_text import FIRST, KeptText

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
    ``keep`` so many tokens of a text: when there are more, the first ``sinks`` stay and the last. None keeps all.
    """

    windows: bool | None = None
    bits: int | None = None
    keep: int | None = None
    sinks: int = FIRST

    @property
    def in_integers(self) -> bool:
        """Whether keys and values are integers."""
        return self.bits is not None

    @property
    def kept(self) -> KeptText | None:
        """What stays of a text, as the manifest keeps it."""
        return None if self.keep is None else KeptText(self.keep, self.sinks)

    def to_json(self) -> dict[str, object]:
        """As the manifest keeps what was asked."""
        kept = {} if self.keep is None else {"keep": self.keep, "sinks": self.sinks}
        return {"windows": self.windows, "bits": self.bits, **kept}


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
    the data file, ``memory_mb`` the data file and the states of a text by default, both in 10⁶ bytes;
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
    def most_bytes(self) -> int | None:
        """The limit of one in bytes that the recipe has as a number; None of others."""
        megabytes = self.size_mb if self.memory_mb is None else self.memory_mb
        # 0.128512 · 10⁶ is 128511.99999999999 in float64, and 128,512 is meant
        return None if megabytes is None else floor(round(megabytes * 1e6, 3))

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
class Draft:
    """A smaller model of the same tokens to ship beside the model, for speculation.

    ``recipe`` makes it of the model itself: its ``prune`` names the steps. ``gain`` is how much faster an answer has to
    be estimated to go with it, or else it is not shipped; 0 ships it whatever it is worth.
    """

    recipe: "Recipe"
    gain: float = 1.05


@dataclass(frozen=True)
class Recipe:
    """A whole request, which nothing rewrites: what is decided stands beside it (:mod:`.decisions`).

    ``accuracy_level`` 4 lets MatMulNBits compute in int8 (fastest), 1 and 0 in float32. ``mtp`` asks for the layer that
    predicts a token further, where a checkpoint has one, to be shipped beside the model, rounded to nearest.
    """

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
    mtp: bool = False
    draft: Draft | None = None

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
        content["activations"], content["cache"] = self.activations.to_json(), self.cache.to_json()
        del content["draft"]
        if self.draft is not None:
            content["draft"] = {"recipe": self.draft.recipe.to_json(), "gain": self.draft.gain}
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
    if "draft" in content:
        draft = content["draft"]
        made["draft"] = Draft(recipe_from_json(draft["recipe"]), draft["gain"])
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


def candidate_storage(text: str, like: Storage) -> Storage:
    """The storage that a budget's candidate stands for, method and zero points as in ``like``."""
    bits, _, block = text.partition(":")
    if not block:
        return replace(like, bits=KEPT_BITS)
    return replace(like, bits=int(bits), block_size=0 if block == PER_CHANNEL else int(block))
