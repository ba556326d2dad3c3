"""What a profile says of memory: by phase, by token, what is left after unloading, and within which limits."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import mean, median

from edgepress.runtime.profile.records import Profile, Sample
from edgepress.runtime.profile.statistics import student

_ANONYMOUS = "anonymous_bytes"
_LEAST_LEFT = 3  # readings after unloading that a line can be laid through
_PAGE = 4096  # bytes, where the device does not tell


def memory_by_phase(profile: Profile) -> dict[str, dict[str, float]]:
    """Bytes by phase and quantity, of the first time that the bundle was opened."""
    return {
        phase_of(sample): {name: values[0] for name, values in sample.measured.items()}
        for sample in profile.samples("memory")
        if sample.detail["repeat"] == 0
    }


def phase_of(sample: Sample) -> str:
    """A phase in words: what was done last, and of which size: examples, a source, else the tokens of a text."""
    rows, length, tokens = (sample.detail.get(name) for name in ("rows", "length", "tokens"))
    if rows is not None:
        return f"{sample.what} with {rows}"
    size = length if sample.what == "encoded" else tokens
    return f"{sample.what} at {size}" if size else sample.what


@dataclass(frozen=True)
class Leak:
    """Bytes of anonymous memory that each further opening and closing leaves, with the 95 % interval."""

    bytes: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether it grew by more than its scatter explains."""
        return self.low > 0


def leak(profile: Profile) -> Leak | None:
    """How memory after unloading grows with each opening: the least squares line through all but the first.

    The first opening loads libraries, which stay. The interval is Student's, of the scatter around the line, which is
    taken to be a page at least; None where fewer than three readings are left.
    """
    left = [
        sample.measured[_ANONYMOUS][0]
        for sample in profile.samples("memory", "unloaded")
        if _ANONYMOUS in sample.measured
    ][1:]
    if len(left) < _LEAST_LEFT:
        return None
    places = [number - (len(left) - 1) / 2 for number in range(len(left))]  # centred, so the mean is the line's middle
    spread = sum(place**2 for place in places)
    slope = sum(place * size for place, size in zip(places, left, strict=True)) / spread
    middle, degrees = mean(left), len(left) - 2
    errors = [size - middle - slope * place for place, size in zip(places, left, strict=True)]
    page = profile.header.description.get("page_bytes") or _PAGE
    scatter = max(sqrt(sum(error**2 for error in errors) / degrees), page)
    margin = student(degrees) * scatter / sqrt(spread)
    return Leak(slope, slope - margin, slope + margin)


@dataclass(frozen=True)
class Growth:
    """Bytes that a token of a text takes, between two lengths in tokens: as the manifest's states say, and measured.

    ``measured`` is anonymous memory, the median of all openings; None where this system does not tell.
    """

    shorter: int
    longer: int
    states: float
    measured: float | None


def growth(profile: Profile) -> Growth | None:
    """Memory of a token, from the longest prompt to the end of the answer after it; None where it was not measured.

    What a call works in is as large as its number of tokens, up to a limit, so prompts of two lengths differ by more
    than their states; an answer adds nothing but its tokens.
    """
    by_repeat: dict[int, dict[str, Sample]] = defaultdict(dict)
    for sample in profile.samples("memory"):
        if "state_bytes" in sample.detail:
            by_repeat[sample.detail["repeat"]][sample.what] = sample  # of several prompts the last, the longest
    pairs = [
        (found[begun], found["decoded"])
        for found in by_repeat.values()
        for begun in ("prefilled", "encoded")
        if {begun, "decoded"} <= {*found}
    ]
    if not pairs:
        return None
    before, after = pairs[0]
    shorter, longer = before.detail["tokens"], after.detail["tokens"]
    if longer <= shorter:
        return None
    grown = [
        (after.measured[_ANONYMOUS][0] - before.measured[_ANONYMOUS][0]) / (longer - shorter)
        for before, after in pairs
        if _ANONYMOUS in before.measured and _ANONYMOUS in after.measured
    ]
    states = (after.detail["state_bytes"] - before.detail["state_bytes"]) / (longer - shorter)
    return Growth(shorter, longer, states, median(grown) if grown else None)


