"""Mean average precision of boxes over overlaps of 0.5, 0.55 … 0.95: COCO's first number."""

from edgepress.runtime.scoring.boxes import THRESHOLDS, metric

METRIC = metric("map", len(THRESHOLDS))
