"""Mixed precision by budget: measure the KL that each scheme of each tensor group costs, then choose by a solver.

:mod:`.sensitivity` measures the KL of the whole model with one group quantized, :mod:`.solver` chooses one scheme a
group, and :mod:`.schemes` turns a recipe's ``[budget]`` into overrides that meet it. The KL that one scheme of one
group costs by itself is its price.
"""
