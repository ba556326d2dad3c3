"""Figures of a device from a profile of one bundle on it, and how far its calls are from what these figures say.

The rates are those of kernels alone; nothing is chosen so that the bundle's times come out. So the error is one of the
roofline itself: kinds of nodes that are not timed alone, what the program does between them, weights that a cache
holds.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from edgepress.errors import InputError
from edgepress.runtime.profile.records import Profile, Trouble
from edgepress.runtime.profile.statistics import Interval
from edgepress.runtime.profile.summary import device_of, intervals, kernel_rates
from edgepress.targets.devices import Call, Error, Figure, Roofline

NEEDED = ("speed", "roofline")


def fit(profile: Profile, name: str) -> Roofline:
    """Make a device's figures of a profile's passes ``speed`` and ``roofline``.

    Raises:
        InputError: a pass is missing, has no good sample or failed, or times were taken under emulation.

    """
    header = profile.header
    if header.description.get("emulated"):
        raise InputError(f"{header.device} is emulated: its times are not those of a device; profile a real one")
    whole = _speed(profile)
    rates = kernel_rates(profile)
    date, model = header.started[:10], device_of(header.description)
    by = f"measured by edgepress {header.versions['edgepress']} on {model}, {date}"

    def rate(kind: str, what: str) -> Figure:
        if kind not in rates:
            raise _missing(profile, "roofline")
        detail = profile.samples("roofline", kind)[0].detail
        size = f"rows {detail['rows']}, threads {detail['threads']}"
        weights = f", weights {detail['bytes'] / 1e6:.0f} MB" if detail["bytes"] else ""
        return Figure(rates[kind], f"{by}: {what}, {size}{weights}", date)

    def rate_where_known(kind: str, what: str) -> Figure | None:
        return rate(kind, what) if kind in rates else None

    memory = header.description.get("memory_bytes")
    own = "of the bundle's own scheme and sizes"
    process = next(iter(profile.samples("roofline", "process")), None)
    found = Roofline(
        name=name,
        soc=str(header.description.get("soc") or model),
        cores=_cores(header.description.get("clusters", ())),
        bytes_per_second=rate("memory", f"MatMulNBits {own}"),
        int8_operations_per_second=rate("int8", f"MatMulNBits {own}"),
        float32_operations_per_second=rate("float32", "a MatMul"),
        attention_decode_operations_per_second=rate_where_known("attention_decode", "GroupQueryAttention"),
        attention_prefill_operations_per_second=rate_where_known("attention_prefill", "GroupQueryAttention"),
        nodes_per_second=rate_where_known("nodes", "norms, one after the other"),
        numbers_per_second=rate_where_known("numbers", "norms, one after the other"),
        kernels=None if process is None else process.detail["kernels"],
        memory_bytes=Figure(memory, f"{by}: what its system tells", date) if memory else None,
        process_bytes=None
        if process is None
        else Figure(process.measured["resident_bytes"][0], f"{by}: once it has computed and closed a product", date),
    )
    return _with_error(found, profile, whole, by)


def _speed(profile: Profile) -> dict[str, Interval]:
    found = intervals(profile, "speed")
    if not found:
        raise _missing(profile, "speed")
    return found


def _missing(profile: Profile, of: str) -> InputError:
    errors = [record.error for record in profile.records if isinstance(record, Trouble) and record.of == of]
    why = errors[-1] if errors else "it was not taken, or no sample of it is good; take both passes in one new profile"
    return InputError(f"the profile gives no figures of a device: pass {of}: {why}")


def _with_error(found: Roofline, profile: Profile, whole: dict[str, Interval], by: str) -> Roofline:
    """Hold what the figures say of each call against what it took."""
    compared = predictions(found, profile, whole)
    if not compared:
        raise InputError("the profile's passes speed and roofline have no call in common; take both anew")
    share = max(abs(predicted / took - 1) for predicted, took in compared.values())
    said = "; ".join(f"{call} {_ms(predicted)} predicted, {_ms(took)} measured"
                     for call, (predicted, took) in compared.items())  # fmt: skip
    source = f"{by}, the largest of {len(compared)} calls of {profile.header.bundle}: {said}"
    return msgspec.structs.replace(found, error=Error(share, source))


def predictions(found: Roofline, profile: Profile, whole: dict[str, Interval]) -> dict[str, tuple[float, float]]:
    """By the name of each call of a profile: the seconds that a device's figures say, and those that it took."""
    compared = {}
    for sample in profile.samples("roofline", "work"):
        if sample.round == 0 and (name := sample.detail["call"]) in whole:
            call = msgspec.convert({key: value for key, (value,) in sample.measured.items()}, Call)
            compared[name] = found.seconds(call), whole[name].value
    return compared


def lines_of(found: Roofline) -> list[str]:
    """The figures as lines for a terminal."""
    return [
        f"  {found.bytes_per_second.value / 1e9:.1f} GB/s, "
        f"{found.int8_operations_per_second.value / 1e9:.1f} and, in float32, "
        f"{found.float32_operations_per_second.value / 1e9:.1f} thousand million operations/s",
        *([] if found.error is None else [f"  off by {found.error.share:.0%} at most ({found.error.source})"]),
    ]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.2f} ms"


def _cores(clusters: Iterable[dict[str, Any]]) -> str:
    words = [f"{len(cluster['cores'])} × {cluster.get('name') or 'core'}" for cluster in clusters]
    return ", ".join(words) or "unknown"
