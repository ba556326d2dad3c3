"""Speech to text by connectionist temporal classification: characters of each frame."""

from edgepress.exporter.doors.heads import Head

HEAD = Head(
    name="automatic-speech-recognition",
    loaders=("AutoModelForCTC",),
    outputs=("logits",),
    synonyms=("audio-ctc",),
)
