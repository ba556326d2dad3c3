"""Mean average precision of boxes that share half of their area or more: PASCAL VOC's measure, at COCO's recalls."""

from edgepress.runtime.scoring.boxes import metric

METRIC = metric("map-50", 1)
