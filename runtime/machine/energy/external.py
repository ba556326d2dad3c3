"""An external meter that logs to a CSV file by a clock of its own, matched to ours by load pulses.

The run begins with a pattern of load and rest that the meter sees (:mod:`edgepress.runtime.machine.metering.pulses`);
the shift between the clocks is the one at which the file's power is highest in load and lowest at rest. That is why
this source opens no meter: its file is there after the run.
"""

import csv
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.metering.pulses import Pulse
from edgepress.runtime.machine.metering.readings import Meter, Rail, Trace, Unavailable

_UNITS = {prefix + unit: size for prefix, size in (("", 1.0), ("m", 1e-3), ("u", 1e-6)) for unit in "swva"}
_QUANTITIES = {
    "time": ("time", "timestamp", "t", "seconds"),
    "power": ("power", "p", "watts"),
    "voltage": ("voltage", "v", "volts"),
    "current": ("current", "i", "amperes", "amps"),
}
_DEFAULT_UNIT = {"time": "s", "power": "w", "voltage": "v", "current": "a"}
_HEADER = re.compile(r"^ *([A-Za-z ]+?)[ _]*(?:[(\[] *([µuμ]?[A-Za-z]+) *[)\]])? *$")
_LEAST_CONTRAST = 3.0  # standard errors between load and rest
_CANDIDATES = 4  # shifts tried between two samples


def read_power_log(path: Path) -> Trace:
    """Read a CSV file with a header: time, and power or voltage and current, units in brackets (``Power (mW)``).

    Raises:
        InputError: the file has no such header, a cell that is no number, fewer than ten rows, or time that goes back.

    """
    try:
        rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}") from None
    columns = _columns(rows[0], path) if rows else {}
    if "time" not in columns or not ("power" in columns or {"voltage", "current"} <= set(columns)):
        raise InputError(
            f"{path} needs a header with a time and either a power or a voltage and a current, for example "
            f"'Time (s),Power (mW)'; it has {', '.join(rows[0]) if rows else 'no line at all'}"
        )
    values = {name: _numbers(rows[1:], index, unit, path) for name, (index, unit) in columns.items()}
    seconds = values["time"]
    if len(seconds) < 10 or (np.diff(seconds) <= 0).any():
        raise InputError(f"{path} has {len(seconds)} rows; at least 10 are needed, with time that only grows")
    watts = values["power"] if "power" in values else values["voltage"] * values["current"]
    return Trace(Rail("external", "what the external meter sees", "power", None, None), seconds, watts)


def _columns(header: list[str], path: Path) -> dict[str, tuple[int, float]]:
    found: dict[str, tuple[int, float]] = {}
    for index, cell in enumerate(header):
        if not (match := _HEADER.match(cell)):
            continue
        name, unit = match[1].lower(), match[2]
        for quantity, names in _QUANTITIES.items():
            if name in names and quantity not in found:
                key = (unit or _DEFAULT_UNIT[quantity]).lower().replace("µ", "u").replace("μ", "u")
                if key not in _UNITS:
                    raise InputError(f"{path}: the unit {unit!r} of column {cell!r} is not known")
                found[quantity] = index, _UNITS[key]
    return found


def _numbers(rows: list[list[str]], index: int, unit: float, path: Path) -> NDArray[np.float64]:
    values = np.empty(len(rows), np.float64)
    for line, row in enumerate(rows):
        try:
            values[line] = float(row[index]) * unit
        except (IndexError, ValueError):
            raise InputError(f"{path}, line {line + 2}: column {index + 1} is no number") from None
    if not np.isfinite(values).all():
        raise InputError(f"{path} has values that are not finite in column {index + 1}")
    return values


def aligned(log: Trace, pulses: tuple[Pulse, ...]) -> Trace:
    """Return the log in our clock, by the load ``pulses`` that it saw; its rail's ``interval`` covers what is left
    open.

    Raises:
        InputError: the log is shorter than the pulses, shows no difference between load and rest, or fits them
            at several shifts.

    """
    begin, end = pulses[0].start, pulses[-1].end
    room = (log.seconds[-1] - log.seconds[0]) - (end - begin)
    if room <= 0:
        raise InputError(
            f"the log covers {log.seconds[-1] - log.seconds[0]:.3g} s, the load pulses {end - begin:.3g} s; start the "
            "meter before the run"
        )
    pause = float(np.median(np.diff(log.seconds)))
    shifts = log.seconds[0] - begin + np.arange(0.0, room, pause / _CANDIDATES)  # (shifts,)
    contrast = _contrast(log, pulses, shifts)  # (shifts,)
    best = int(contrast.argmax())
    shortest = min(pulse.end - pulse.start for pulse in pulses)
    elsewhere = contrast[np.abs(shifts - shifts[best]) > shortest]
    noise = float(np.std(np.diff(log.values)) / np.sqrt(2)) * np.sqrt(2 * pause / (end - begin))
    if contrast[best] <= _LEAST_CONTRAST * noise:
        raise InputError(
            f"the log shows {contrast[best]:.3g} W between load and rest at best, which is within its noise; does the "
            "meter see this device?"
        )
    if len(elsewhere) and elsewhere.max() > 0.9 * contrast[best]:
        other = shifts[np.abs(shifts - shifts[best]) > shortest][int(elsewhere.argmax())]
        raise InputError(
            f"the load pulses fit the log at {shifts[best] + begin:.3f} s and as well at {other + begin:.3f} s; cut "
            "the log to one run"
        )
    rail = Rail(log.rail.name, log.rail.measures, "power", log.rail.resolution, pause)
    return Trace(rail, log.seconds - shifts[best], log.values)


def _contrast(log: Trace, pulses: tuple[Pulse, ...], shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean power in load less mean power at rest, in watts, if the log's clock is ahead by each of ``shifts``."""
    joules = np.concatenate([[0.0], np.cumsum(np.diff(log.seconds) * (log.values[1:] + log.values[:-1]) / 2)])
    means = []
    for load in (True, False):
        chosen = [pulse for pulse in pulses if pulse.load is load]
        energy = sum(
            np.interp(shifts + pulse.end, log.seconds, joules) - np.interp(shifts + pulse.start, log.seconds, joules)
            for pulse in chosen
        )
        means.append(energy / sum(pulse.end - pulse.start for pulse in chosen))
    return np.asarray(means[0] - means[1], np.float64)


def _open() -> Meter | Unavailable:
    return Unavailable("its log is given after the run, with --meter FILE.csv")


SOURCE = EnergySource("external", "what an external meter sees, by its log", _open)
