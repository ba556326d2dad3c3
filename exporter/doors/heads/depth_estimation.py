"""How far away each pixel is."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="depth-estimation",
    loaders=("AutoModelForDepthEstimation",),
    outputs=("predicted_depth",),
)
