"""Gates: a bundle held against a budget, so that a build fails when it became larger, slower or worse, and only then.

``budget.py`` reads what is asked, ``gauges/`` has a file for each kind of figure, ``verdict.py`` decides by intervals,
``reports/`` has a file for each form in which a build wants to hear it, ``gating.py`` is the story.
"""
