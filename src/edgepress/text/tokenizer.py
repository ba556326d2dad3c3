"""Text to tokens and back, the way back one token at a time."""

import codecs
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tokenizers import Tokenizer as _Library

from edgepress.errors import InputError
from edgepress.schema import read_as, read_bytes
from edgepress.text.documents import check_unicode
from edgepress.text.tokenizer_limits import LARGEST, check_growth

_log = logging.getLogger("edgepress.tokenizer")
_AGAIN = "export the bundle again"
_OTHERS = "give another text, or take the tokenizer from where the model came from and export again"

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for bytes that are no character (yet)
_CONTEXT = 16  # tokens of the prompt that the first new token is decoded after
_HELD = 8  # tokens held back for an unfinished character before the finished part of them is let go
_REASON = 200  # characters of what the library says
_UNFINISHED = 4  # tokens that may still belong to an unfinished character: it has at most three bytes


class Tokenizer:
    """A bundle's ``tokenizer.json``."""

    def __init__(self, library: _Library, *, bos: int | None = None) -> None:
        self.library = library
        self.bos = bos
        self._said: set[str] = set()
        self.special = frozenset(id_ for id_, token in library.get_added_tokens_decoder().items() if token.special)
        self.bytes = self._byte_tokens()

    def _byte_tokens(self) -> dict[int, int]:
        """Token → byte where the decoder turns ``<0x41>`` into ``A`` (SentencePiece's byte fallback), else nothing."""
        found = ((self.library.token_to_id(f"<0x{byte:02X}>"), byte) for byte in range(256))
        tokens = {token: byte for token, byte in found if token is not None}
        letter = next((token for token, byte in tokens.items() if byte == ord("A")), None)
        return tokens if letter is not None and self.decode([letter]) == "A" else {}

    def special_named(self, text: str) -> int | None:
        """The special token that is written ``text``; None where there is none."""
        token = self.library.token_to_id(text)
        return int(token) if token in self.special else None

    @property
    def vocabulary(self) -> int:
        """The number of entries, added tokens counted."""
        return int(self.library.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Tokens of a prompt, with the special tokens that the model was trained to see before a text.

        Raises:
            InputError: the text is no Unicode, or the library cannot encode it.

        """
        check_unicode(text, "the prompt")
        tokens = self._encoded(text, add_special_tokens=True)
        if self.bos is not None and tokens[:1] != [self.bos]:
            tokens.insert(0, self.bos)
        elif self._is_doubled(tokens) and self._is_added(tokens, text):
            tokens.pop(0)
            self._say(f"the prompt begins with {self._name(tokens[0])}, as chat templates write it: none is added")
        if self._is_doubled(tokens):
            self._say(f"the prompt begins with {self._name(tokens[0])} twice; models are trained on one")
        return tokens

    def _is_added(self, tokens: list[int], text: str) -> bool:
        """Whether the first of ``tokens`` is not from the text, which begins with it as well."""
        plain = self.encode_plain(text)
        return len(tokens) > len(plain) and plain[:1] == tokens[:1]

    def _is_doubled(self, tokens: Sequence[int]) -> bool:
        return len(tokens) > 1 and tokens[0] == tokens[1] and tokens[0] in self.special

    def _name(self, token: int) -> str:
        return repr(self.library.id_to_token(token))

    def _say(self, warning: str) -> None:
        """Log a warning, once."""
        if warning not in self._said:
            self._said.add(warning)
            _log.warning("%s", warning)

    def document(self, text: str, bos: int | None) -> str:
        """``text`` as it follows ``bos``, which is put before every document: without one that it begins with itself.

        There is a warning then, once.
        """
        begin = None if bos is None else self.library.id_to_token(bos)
        if not begin or bos not in self.special or not text.startswith(begin):
            return text
        self._say(f"text begins with {begin!r}, which is put before each document anyway: only once")
        while text.startswith(begin):
            text = text[len(begin) :]
        return text

    def added(self) -> int | None:
        """The token that :meth:`encode` puts before a prompt, None when it puts none."""
        whole, plain = self.encode("a"), self.encode_plain("a")
        return whole[0] if len(whole) > len(plain) and whole[:1] != plain[:1] else None

    def encode_plain(self, text: str) -> list[int]:
        """Tokens of the text alone: nothing added before or after; InputError as for :meth:`encode`."""
        check_unicode(text, "the text")
        return self._encoded(text, add_special_tokens=False)

    def _encoded(self, text: str, *, add_special_tokens: bool) -> list[int]:
        with library_errors("the tokenizer cannot encode this text", _OTHERS):
            return list(self.library.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of the tokens, special ones left out."""
        with library_errors("the tokenizer cannot decode what the model says", _OTHERS):
            return str(self.library.decode(list(tokens), skip_special_tokens=True))


def read_tokenizer(bundle: Path, content: bytes | None = None) -> Tokenizer:
    """Read the tokenizer of a bundle; ``content`` takes the place of its tokenizer.json.

    A beginning-of-sequence token is put before a prompt if ``tokenizer_config.json`` says ``add_bos_token`` and the
    tokenizer does not do it itself.
    """
    path = bundle / "tokenizer.json"
    if content is None and not path.is_file():
        raise InputError(f"{path} is missing; export the bundle again, or prompt with token ids")
    if content is None:
        content = read_bytes(path, _AGAIN, largest=LARGEST)
    library = open_library(content, path, _AGAIN)
    library.no_truncation()  # limits baked into the file are for training batches
    library.no_padding()
    with library_errors(f"{path} cannot be read", _AGAIN):
        return Tokenizer(library, bos=_added_bos(bundle, library))


def open_library(content: bytes, where: Path, remedy: str) -> _Library:
    """The library's tokenizer of a tokenizer.json.

    Raises:
        InputError: it cannot be read, or may make texts grow beyond what :func:`check_growth` allows.

    """
    with library_errors(f"{where} cannot be read", remedy):
        library = _Library.from_buffer(content.removeprefix(codecs.BOM_UTF8))
        check_growth(library, where, remedy)
    return library


@contextmanager
def library_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn what the library raises, plain Exceptions and panics, into an InputError that begins with ``what``."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise InputError(f"{what}: {str(error)[:_REASON]}; {remedy}") from error


def is_panic(error: BaseException) -> bool:
    """Whether ``error`` is a panic of the library (Rust): its class, of pyo3, cannot be imported."""
    return type(error).__name__ == "PanicException"


class _AddedToken(msgspec.Struct, frozen=True):
    content: str


class _TokenizerConfig(msgspec.Struct, frozen=True):
    """The entries of tokenizer_config.json that are read; it has more."""

    add_bos_token: bool | None = None
    bos_token: str | _AddedToken | None = None


def _added_bos(bundle: Path, library: _Library) -> int | None:
    path = bundle / "tokenizer_config.json"
    if not path.is_file():
        return None
    config = read_as(path, _TokenizerConfig, _AGAIN)
    if not config.add_bos_token or config.bos_token is None:
        return None
    token = config.bos_token if isinstance(config.bos_token, str) else config.bos_token.content
    number: int | None = library.token_to_id(token)
    return number


class Detokenizer:
    """Turns tokens into text as they come, each piece final: pieces joined are the text of all tokens.

    A token alone does not have a text: a character may be spread over several tokens, and SentencePiece decoders drop
    the first space. So a window is decoded: the tokens of the piece before (``context``, whose text is out already)
    followed by the tokens that have not given text yet. What the window adds to the context's text is the new piece,
    unless it ends in the middle of a character; then it waits. Windows are a few tokens long, so cost is linear.

    With ``prompt``, the first piece is what follows the prompt, its leading space included. With ``special``, special
    tokens, or those of a set, have their names as text; others have none.

    Byte-fallback tokens are decoded on their own, so that each character is out with its last byte. The pieces joined
    are what the library gives for all tokens at once, with this one exception: where a run of such bytes turns out not
    to be UTF-8, the library replaces all of the run, also its whole characters, which are out already here.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int] = (), *, special: bool | frozenset[int] = False
    ) -> None:
        self._tokenizer = tokenizer
        self._shown = special if isinstance(special, frozenset) else tokenizer.special if special else frozenset()
        visible = [token for token in prompt[-4 * _CONTEXT :] if token not in tokenizer.special]
        self._window = visible[-_CONTEXT:]
        self._text = tokenizer.decode(self._window)  # the part of the window's text that is out
        self._pending = 0  # tokens at the window's end that have not given (all of) their text
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._in_bytes = False

    def push(self, token: int) -> str:
        """Take one token, return the text that became final: often a word, sometimes nothing."""
        if token in self._tokenizer.special:
            return self.finish() + str(self._tokenizer.library.id_to_token(token)) if token in self._shown else ""
        byte = self._tokenizer.bytes.get(token)
        if byte is not None:
            held = "" if self._in_bytes else self._flush()
            self._in_bytes = True
            return held + self._bytes.decode(bytes([byte]))
        return self._leave_bytes() + self._push_text(token)

    def finish(self) -> str:
        """Return what was held back: the replacement characters of a character that never ended, or nothing."""
        return self._leave_bytes() + self._flush()

    def _leave_bytes(self) -> str:
        """End a run of byte tokens. What follows is decoded as after any other text: not at the start."""
        if not self._in_bytes:
            return ""
        self._in_bytes = False
        self._window = self._tokenizer.encode_plain("a")[-1:]
        self._text = self._tokenizer.decode(self._window)
        return self._bytes.decode(b"", final=True)

    def _flush(self) -> str:
        return self._release(self._tokenizer.decode(self._window)) if self._pending else ""

    def _push_text(self, token: int) -> str:
        self._window.append(token)
        self._pending += 1
        text = self._tokenizer.decode(self._window)
        if not text.endswith(_REPLACEMENT):
            return self._release(text)
        return self._release_finished(text) if self._pending > _HELD else ""

    def _release(self, text: str) -> str:
        piece = text[len(self._text) :]
        if piece:
            del self._window[: -self._pending]
            self._text = self._tokenizer.decode(self._window)
            self._pending = 0
        return piece

    def _release_finished(self, text: str) -> str:
        """Let go of bytes that can no longer become a character: everything but the last few tokens.

        The window is cut where the texts of both sides joined are the text of the whole, so never inside a character.
        """
        for cut in range(len(self._window) - _UNFINISHED, 0, -1):
            head = self._tokenizer.decode(self._window[:cut])
            if len(head) >= len(self._text) and head + self._tokenizer.decode(self._window[cut:]) == text:
                piece = head[len(self._text) :]
                del self._window[:cut]
                self._text = ""
                self._pending = len(self._window)
                return piece
        return ""


class StopStrings:
    """Holds back text that may be the beginning of a stop string, and cuts at the first one that is complete."""

    def __init__(self, stops: Sequence[str]) -> None:
        if isinstance(stops, str):  # a str is a Sequence[str] to the type checker, one letter each
            raise InputError(f"stop is the text {stops!r}; give a list of texts")
        if "" in stops:
            raise InputError("a stop string is empty; it would stop before the first character")
        self.texts = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str) -> str:
        """Take text, return what can be shown; once :attr:`found` is set, that was the last of it."""
        if not self.texts:
            return piece
        text = self._held + piece
        matches = [(start, stop) for stop in self.texts if (start := text.find(stop)) >= 0]
        if matches:
            start, self.found = min(matches, key=lambda match: match[0])
            self._held = ""
            return text[:start]
        held = max(_overlap(text, stop) for stop in self.texts)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """Return what was held back and did not become a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop`` without completing it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
