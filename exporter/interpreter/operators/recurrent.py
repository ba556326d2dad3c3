"""LSTM, GRU and RNN: one step of time after the other, as ONNX defines them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.interpreter.call import Call, Operator, Result, integers

_Step = Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Relu": torch.relu,
    "Softsign": functional.softsign,
    "Softplus": functional.softplus,
}


def _activations(call: Call, default: Sequence[str], direction: int) -> list[Callable[[Tensor], Tensor]]:
    """The functions of one direction."""
    given = [name.decode() if isinstance(name, bytes) else name for name in call.get("activations", [])]
    names = given[direction * len(default) : (direction + 1) * len(default)] or list(default)
    if unknown := [name for name in names if name not in _ACTIVATIONS]:
        call.refuse(f"its activation is {unknown[0]}")
    return [_ACTIVATIONS[name] for name in names]


def _over_time(
    call: Call, x: Tensor, lengths: Tensor | None, states: Sequence[Tensor | None], step_of: Callable[[int], _Step]
) -> list[Tensor]:
    """All outputs Y (time, directions, batch, hidden), then the last of each state, (directions, batch, hidden)."""
    call.only(layout=0)
    hidden, (time, batch) = call.get("hidden_size"), x.shape[:2]
    how = call.get("direction", "forward")
    reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[how]
    ends = integers(lengths) or [time] * batch
    open_ = torch.arange(time, device=x.device)[:, None] < torch.tensor(ends, device=x.device)  # (time, batch)
    is_ragged = any(end != time for end in ends)
    ys, lasts = [], []
    for direction, backward in enumerate(reverse):
        step = step_of(direction)
        now = tuple(x.new_zeros(batch, hidden) if state is None else state[direction] for state in states)
        made: list[Tensor] = [x.new_zeros(0)] * time
        for t in reversed(range(time)) if backward else range(time):
            then = step(x[t], now)
            if is_ragged:
                is_open = open_[t][:, None]
                then = tuple(torch.where(is_open, new, old) for new, old in zip(then, now, strict=True))
                made[t] = torch.where(is_open, then[0], torch.zeros_like(then[0]))
            else:
                made[t] = then[0]
            now = then
        ys.append(torch.stack(made))
        lasts.append(now)
    return [torch.stack(ys, 1), *(torch.stack(state) for state in zip(*lasts, strict=True))]


def _lstm(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    h: Tensor | None = None,
    c: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> Result:
    """Gates in the order input, output, forget, cell."""
    call.only(input_forget=0)
    clip = call.get("clip")

    def step_of(direction: int) -> _Step:
        f, g, out = _activations(call, ("Sigmoid", "Tanh", "Tanh"), direction)
        w_d, r_d = w[direction], r[direction]
        bias = None if b is None else b[direction].chunk(2)[0] + b[direction].chunk(2)[1]
        peep = None if peepholes is None else peepholes[direction].chunk(3)

        def step(x_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden, cell = state
            gates = functional.linear(x_t, w_d, bias) + hidden @ r_d.T
            gates = gates if clip is None else gates.clamp(-clip, clip)
            i, o, forget, new = gates.chunk(4, -1)
            if peep is not None:
                i, forget = i + peep[0] * cell, forget + peep[2] * cell
            cell = f(forget) * cell + f(i) * g(new)
            o = o if peep is None else o + peep[1] * cell
            return f(o) * out(cell), cell

        return step

    return tuple(_over_time(call, x, lengths, (h, c), step_of))


def _gru(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    h: Tensor | None = None,
) -> Result:
    """Gates in the order update, reset, hidden."""
    is_before, clip = not call.get("linear_before_reset", 0), call.get("clip")

    def clipped(gate: Tensor) -> Tensor:
        return gate if clip is None else gate.clamp(-clip, clip)

    def step_of(direction: int) -> _Step:
        f, g = _activations(call, ("Sigmoid", "Tanh"), direction)
        w_d, r_d, size = w[direction], r[direction], call.get("hidden_size")
        bias = torch.zeros(6 * size, dtype=x.dtype, device=x.device) if b is None else b[direction]
        of_x, of_h = bias.chunk(2)

        def step(x_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (hidden,) = state
            gates = functional.linear(x_t, w_d, of_x)  # (batch, 3 hidden)
            passed = hidden @ r_d[: 2 * size].T + of_h[: 2 * size]
            z, reset = f(clipped(gates[:, : 2 * size] + passed)).chunk(2, -1)
            if is_before:
                inner = (reset * hidden) @ r_d[2 * size :].T + of_h[2 * size :]
            else:
                inner = reset * (hidden @ r_d[2 * size :].T + of_h[2 * size :])
            new = g(clipped(gates[:, 2 * size :] + inner))
            return ((1 - z) * new + z * hidden,)

        return step

    return tuple(_over_time(call, x, lengths, (h,), step_of))


def _rnn(
    call: Call,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    h: Tensor | None = None,
) -> Result:
    clip = call.get("clip")

    def step_of(direction: int) -> _Step:
        (f,) = _activations(call, ("Tanh",), direction)
        bias = None if b is None else b[direction].chunk(2)[0] + b[direction].chunk(2)[1]

        def step(x_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            gate = functional.linear(x_t, w[direction], bias) + state[0] @ r[direction].T
            return (f(gate if clip is None else gate.clamp(-clip, clip)),)

        return step

    return tuple(_over_time(call, x, lengths, (h,), step_of))


OPERATORS: dict[str, Operator] = {"GRU": _gru, "LSTM": _lstm, "RNN": _rnn}
