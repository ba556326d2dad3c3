"""The classes of each frame of a sound, as speaker diarization has them."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="audio-frame-classification",
    loaders=("AutoModelForAudioFrameClassification",),
    outputs=("logits",),
)
