"""Points of an object, as joints of a person."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="keypoint-detection",
    loaders=("AutoModelForKeypointDetection", "AutoModelForPoseEstimation"),
    outputs=("heatmaps", "keypoints", "scores", "descriptors", "mask"),
)
