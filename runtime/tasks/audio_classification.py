"""Audio classification: a sound in, its labels out."""

from edgepress.processing.scores import Label, best_of
from edgepress.runtime.tasks.kinds import TaskKind, TaskModel, required
from edgepress.tasks.answers import Classes


class SoundClassifier(TaskModel):
    """``classify(sound)``."""

    takes = "a WAV file"

    def classify(self, sound: object, *, top: int | None = None) -> tuple[Label, ...]:
        """The labels of a sound, the best first; ``top`` takes the place of the number or threshold that it has.

        Args:
            sound: a path or the bytes of a WAV file, or samples as an array, with their rate as a tuple where it is not
                the model's.
            top: how many labels.

        Raises:
            InputError: the sound cannot be read.

        """
        classes = self.part(Classes)
        required(self.task.sound, self, "sound")
        return best_of(self.run_rows(self.feed(sound))[classes.output][0], classes, top)

    def answer(self, sample: object) -> tuple[Label, ...]:
        """The labels of a sound."""
        return self.classify(sample)


TASK = TaskKind("audio-classification", SoundClassifier)