@dataclass(frozen=True)
class Limit:
    """A limit of memory in bytes, and who sets it, in words."""

    bytes: float
    by: str


def known_limits(profile: Profile) -> list[Limit]:
    """Limits that the bundle ran under: the one that ``--memory-limit`` tried, and the least of its control groups'."""
    found = []
    if profile.header.settings.get("memory_limit_bytes") is not None:
        found += [
            Limit(trial.measured["limit_bytes"][0], f"limit tried ({trial.detail['by']})")
            for trial in profile.samples("limit", "trial")
        ]
    groups = [sample.detail.get("control_group") or {} for sample in profile.samples("memory")]
    if set_ := [group["limit_bytes"] for group in groups if group.get("limit_bytes") is not None]:
        found.append(Limit(min(set_), "limit of the control group"))
    return found


def limits(profile: Profile) -> list[str]:
    """What came of limits of memory: the smallest that was survived, or the one that was tried."""
    trials = profile.samples("limit", "trial")
    smallest = profile.samples("limit", "smallest")
    if smallest:
        least = smallest[0].measured["limit_bytes"][0]
        by = f"{trials[0].detail['by']}, {len(trials)} limits tried"
        return [f"{least / 1e6:.0f} MB is the least with which it answers ({by})"]
    return [_trial(trial) for trial in trials]


def _trial(trial: Sample) -> str:
    verdict = "survives" if trial.detail["survived"] else "does not survive"
    words = f"{verdict} {trial.measured['limit_bytes'][0] / 1e6:.0f} MB ({trial.detail['by']})"
    return f"{words}: {trial.detail['error']}" if trial.detail["error"] else words


def memory_figures(profile: Profile) -> list[tuple[str, str]]:
    """Every figure of memory as a name and what is known of it, in words."""
    found = [(f"memory, {phase}", in_words(sizes)) for phase, sizes in memory_by_phase(profile).items()]
    for sample in profile.samples("memory"):
        if account := sample.detail.get("android"):
            found.append((f"memory, {sample.what}, Android's", in_words(account)))
    found += _around(profile)
    if (grown := growth(profile)) is not None:
        span = f"between {grown.shorter} and {grown.longer} tokens"
        found.append(("a token, by the manifest", f"takes {grown.states:,.0f} bytes of states, {span}"))
        if grown.measured is not None:
            found.append(("a token, as measured", f"takes {grown.measured:,.0f} bytes of anonymous memory, {span}"))
    found += [("memory limit", words) for words in limits(profile)]
    if (left := leak(profile)) is not None:
        found.append(("opening and closing once more", _leak(left)))
    return found


def _around(profile: Profile) -> list[tuple[str, str]]:
    """What the system had to give before and after, and the control group's limit and highest use."""
    samples, found = profile.samples("memory"), []
    free = [known for sample in samples if (known := sample.detail.get("available_bytes")) is not None]
    if free:
        found.append(("memory that is available", f"{free[0] / 1e6:.0f} MB before, {free[-1] / 1e6:.0f} MB after"))
    groups = [group for sample in samples if (group := sample.detail.get("control_group")) is not None]
    used = [group["used_bytes"] for group in groups if group["used_bytes"] is not None]
    set_ = [group["limit_bytes"] for group in groups if group["limit_bytes"] is not None]
    if used or set_:
        limit = f"a limit of {min(set_) / 1e6:.0f} MB" if set_ else "no limit"
        most = f", at most {max(used) / 1e6:.0f} MB used by all that is in it" if used else ""
        found.append(("control group", f"{limit}{most}"))
    return found


def _leak(left: Leak) -> str:
    words = f"leaves {left.bytes / 1e6:.2f} MB (95 %: {left.low / 1e6:.2f} to {left.high / 1e6:.2f})"
    if left.certain:
        return f"{words}: it leaks, since memory grows with each time by more than its scatter"
    return f"{words}: no leak is seen, since it grows by no more than its scatter"


def in_words(sizes: Mapping[str, float]) -> str:
    """Kinds of memory with their megabytes."""
    return ", ".join(_size(name, size) for name, size in sizes.items())


def _size(name: str, size: float) -> str:
    return f"{name.removesuffix('_bytes').replace('_', ' ')} {size / 1e6:.1f} MB"
