"""Steps that make a checkpoint smaller before any weight is rounded: what a recipe names in ``prune``.

Each step is one file under ``exporter/methods/shrink/`` (:class:`.Pruning`); here is what they
share: checkpoints written and read back, the text and its held-out part, the score of each step, stages that are kept.
"""
