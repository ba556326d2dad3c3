"""Steps that make a checkpoint smaller before any weight is rounded: what a recipe names in ``prune``.

Each step is one file under ``exporter/compress/`` (:class:`~edgepress.exporter.compress.Pruning`); here is what they
share: checkpoints written and read back, the text and its held-out part, the score of each step, stages that are kept.
"""
