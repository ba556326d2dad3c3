"""Rotary position embedding: inverse frequencies, attention factor and cos/sin tables.

Arithmetic is float32 in the order of transformers' modeling_rope_utils.py, the reference; powers and trigonometric
functions are taken in float64 and rounded, which is within one unit in the last place of torch's float32 ones.

Equations: θ_d = base^(−2d/D) (Su et al. 2021, RoFormer, eq. 15); linear: θ_d / s (Chen et al. 2023); llama3:
piecewise in the wavelength (Llama 3.1's apply_scaling); yarn: NTK-by-parts (Peng et al. 2023, eq. 22–23); dynamic:
θ_d for texts of up to ``max_position_embeddings`` tokens, and a larger base beyond them (the same, eq. 14);
longrope: θ_d / λ_d with one λ for short and one for long inputs (Ding et al. 2024).
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from edgepress.bundle.rotations import KeyRotation
from edgepress.errors import InputError
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.parts.primitives import Rope, RotatedKeys
from edgepress.exporter.source.config import Config

Floats = npt.NDArray[np.float32]

ROPE_TYPES = ("default", "dynamic", "linear", "llama3", "longrope", "yarn")
_MOST_ROTATED = 1 << 16  # dimensions of a head: the largest models have 512
_TABLE_ROWS = 4096  # rows of a table made at a time: bounds the float64 intermediates


def read_rope(
    config: Config,
    *,
    head_dim: int,
    context_length: int,
    theta: float = 10_000.0,
    partial: bool = False,
    share: float = 1.0,
    aliases: Mapping[str, str] = MappingProxyType({}),
    types: Collection[str] = ROPE_TYPES,
    original_context: int | None = None,
    interleaved: bool = False,
    ntk_alpha: bool = False,
    query_growth: bool = False,
    default: Mapping[str, object] = MappingProxyType({}),
    outside: tuple[str, str] = ("rope_theta", "partial_rotary_factor"),
) -> Rope:
    """Read one rope for all layers, in the form of transformers 4 or 5.

    transformers 4: ``rope_theta`` and ``rope_scaling``; transformers 5: ``rope_parameters`` with both inside. If both
    forms are there, they must say the same.
    ``theta`` is the family's default, ``partial`` whether it implements ``partial_rotary_factor``, whose default is
    ``share``, ``aliases`` its other names for ``types``, ``original_context`` its default for
    ``original_max_position_embeddings``. ``interleaved`` says which dimensions are pairs, see :class:`Rope`.
    ``default`` is what stands in the place of a section where there is none. With ``ntk_alpha`` a rope that is called
    dynamic and has ``alpha`` is of the default kind with θ · alpha^(D / (D − 2)). With ``query_growth`` a section may
    have ``llama_4_scaling_beta``, by which queries grow every ``original_max_position_embeddings`` positions.
    ``outside`` are what θ and the partial factor are called outside of a section.
    """
    original = config.optional_integer("original_max_position_embeddings", original_context)

    def read(section: Config) -> Rope:
        base = inside_or_outside(section, config, "rope_theta", above=1.0, outer=outside[0]) or theta
        factor = inside_or_outside(section, config, "partial_rotary_factor", above=0.0, outer=outside[1]) or share
        if factor != 1.0 and not partial:
            place = section if section.has("partial_rotary_factor") else config
            raise place.refuse("partial_rotary_factor", "this family rotates whole heads; only 1.0 is implemented")
        if ntk_alpha and "dynamic" in (section.values.get("rope_type"), section.values.get("type")):
            alpha = section.optional_number("alpha", above=0.0) or 1.0
            base *= alpha ** (head_dim / max(head_dim - 2, 1))
        rope = rope_from_section(
            section,
            rotated=rotated_dimensions(config, head_dim, factor),
            context_length=context_length,
            theta=base,
            aliases=aliases,
            types=types,
            original_context=original,
        )
        return replace(rope, query_growth=_growth(section, original or context_length)) if query_growth else rope

    sections = [config.section("rope_scaling"), config.section("rope_parameters")]
    found = [read(section) for section in sections if section] or [read(Config(default, config.where))]
    return replace(same_rope(config, found), interleaved=interleaved)


def _growth(section: Config, original: int) -> tuple[float, int] | None:
    beta = section.optional_number("llama_4_scaling_beta")
    return (beta, section.optional_integer("original_max_position_embeddings") or original) if beta else None


def same_rope(config: Config, ropes: Sequence[Rope]) -> Rope:
    """The rope that ``rope_scaling`` and ``rope_parameters`` both say; InputError when they say different ones."""
    if any(rope != ropes[0] for rope in ropes):
        raise config.refuse("rope_scaling", "rope_parameters is there too, and says something else; keep one of them")
    return ropes[0]


def yarn_reach(config: Mapping[str, object]) -> int | None:
    """How many positions the config's YaRN is made for, factor times the original context; None where it has none."""
    for key in ("rope_scaling", "rope_parameters"):
        section = config.get(key)
        if not isinstance(section, Mapping) or "yarn" not in (section.get("rope_type"), section.get("type")):
            continue
        found = section.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        original, factor = found or config.get("max_position_embeddings"), section.get("factor")
        if isinstance(original, int) and isinstance(factor, int | float) and math.isfinite(factor * original):
            return int(factor * original)
    return None


