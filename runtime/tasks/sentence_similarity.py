"""Sentence similarity: texts in, a vector for each out, whose cosines say how much alike they are."""

from edgepress.runtime.tasks.feature_extraction import Embedder
from edgepress.runtime.tasks.kinds import TaskKind

TASK = TaskKind("sentence-similarity", Embedder)
