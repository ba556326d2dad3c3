"""Assertions about bundles, for the tests of an app: parity with a model, memory, speed, instructions, energy.

    from edgepress.testing import assert_faster_than, assert_memory_below

    def test_our_assistant_fits(edgepress_bundle):
        assert_memory_below(edgepress_bundle, megabytes=400)
        assert_faster_than(edgepress_bundle, "shipped/assistant")

Each is the rule of a gate (:mod:`edgepress.runtime.gate`): it fails when the whole 95 % interval says so, and warns
with :class:`Undecided` where that cannot be told. The fixtures are in :mod:`edgepress.pytest_plugin`.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgepress.runtime.model import Model
    from edgepress.runtime.tasks.kinds import Feed, TaskModel

    Logits = Callable[[Sequence[int]], NDArray[np.float32]]
    Outputs = Callable[[Feed], Mapping[str, NDArray[np.generic]]]


class Undecided(UserWarning):
    """A rule could neither be said to hold nor to be broken; the message says what would decide it."""


def assert_parity(
    model: "Model",
    reference: "Logits",
    tokens: Sequence[int],
    *,
    least_sqnr_db: float = 15.0,
    least_agreement: float = 0.8,
) -> None:
    """Hold a language model's logits against those of a model that is known to be right, at every position of a text.

    Args:
        model: an open bundle.
        reference: tokens in, logits out, (tokens, vocabulary) in float32.
        tokens: the text; at least two.
        least_sqnr_db: how many dB the reference's logits are above the difference, of all positions together.
        least_agreement: share of positions for which both find the same token most likely.

    Raises:
        AssertionError: they are less alike.

    """
    import numpy as np

    expected = np.asarray(reference(tokens), np.float32)  # (tokens, vocabulary)
    model.reset()
    found = np.stack([model.prefill([token]).copy() for token in tokens])  # (tokens, vocabulary)
    assert expected.shape == found.shape, f"the reference's logits are {expected.shape}, the bundle's {found.shape}"
    decibels = _sqnr_db(expected, found)
    agreement = float((found.argmax(axis=1) == expected.argmax(axis=1)).mean())
    assert decibels >= least_sqnr_db, (
        f"logits are {decibels:.1f} dB above their difference; {least_sqnr_db:g} are asked for"
    )
    assert agreement >= least_agreement, (
        f"{agreement:.1%} of the likeliest tokens agree; {least_agreement:.1%} are asked for"
    )


def assert_same_outputs(
    model: "TaskModel", reference: "Outputs", inputs: "Feed", *, least_sqnr_db: float = 15.0
) -> None:
    """Hold the outputs of a bundle with a task against those of a model that is known to be right.

    Args:
        model: an open bundle.
        reference: arrays in, arrays out, by the names of the graph's inputs and outputs; others are not looked at.
        inputs: what both are given.
        least_sqnr_db: how many dB each of the reference's outputs is above the difference.

    Raises:
        AssertionError: one is missing, of another shape, or less alike.

    """
    import numpy as np

    expected = reference(inputs)
    for name, array in model.run(inputs).items():
        assert name in expected, f"the reference has no {name}; it has {', '.join(expected)}"
        right = np.asarray(expected[name])
        assert right.shape == array.shape, f"the reference's {name} is {right.shape}, the bundle's {array.shape}"
        decibels = _sqnr_db(right, array)
        assert decibels >= least_sqnr_db, (
            f"{name} is {decibels:.1f} dB above its difference; {least_sqnr_db:g} are asked for"
        )


def _sqnr_db(expected: "NDArray[np.generic]", found: "NDArray[np.generic]") -> float:
    """How many dB an array's energy is above that of the difference; infinite where there is none."""
    import numpy as np

    right = np.asarray(expected, np.float64)
    noise = float(((np.asarray(found, np.float64) - right) ** 2).sum())
    signal = float((right**2).sum())
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(signal / noise)) if signal else float("-inf")