def yarn_score_scale(config: Mapping[str, object]) -> float:
    """What DeepSeek's YaRN multiplies attention scores by: (0.1 · mscale_all_dim · ln(factor) + 1)², else 1."""
    for key in ("rope_parameters", "rope_scaling"):
        section = config.get(key)
        if not isinstance(section, Mapping):
            continue
        kind = section.get("rope_type") or section.get("type") or "default"
        weight, factor = section.get("mscale_all_dim"), section.get("factor")
        if kind != "default" and weight and isinstance(weight, int | float) and isinstance(factor, int | float):
            return _yarn_scale(factor, weight) ** 2
    return 1.0


def rotated_dimensions(config: Config, head_dim: int, factor: float = 1.0) -> int:
    """Return how many leading dimensions of a head are rotated; they come in pairs."""
    rotated = int(head_dim * factor)
    if rotated > _MOST_ROTATED:
        raise config.refuse("head_dim", f"{rotated} dimensions would be rotated; at most {_MOST_ROTATED} are")
    if rotated % 2 or not 0 < rotated <= head_dim:
        key = "head_dim" if factor == 1.0 else "partial_rotary_factor"
        raise config.refuse(key, f"{rotated} of {head_dim} dimensions would be rotated; an even number must be")
    return rotated


def rope_from_section(
    section: Config,
    *,
    rotated: int,
    context_length: int,
    theta: float,
    aliases: Mapping[str, str] = MappingProxyType({}),
    types: Collection[str] = ROPE_TYPES,
    original_context: int | None = None,
) -> Rope:
    """Read one mapping of rope parameters; ``original_context`` is what the config says outside of it.

    Rotary embedding over several axes (``mrope_section``) is plain for text, whose tokens have one position in all.
    """
    section.significant = ("partial_rotary_factor",)  # other keys are read for one type of rope, and left for others
    if section.has("mrope_section"):
        section.without_effect("mrope_section", "mrope_interleaved")
        section.notes.append(
            f"{section.where}: mrope_section = {section.values['mrope_section']} is passed over: a token of "
            "text has the same position in every axis, so that this is plain rope"
        )
    try:
        with np.errstate(all="ignore"):
            rope = _read_section(section, rotated, context_length, theta, {*types}, aliases, original_context)
        numbers = [*rope.inverse_frequencies, *(rope.long_inverse_frequencies or ()), rope.attention_factor]
    except (ArithmeticError, ValueError):  # math's functions raise where numpy's go on with infinity
        numbers = [math.inf]
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"{section.where}: these rope parameters give frequencies that are not finite")
    return rope


