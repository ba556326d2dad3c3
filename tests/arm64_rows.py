"""What is run on emulated processors: whether a step over several tokens has the bits of single steps."""

from typing import Any

import numpy as np

_BEFORE = (25, 61, 110)  # tokens of texts, others than those that the check at opening takes
_SEED = 5  # of texts, another one than that check's


def exact_steps(arguments: dict[str, Any], _arrays: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """How many tokens of a step the check at opening says are exact, and whether such steps are, on other texts."""
    from edgepress.runtime import load
    from edgepress.runtime.generation.speculation.costs import measure_steps

    session = load(arguments["bundle"], threads=1, graph=arguments["graph"], prepared=False, verify=False).session
    exact, generator = measure_steps(session, most=arguments["most"]).exact, np.random.default_rng(_SEED)
    same = {}
    for rows in range(2, arguments["most"] + 1):
        found = []
        for before in _BEFORE:
            text = generator.integers(0, session.vocab_size, before + rows)
            session.reset()
            session.append(text[:before])
            mark = session.mark()
            one = np.concatenate([session.append(text[at : at + 1]).copy() for at in range(before, before + rows)])
            session.roll_back(before, mark)
            found.append(bool(np.array_equal(session.append(text[before:], 0), one)))
        same[str(rows)] = found
    return {"exact": exact, "same": same}, {}
