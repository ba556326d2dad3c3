"""An open bundle of an encoder and a decoder: sources in, targets out, as text that comes piece by piece."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.runtime.generation.several.beams import beam_search
from edgepress.runtime.sequences.rules import Rules, Times
from edgepress.runtime.sequences.search import Draw, greedy
from edgepress.runtime.sequences.targets import SequenceSession
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.schema import convert
from edgepress.tasks.sequences import Search, Sequences
from edgepress.tasks.task import Task
from edgepress.text.tokenizer import Detokenizer, Tokenizer, read_tokenizer
from edgepress.whole import whole_number

Stopped = Literal["end", "most tokens"]


class Settings(TypedDict, total=False):
    """What a call may say otherwise than the bundle (:class:`~edgepress.tasks.sequences.Search`).

    ``max_tokens`` are written at most; what a target begins with is not counted.
    """

    beams: int
    max_tokens: int
    length_penalty: float
    early_stopping: Literal["no", "yes", "never"]
    fewest_tokens: int
    no_repeat: int
    repetition_penalty: float


@dataclass
class Writing(Iterator[str]):
    """A target as it is written: iterate over it for the text, piece by piece; beam search gives it in one piece.

    The attributes are complete once it has ended: ``tokens`` (the one that ended it included), ``score`` (beam search's
    log-probability / length^penalty, else None), ``said`` (the log-probability of each token among those that the
    rules allowed, where that is asked for), ``stopped``, ``seconds`` since the first piece was asked for.
    """

    model: "SequenceModel"
    start: list[int]
    rules: Rules
    says: bool = False
    draw: Draw | None = None
    tokens: list[int] = field(default_factory=list)
    said: list[float] = field(default_factory=list)
    score: float | None = None
    stopped: Stopped | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self._pieces = self._written()

    def __next__(self) -> str:
        return next(self._pieces)

    def text(self) -> str:
        """All the text that is still to come."""
        return "".join(self)

    def _written(self) -> Iterator[str]:
        began = perf_counter()
        detokenizer = Detokenizer(self.model.tokenizer)
        for token in self._tokens():
            self.tokens.append(token)
            if token not in self.rules.ends and (piece := detokenizer.push(token)):
                yield piece
        self.stopped = "end" if self.tokens and self.tokens[-1] in self.rules.ends else "most tokens"
        self.seconds = perf_counter() - began
        if rest := detokenizer.finish():
            yield rest

    def _tokens(self) -> Iterator[int]:
        session = self.model.session
        if self.rules.search.beams == 1:
            yield from greedy(session, self.start, self.rules, self.said if self.says else None, self.draw)
            return
        best = beam_search(session, self.start, self.rules)[0]
        self.score, self.said = best.score, best.said
        yield from best.tokens


class SequenceModel(TaskModel):
    """An open bundle of an encoder and a decoder. It holds one source at a time; two threads must not use it at once.

    ``sequences`` says how targets are searched for; ``settings`` may say otherwise for all calls, and each call for
    itself.
    """

    def __init__(self, task: Task, session: SequenceSession, folder: Path) -> None:
        super().__init__(task, session.compute, folder)
        self.session = session
        self.settings: Settings = {}
        self.ran_on = session.ran_on

    @property
    def sequences(self) -> Sequences:
        """What the bundle says of its sources and targets."""
        return self.session.sequences

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The bundle's tokenizer, read when first used."""
        return read_tokenizer(self.folder)

    def searched(self, settings: Settings, *, begin: int) -> Search:
        """The bundle's settings of the search, with others in their place; targets begin with ``begin`` tokens.

        Raises:
            InputError: a number is out of its range, or there is no such setting.

        """
        changed = {**self.settings, **settings}
        if unknown := changed.keys() - Settings.__annotations__.keys():
            raise InputError(f"there is no setting {min(unknown)}; there are {', '.join(Settings.__annotations__)}")
        if "max_tokens" in changed:
            wanted = whole_number("max_tokens", changed.pop("max_tokens")) + begin
            changed["most_tokens"] = min(wanted, self.sequences.context)
        return convert({**asdict(self.sequences.search), **changed}, Search, Path("the settings"), "correct them")

    def write(
        self,
        start: Sequence[int],
        search: Search,
        times: Times | None = None,
        *,
        says: bool = False,
        draw: Draw | None = None,
    ) -> Writing:
        """Begin to write a target that begins with ``start``, of the source that was encoded last.

        ``says`` asks for the log-probability of each token, ``draw`` for tokens that are drawn, without beams.

        Raises:
            InputError: ``start`` leaves no room for a token.

        """
        most = min(search.most_tokens, self.sequences.context)
        if len(start) >= most:
            raise InputError(
                f"a target begins with {len(start)} tokens and may have {most}, so nothing can be written; the decoder "
                f"has {self.sequences.context} positions"
            )
        rules = Rules(search, self.sequences.ends, begin=len(start), most=most, times=times)
        return Writing(self, list(start), rules, says, draw)

    def source_and_target(self, sample: object) -> tuple[dict[str, NDArray[np.generic]], list[int]]:
        """The encoder's input for a sample, and the target that is written of it by the bundle's settings.

        The target has what it begins with, and the token that ended it; of sound that is longer than a window it is the
        first window's.
        """
        feed = self.feed(sample)
        self.session.encode(feed)
        return feed, self._target(self.sequences.start)

    def _target(self, start: Sequence[int]) -> list[int]:
        """A target of what was encoded last, and what it begins with."""
        writing = self.write(start, self.searched({}, begin=len(start)))
        writing.text()
        return [*start, *writing.tokens]


