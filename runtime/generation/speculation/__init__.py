"""Several tokens a step: a drafter proposes what comes next, one step of the model verifies it, what is wrong goes."""
