"""Steps that make a checkpoint smaller before any weight is rounded: what a recipe names in ``prune``.

Each step is one file under ``exporter/methods/shrink/`` (:class:`edgepress.exporter.methods.kinds.Pruning`). This
package runs them: the text and its held-out part, a stage on disk for each step, and each step's score.
"""