def _read_section(  # noqa: PLR0917 - private: one caller, above
    section: Config,
    rotated: int,
    context_length: int,
    theta: float,
    types: set[str],
    aliases: Mapping[str, str],
    original_context: int | None,
) -> Rope:
    given = section.text("type", "default", {*types, *aliases})
    kind = section.text("rope_type", given, {*types, *aliases})
    if section.has("type") and kind != given:
        raise section.refuse("rope_type", f"contradicts type = {given!r}")
    kind = aliases.get(kind, kind)
    if kind in ("default", "dynamic"):
        if kind == "dynamic":  # what its factor changes lies beyond the context, where no bundle goes
            section.optional_number("factor", above=0.0)
        return _rope(default_frequencies(theta, rotated))
    if kind == "linear":
        return _rope(linear_frequencies(theta, rotated, section.number("factor", above=0.0)))
    original = (
        section.optional_integer("original_max_position_embeddings", original_context, minimum=2) or context_length
    )
    if original_context is not None and original != original_context:
        raise section.refuse(
            "original_max_position_embeddings", f"contradicts the same key outside, or its default, {original_context}"
        )
    if kind == "llama3":
        low, high = section.number("low_freq_factor", above=0.0), section.number("high_freq_factor", above=0.0)
        if high <= low:
            raise section.refuse("high_freq_factor", f"must be above low_freq_factor = {low:g}")
        factor = section.number("factor", above=0.0)
        return _rope(llama3_frequencies(theta, rotated, factor, original, low=low, high=high))
    factor = section.optional_number("factor", above=0.0) or context_length / original
    attention_factor = section.optional_number("attention_factor", above=0.0)
    if kind == "yarn":
        frequencies = yarn_frequencies(
            theta,
            rotated,
            factor,
            original,
            beta_fast=section.optional_number("beta_fast", above=0.0) or 32.0,
            beta_slow=section.optional_number("beta_slow", above=0.0) or 1.0,
            truncate=section.flag("truncate", True),
        )
        mscale, mscale_all = section.optional_number("mscale"), section.optional_number("mscale_all_dim")
        return _rope(frequencies, attention_factor or yarn_attention_factor(factor, mscale, mscale_all))
    short = section.numbers("short_factor", rotated // 2)
    long = section.numbers("long_factor", rotated // 2)
    attention_factor = attention_factor or longrope_attention_factor(factor, original)
    if original >= context_length:  # no input is long enough for the long factors
        return _rope(longrope_frequencies(theta, rotated, short), attention_factor)
    return Rope(
        _tuple(longrope_frequencies(theta, rotated, short)),
        attention_factor,
        _tuple(longrope_frequencies(theta, rotated, long)),
        original,
    )


def default_frequencies(theta: float, rotated: int) -> Floats:
    """Return θ_d = theta^(−2d / rotated), d = 0 … rotated/2 − 1."""
    return np.float32(1.0) / _powers(theta, rotated)


def linear_frequencies(theta: float, rotated: int, factor: float) -> Floats:
    """Return θ_d / factor: positions squeezed by ``factor``."""
    return default_frequencies(theta, rotated) / np.float32(factor)


def llama3_frequencies(theta: float, rotated: int, factor: float, original: int, *, low: float, high: float) -> Floats:
    """Wavelengths above original / low are slowed by ``factor``, below original / high kept, between interpolated."""
    frequencies = default_frequencies(theta, rotated)
    wavelengths = np.float32(2 * math.pi) / frequencies
    is_low, is_high = wavelengths > original / low, wavelengths < original / high
    slowed = frequencies / np.float32(factor)
    smooth = (np.float32(original) / wavelengths - np.float32(low)) / np.float32(high - low)
    between = (np.float32(1.0) - smooth) * frequencies / np.float32(factor) + smooth * frequencies
    chosen: Floats = np.where(is_low, slowed, np.where(is_high, frequencies, between))
    return chosen


def yarn_frequencies(
    theta: float, rotated: int, factor: float, original: int, *, beta_fast: float, beta_slow: float, truncate: bool
) -> Floats:
    """Dimensions with over ``beta_fast`` rotations in ``original`` positions kept, under ``beta_slow`` slowed."""

    def dimension(rotations: float) -> float:
        """Return the (fractional) dimension that makes so many rotations within ``original`` positions."""
        return rotated * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(beta_fast), dimension(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    if low == high:
        high += 0.001
    powers = _powers(theta, rotated)
    kept, slowed = np.float32(1.0) / powers, np.float32(1.0) / (np.float32(factor) * powers)
    ramp = (np.arange(rotated // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    keep: Floats = np.float32(1.0) - np.clip(ramp, np.float32(0.0), np.float32(1.0))
    mixed: Floats = slowed * (np.float32(1.0) - keep) + kept * keep
    return mixed


def yarn_attention_factor(factor: float, mscale: float | None = None, mscale_all_dim: float | None = None) -> float:
    """Return 0.1 · ln(factor) + 1, or DeepSeek's ratio of two such terms when both mscales are given and not 0."""
    if mscale and mscale_all_dim:
        return _yarn_scale(factor, mscale) / _yarn_scale(factor, mscale_all_dim)
    return _yarn_scale(factor, 1.0)


def _yarn_scale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def longrope_frequencies(theta: float, rotated: int, factors: Sequence[float]) -> Floats:
    """Return θ_d / factors_d."""
    return np.float32(1.0) / (np.asarray(factors, np.float32) * _powers(theta, rotated))


def longrope_attention_factor(factor: float, original: int) -> float:
    """Return sqrt(1 + ln(factor) / ln(original))."""
    return 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))


def rope_rows(frequencies: Sequence[float], attention_factor: float, start: int, stop: int) -> tuple[Floats, Floats]:
    """Return cos and sin of the positions from ``start`` to ``stop``, float32 (positions, rotated / 2) each."""
    shape = (stop - start, len(frequencies))
    cosines, sines = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for first in range(start, stop, _TABLE_ROWS):
        positions = np.arange(first, min(first + _TABLE_ROWS, stop), dtype=np.float32)
        angles = np.outer(positions, np.asarray(frequencies, np.float32)).astype(np.float64)  # product in float32
        rows = slice(first - start, first - start + len(positions))
        cosines[rows] = np.cos(angles).astype(np.float32) * np.float32(attention_factor)
        sines[rows] = np.sin(angles).astype(np.float32) * np.float32(attention_factor)
    return cosines, sines


def query_factors(growth: tuple[float, int], stop: int, start: int = 0) -> Floats:
    """Return 1 + β ln(1 + ⌊p / n⌋) of the positions p from ``start`` to ``stop``, float32; ``growth`` is (β, n)."""
    beta, every = growth
    turns = np.arange(start, stop) // every
    return (1 + beta * np.log1p(turns)).astype(np.float32)


@lru_cache(maxsize=8)  # some megabytes each; every pass over a layer asks for the same
def rope_tables(rope: Rope, length: int) -> tuple[Floats, Floats]:
    """Return cos and sin, float32 (length, rotated / 2), of a text of ``length`` tokens: which longrope looks at.

    Shared by all who ask: not to be written to.
    """
    long = rope.long_inverse_frequencies
    chosen = rope.inverse_frequencies if long is None or length <= rope.long_from else long
    tables = rope_rows(chosen, rope.attention_factor, 0, length)
    for table in tables:
        table.flags.writeable = False
    return tables


def _powers(theta: float, rotated: int) -> Floats:
    exponents = np.arange(0, rotated, 2, dtype=np.float32) / np.float32(rotated)
    return np.power(np.float64(np.float32(theta)), exponents.astype(np.float64)).astype(np.float32)


def _rope(frequencies: Floats, attention_factor: float = 1.0) -> Rope:
    return Rope(_tuple(frequencies), attention_factor)


def _tuple(frequencies: Floats) -> tuple[float, ...]:
    return tuple(float(frequency) for frequency in frequencies)


def inside_or_outside(section: Config, config: Config, key: str, *, above: float, outer: str = "") -> float | None:
    """Return a number that may stand inside the section or outside of it, and must be the same if in both.

    Outside it may have another name, ``outer``.
    """
    inside, outside = section.optional_number(key, above=above), config.optional_number(outer or key, above=above)
    if inside is not None and outside is not None and inside != outside:
        raise section.refuse(key, f"contradicts the same key outside, {outside:g}")
    return outside if inside is None else inside


def rotated_keys(decoder: Decoder) -> Iterator[tuple[RotatedKeys, bool]]:
    """The states of keys that are rotated, and whether in pairs of neighbours."""
    for index, layer in enumerate(decoder.layers):
        for block in layer.blocks:
            keys = block.mixer.rotated_keys(index)
            if keys is not None:
                by_rope = decoder.ropes[keys.rope].interleaved
                yield keys, by_rope if keys.interleaved is None else keys.interleaved


def key_rotations(decoder: Decoder) -> tuple[KeyRotation, ...] | None:
    """By what keys in the decoder's states are rotated; None where what is kept of a token is bound to its position.

    So it is with learned positions, which are in everything that is computed; with longrope, whose frequencies change
    with a text's length; and with keys that are normed after they are rotated.
    """
    if decoder.positions is not None or decoder.long_from is not None:
        return None
    found: dict[tuple[str, bool], list[str]] = {}
    for keys, interleaved in rotated_keys(decoder):
        if keys.gain is not None:
            return None
        found.setdefault((keys.rope, interleaved), []).append(keys.name)
    return tuple(
        KeyRotation(tuple(names), tuple(map(float, decoder.ropes[rope].inverse_frequencies)), interleaved)
        for (rope, interleaved), names in found.items()
    )
