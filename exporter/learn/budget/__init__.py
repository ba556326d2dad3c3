"""Mixed precision by budget: measure what each tensor group costs at each scheme, then choose by a solver.

:mod:`.sensitivity` measures the KL of the whole model with one group quantized, :mod:`.solver` chooses one scheme a
group, and :mod:`.schemes` turns a recipe's ``[budget]`` into overrides that meet it.
"""
