"""Graphs inside nodes: what is computed depends on data, and is computed as the data says."""

from __future__ import annotations

import torch
from torch import Tensor

from edgepress.exporter.interpreter.call import Call, Operator, Result

_MOST = 1 << 31  # rounds of a loop without an end of its own


def _if(call: Call, condition: Tensor) -> Result:
    return tuple(call.inner("then_branch" if bool(condition) else "else_branch"))


def _loop(call: Call, count: Tensor | None, condition: Tensor | None, *carried: Tensor) -> Result:
    """The body takes the round, the condition and what is carried; it gives those again, and what is collected."""
    now, collected, more = list(carried), [], condition is None or bool(condition)
    most = _MOST if count is None else int(count)
    done = 0
    while more and done < most:
        flag, *made = call.inner("body", torch.tensor(done), torch.tensor(True), *now)
        now, more, done = made[: len(now)], bool(flag), done + 1
        collected.append(made[len(now) :])
    if len(now) < call.outputs and not collected:
        call.refuse("it collects values in no round at all")
    return (*now, *(torch.stack(parts) for parts in zip(*collected, strict=True)))


OPERATORS: dict[str, Operator] = {"If": _if, "Loop": _loop}