def assert_memory_below(
    bundle: str | Path, megabytes: float, *, kind: str = "peak", device: str = "local", **settings: int
) -> None:
    """A fresh process that loads a bundle and works takes less: ``kind`` is peak, steady or anonymous memory.

    ``settings`` are those of a budget's [memory]: ``threads``; ``prompt_length`` and ``decode_tokens`` of a model that
    writes tokens, ``rows`` and ``length`` of another.
    """
    _hold(("memory", f"{kind}_megabytes"), {"most": megabytes}, [bundle], device, settings)


def assert_faster_than(
    bundle: str | Path, than: str | Path | float, *, worse_by_most: float = 0.0, device: str = "local", **settings: int
) -> None:
    """As fast as another bundle, measured in turn, or faster; or faster than so many tokens or examples a second.

    What is timed is decoding, of a bundle of one graph its run. ``worse_by_most`` is the share of the other's speed
    that may be lost. ``settings`` are those of a budget's [speed], or [run].
    """
    figure = ("run", "examples_per_second") if _is_graph(bundle) else ("speed", "decode_tokens_per_second")
    if isinstance(than, (str, Path)):
        _hold(figure, {"worse_by_most": worse_by_most}, [bundle, than], device, settings)
    else:
        _hold(figure, {"least": than}, [bundle], device, settings)


def assert_instructions_within(
    bundle: str | Path, millions: float, *, share: float = 0.001, cpu: str = "cortex-a76", **settings: int
) -> None:
    """A decoded token takes so many million instructions on an emulated processor, ± ``share``: exact on any machine.

    Of a bundle of one graph it is a run. ``settings`` are those of a budget's [instructions].
    """
    bounds = {"most": millions * (1 + share), "least": millions * (1 - share)}
    _hold(
        ("instructions", "per_run" if _is_graph(bundle) else "per_decoded_token"),
        bounds,
        [bundle],
        "local",
        {"cpu": cpu, **settings},
    )


def assert_energy_below(
    bundle: str | Path, joules: float, *, per: str = "token", device: str = "local", **settings: int
) -> None:
    """Above idle power the device takes less for a ``token``, ``prompt_token``, ``source``, ``answer`` or ``example``.

    Without a counter that can tell this is :class:`Undecided`. ``settings`` are those of a budget's [energy].
    """
    _hold(("energy", f"joules_per_{per}"), {"most": joules}, [bundle], device, settings)


def _is_graph(bundle: str | Path) -> bool:
    from edgepress.runtime.profile.workloads import find_kind

    return find_kind(Path(bundle)).name == "graph"


def _hold(
    gauge_and_figure: tuple[str, str],
    bounds: dict[str, float],
    bundles: Sequence[str | Path],
    device: str,
    settings: dict[str, Any],
) -> None:
    """Take a gauge's figure of bundles, the first of which has to keep the rule against the second."""
    from edgepress.errors import InputError
    from edgepress.runtime.gate.budget import Rule
    from edgepress.runtime.gate.figures import Request
    from edgepress.runtime.gate.gauges import known_gauges
    from edgepress.runtime.gate.verdict import Outcome, judge

    gauge_name, figure_name = gauge_and_figure
    gauge, rule = known_gauges()[gauge_name], Rule(**bounds)
    for name in settings:
        if name not in gauge.options:
            raise InputError(f"{gauge_name} has no setting {name!r}; known are {', '.join(gauge.options)}")
    if figure_name not in gauge.figures:
        raise InputError(f"{gauge_name} has no figure {figure_name!r}; known are {', '.join(gauge.figures)}")
    options = {name: option.default for name, option in gauge.options.items()} | settings
    taken = gauge.take([Request(Path(bundle), device, (figure_name,), options) for bundle in bundles])
    ours, *theirs = ({figure.name: figure for figure in figures}[figure_name] for figures in taken)
    verdict = judge(gauge_name, ours, rule, theirs[0] if theirs else None)
    if verdict.outcome is Outcome.UNDECIDED:
        warnings.warn(Undecided(f"{figure_name}: {verdict.because}"), stacklevel=3)
    assert verdict.outcome is not Outcome.BROKEN, f"{figure_name}: {verdict.because}"