class TextModel(SequenceModel):
    """Texts into texts: translations, summaries, and whatever else a model was trained to write."""

    takes = "a text"

    def encode(self, text: str, source: str | None = None) -> NDArray[np.int64]:
        """Tokens of a text as the encoder takes them, (1, source).

        Args:
            text: the text.
            source: the code of its language, for a model that wants it told.

        Raises:
            InputError: the text is empty or longer than the encoder's positions, or there is no such language.

        """
        tokens = self.tokenizer.encode(text)
        if not self.tokenizer.encode_plain(text):
            raise InputError("the text is empty; give one with at least one token")
        languages = set(self.sequences.languages.values())
        if source is not None:
            token = self.language(source)
            if not languages & set(tokens):
                raise InputError(f"{self.folder}: its tokenizer writes no token of a language; leave the source out")
            tokens = [token if one in languages else one for one in tokens]
        most = self.sequences.source_length
        if most and len(tokens) > most:
            raise InputError(f"the text has {len(tokens)} tokens, and the encoder has {most} positions; shorten it")
        return np.array([tokens], np.int64)

    def language(self, code: str) -> int:
        """The token of a language; InputError when there is none."""
        token = self.sequences.languages.get(code)
        if token is None:
            known = ", ".join(sorted(self.sequences.languages)[:8]) or "none"
            raise InputError(f"{self.folder} has no token of the language {code!r}; it has {known}")
        return token

    def generate(
        self,
        text: str,
        *,
        source: str | None = None,
        target: str | None = None,
        **settings: Unpack[Settings],
    ) -> Writing:
        """Write the target of a text; iterate over the result to get it as it comes.

        ``source`` and ``target`` are codes of languages, for a model of many.

        Raises:
            InputError: the text is empty or too long, or a setting is out of its range.

        """
        search = self.searched(settings, begin=len(self.sequences.start))
        if target is not None:
            search = replace(search, forced_first=self.language(target))
        self.session.encode({"input_ids": self.encode(text, source)})
        return self.write(self.sequences.start, search)

    def translate(
        self, text: str, target: str | None = None, source: str | None = None, **settings: Unpack[Settings]
    ) -> str:
        """The translation of a text, into ``target`` from ``source`` where a model has several languages.

        T5's are pairs, of which ``target`` is one as its config names it: ``en_to_de``. Settings are those of
        :meth:`generate`.
        """
        prefix = self.sequences.prefixes.get(f"translation_{target}", "")
        if prefix:
            target = None
        return self.generate(prefix + text, source=source, target=target, **settings).text()

    def summarize(self, text: str, **settings: Unpack[Settings]) -> str:
        """The summary of a text; settings are those of :meth:`generate`."""
        return self.generate(self.sequences.prefixes.get("summarization", "") + text, **settings).text()

    def feed(self, sample: object) -> dict[str, NDArray[np.generic]]:
        """The encoder's input for a text."""
        return {"input_ids": self.encode(_text_of(sample, self))}

    def answer(self, sample: object) -> str:
        """The target of a text."""
        return self.generate(_text_of(sample, self)).text()


def _text_of(sample: object, model: TextModel) -> str:
    if not isinstance(sample, str):
        raise InputError(f"{model.folder} takes a text, and this is {type(sample).__name__}")
    return sample
