"""Top-5: the share of samples whose right class is among the five likeliest."""

from functools import partial

from edgepress.runtime.scoring.kinds import Metric, share
from edgepress.runtime.scoring.metrics.top1 import TASKS, hits
from edgepress.runtime.scoring.predicting import class_scores, same_class

METRIC = Metric("top5", TASKS, class_scores, partial(hits, top=5), share, same_class)
