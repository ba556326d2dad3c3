"""Evaluation of a bundle on text: bits per byte, perplexity, and KL divergence from its reference model.

Each document is scored from its own beginning-of-sequence token, which is context and not scored; windows of
``context`` tokens, the first scored whole, each later one bringing ``stride`` new tokens; bits per byte = summed
negative log-likelihood / ln 2 / UTF-8 bytes of all documents. Vocabularies differ between models, so compare bits per
byte across them, never perplexity per token.
"""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.adapter_file import Adapter, adapter_for
from edgepress.cores import usable_cores
from edgepress.errors import InputError
from edgepress.finite import check_logits
from edgepress.runtime.config import BundleConfig, read_config
from edgepress.runtime.graph_file.first_use import verify_first
from edgepress.runtime.placement import open_accelerator
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.session import Session
from edgepress.text.documents import Skipped, documents_of
from edgepress.text.tokenizer import Tokenizer, read_tokenizer
from edgepress.text.windows import Window, windows
from edgepress.whole import whole_number

_log = logging.getLogger("edgepress.evaluate")

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Tokens = NDArray[np.int64]

_PIECE_BYTES = 16 << 20  # logits that a session gives at once are twice as many bytes
_SCORED_BYTES = 1 << 20  # float64 numbers that a core works on at once: near it, in its cache
# Threads that wait for work by spinning would take the cores from a reference model in between.
_YIELDING = {"session.intra_op.allow_spinning": "0"}
_AHEAD = 2  # windows for which the reference's logits are made before they are asked for


class LogitsSource(Protocol):
    """A model, the reference or another tool's: gives the logits of every position of a text."""

    def logits(self, tokens: Tokens) -> Floats:
        """Logits (length, vocab) of ``tokens`` (length,); row i predicts token i + 1."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Scores of one bundle on one set of documents. What a reference adds is None without one.

    - ``kl``: mean KL(reference ‖ bundle) in nats per scored token
    - ``top1_agreement``: share of scored tokens for which both find the same token most likely
    - ``first_token``: ``bos``, or ``first token of the document`` for a model that has no such token: it is then
      context only, and its bytes are counted
    """

    bits_per_byte: float
    perplexity: float
    documents: int
    scored_tokens: int
    utf8_bytes: int
    negative_log_likelihood: float
    context: int
    stride: int
    first_token: Literal["bos", "first token of the document"]
    reference_bits_per_byte: float | None = None
    reference_perplexity: float | None = None
    kl: float | None = None
    top1_agreement: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Corpus:
    """Documents as the token ids that are scored.

    ``documents`` holds (length,) ids each, the beginning-of-sequence token first when ``has_bos``.
    """

    documents: tuple[Tokens, ...]
    utf8_bytes: tuple[int, ...]
    has_bos: bool


@dataclass
class _Sums:
    """Running sums over scored tokens."""

    nll: float = 0.0
    reference_nll: float = 0.0
    kl: float = 0.0
    agreed: int = 0
    tokens: int = 0

    def add(self, other: "_Sums") -> None:
        """Add the sums over other tokens."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def _score_rows(logits: Floats, targets: Tokens, reference: Floats | None) -> _Sums:
    """Sums over rows of logits (rows, vocab) and the tokens (rows,) that followed, in float64.

    With z = ln Σ exp x, KL(p ‖ q) = Σ p (x_p − x_q) − z_p + z_q: no log-probability of every token is made.
    """
    rows = np.arange(len(targets))
    z_q, _ = _log_sums(logits)
    found = _Sums(nll=float((z_q - logits[rows, targets]).sum()), tokens=len(targets))
    if reference is not None:
        z_p, p = _log_sums(reference)
        found.reference_nll = float((z_p - reference[rows, targets]).sum())
        with np.errstate(invalid="ignore"):
            difference = np.subtract(reference, logits, dtype=np.float64)
        # 0 · log 0 = 0, which a masked vocabulary entry (logit -inf) needs
        masked = np.isneginf(reference)
        if masked.any():
            difference[masked] = 0.0
        found.kl = float((np.einsum("ij,ij->i", p, difference) - z_p + z_q).sum())
        found.agreed = int((reference.argmax(1) == logits.argmax(1)).sum())
    return found


def _log_sums(logits: Floats) -> tuple[Doubles, Doubles]:
    """ln Σ exp of each row, (rows,), and the probabilities, (rows, vocab)."""
    most = logits.max(1, keepdims=True)
    p = np.subtract(logits, most, dtype=np.float64)
    np.exp(p, out=p)
    total = p.sum(1, keepdims=True)
    np.divide(p, total, out=p)
    return most[:, 0] + np.log(total[:, 0]), p


def log_softmax(logits: Floats) -> Doubles:
    """Log-probabilities of each row, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(1, keepdims=True))
    return shifted


def evaluate(
    bundle: str | Path,
    documents: Sequence[str],
    *,
    context: int = 256,
    stride: int = 128,
    reference: LogitsSource | None = None,
    threads: int | None = None,
    prepared: bool = True,
    on: str | None = None,
    soc: str | None = None,
    graph: str | None = None,
    adapter: str | Path | None = None,
    verify: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score ``documents`` with a bundle, and with its reference model if one is given.

    ``progress`` is called with the number of UTF-8 bytes scored since the last call, spread evenly over tokens. ``on``,
    ``soc``, ``graph`` and ``verify`` are as for :func:`edgepress.runtime.load`, ``adapter`` as for
    :meth:`edgepress.runtime.model.Model.with_adapter`.

    Raises:
        InputError: there is nothing to score, the bundle is not as it was written, or ``context`` and ``stride`` do not
            fit together or the model.

    """
    if verify:
        verify_first(Path(bundle))
    config = read_config(Path(bundle), graph)
    _check(context, stride, config)
    corpus = _corpus(config, documents)
    threads = usable_cores() if threads is None else threads
    own = threads if reference is None else max(1, threads // 2)  # the reference computes at the same time
    applied = None if adapter is None else adapter_for(config.bundle, Path(adapter))
    scorer = Scorer(
        config, context=context, threads=own, prepared=prepared, on=on, soc=soc, graph=graph, adapter=applied
    )
    return _evaluate(scorer.pieces, corpus, context, stride, threads=threads, reference=reference, progress=progress)


def evaluate_logits(
    source: LogitsSource,
    corpus: Corpus,
    *,
    context: int = 256,
    stride: int = 128,
    reference: LogitsSource | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score any model that gives logits, as :func:`evaluate` scores a bundle, on the tokens of :func:`read_corpus`.

    Raises:
        InputError: there is nothing to score, or ``context`` and ``stride`` do not fit together.

    """
    _check(context, stride, None)

    def pieces(window: Window) -> Iterator[tuple[slice, Floats]]:
        yield slice(0, window.scored), source.logits(window.tokens)[-window.scored - 1 : -1]

    threads = usable_cores()
    return _evaluate(pieces, corpus, context, stride, threads=threads, reference=reference, progress=progress)


def read_corpus(bundle: str | Path, documents: Sequence[str]) -> Corpus:
    """Tokenize ``documents`` as :func:`evaluate` does for the bundle, so that another model sees the same tokens."""
    verify_first(Path(bundle))
    return _corpus(read_config(Path(bundle)), documents)


def _corpus(config: BundleConfig, documents: Sequence[str]) -> Corpus:
    if not documents:
        raise InputError("no documents to score; give a file with text in it")
    tokenizer = read_tokenizer(config.bundle)
    documents = [tokenizer.document(document, config.bos) for document in documents]
    return Corpus(
        documents=tuple(_tokens(tokenizer, config.bos, document) for document in documents),
        utf8_bytes=tuple(len(document.encode()) for document in documents),
        has_bos=config.bos is not None,
    )


def _check(context: int, stride: int, config: BundleConfig | None) -> None:
    most = None if config is None else config.context_length
    takes = "it must be at least 2" if config is None else f"the model in {config.bundle} takes 2 to {most} tokens"
    whole_number("context", context, least=2, most=most, takes=takes)
    takes = f"it must be at least 1 and less than the context of {context}"
    whole_number("stride", stride, most=context - 1, takes=takes)


def _tokens(tokenizer: Tokenizer, bos: int | None, document: str) -> Tokens:
    tokens = tokenizer.encode_plain(document)
    return np.array(tokens if bos is None else [bos, *tokens], np.int64)


class Scorer:
    """A bundle opened to give the logits of many positions, a bounded number of rows at a time."""

    def __init__(
        self,
        config: BundleConfig,
        *,
        context: int,
        threads: int,
        prepared: bool = True,
        on: str | None = None,
        soc: str | None = None,
        graph: str | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        rows = max(1, min(context, 2 * _PIECE_BYTES // (4 * config.vocab_size)))
        self._session: Session = open_accelerator(config.bundle, on, soc, graph) or CpuSession(
            config, threads=threads, context=context, prefill_chunk=rows, prepared=prepared, entries=_YIELDING
        )
        if adapter is not None:
            self._session = self._session.with_adapter(adapter)

    def pieces(self, window: Window) -> Iterator[tuple[slice, Floats]]:
        """Yield the logits that predict the window's scored tokens: (which of the scored tokens, (rows, vocab))."""
        self._session.reset()
        size, chunk = window.tokens.size, self._session.prefill_chunk
        first_row = size - window.scored - 1  # row i predicts token i + 1, so the last row predicts nothing
        for start in range(0, size - 1, chunk):
            stop = min(start + chunk, size - 1)
            first = min(max(first_row, start), stop - 1)
            logits = self._session.append(window.tokens[start:stop], first - start, total=size)
            if stop > first_row:
                yield slice(first - first_row, stop - first_row), logits


def _evaluate(
    pieces: Callable[[Window], Iterator[tuple[slice, Floats]]],
    corpus: Corpus,
    context: int,
    stride: int,
    *,
    threads: int,
    reference: LogitsSource | None,
    progress: Callable[[int], None] | None,
) -> Evaluation:
    """Score a corpus by ``pieces``, which yields the logits of a window's scored tokens as :meth:`Scorer.pieces`."""
    sums = _Sums()
    documents = enumerate(corpus.documents)
    cut = ((index, window) for index, tokens in documents for window in windows(tokens, context, stride))
    scored = [0] * len(corpus.documents)
    with ThreadPoolExecutor(threads, "edgepress-scores") as cores:
        for (index, window), expected in _with_reference(cut, reference):
            where = f"document {index + 1}, the window that scores its tokens from {scored[index] + 1} on"
            if expected is not None:
                check_logits(expected, f"the reference model, {where}")
            _score_window(_checked(pieces(window), where), window, expected, sums, cores)
            scored[index] += window.scored
            if progress is not None:
                size, last = corpus.utf8_bytes[index], corpus.documents[index].size - 1
                before = scored[index] - window.scored
                progress(size * scored[index] // last - size * before // last)
    if not sums.tokens:
        raise InputError("no document is longer than one token, so there is nothing to score; give more text")
    return _result(sums, corpus, context, stride, referenced=reference is not None)


def _checked(pieces: Iterator[tuple[slice, Floats]], where: str) -> Iterator[tuple[slice, Floats]]:
    """The same pieces; InputError when logits of one are NaN or infinite."""
    for piece, logits in pieces:
        check_logits(logits, where)
        yield piece, logits


Cut = tuple[int, Window]
"""A document's index, and a window of it."""


def _with_reference(cut: Iterator[Cut], reference: LogitsSource | None) -> Iterator[tuple[Cut, Floats | None]]:
    """Each window with the reference's logits (length, vocab) of it, which are made while others are scored."""
    if reference is None:
        yield from ((one, None) for one in cut)
        return
    with ThreadPoolExecutor(1, "edgepress-reference") as pool:
        waiting: deque[tuple[Cut, Future[Floats]]] = deque()
        try:
            for one in cut:
                waiting.append((one, pool.submit(reference.logits, one[1].tokens)))
                if len(waiting) > _AHEAD:
                    before, found = waiting.popleft()
                    yield before, found.result()
            while waiting:
                before, found = waiting.popleft()
                yield before, found.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _score_window(
    pieces: Iterator[tuple[slice, Floats]], window: Window, expected: Floats | None, sums: _Sums, cores: Executor
) -> None:
    """Add a window's scores; ``expected`` is what the reference gives for it, (length, vocab)."""
    targets = window.tokens[-window.scored :]
    for piece, logits in pieces:
        if expected is not None and expected.shape != (window.tokens.size, logits.shape[1]):
            raise InputError(
                f"the reference gives logits of shape {expected.shape}, the bundle "
                f"{(window.tokens.size, logits.shape[1])}; give the checkpoint that the bundle was made from"
            )
        reference = None if expected is None else expected[-window.scored - 1 : -1][piece]
        step = max(1, _SCORED_BYTES // (8 * logits.shape[1]))
        rows = [slice(start, start + step) for start in range(0, len(logits), step)]
        parts = (
            [logits[some] for some in rows],
            [targets[piece][some] for some in rows],
            [None if reference is None else reference[some] for some in rows],
        )
        for found in cores.map(_score_rows, *parts):  # in the order of the rows: the same sums on any machine
            sums.add(found)


def _result(sums: _Sums, corpus: Corpus, context: int, stride: int, *, referenced: bool) -> Evaluation:
    size = sum(corpus.utf8_bytes)
    bits = size * math.log(2)
    return Evaluation(
        bits_per_byte=sums.nll / bits,
        perplexity=_perplexity(sums.nll, sums.tokens),
        documents=len(corpus.documents),
        scored_tokens=sums.tokens,
        utf8_bytes=size,
        negative_log_likelihood=sums.nll,
        context=context,
        stride=stride,
        first_token="bos" if corpus.has_bos else "first token of the document",
        reference_bits_per_byte=sums.reference_nll / bits if referenced else None,
        reference_perplexity=_perplexity(sums.reference_nll, sums.tokens) if referenced else None,
        kl=sums.kl / sums.tokens if referenced else None,
        top1_agreement=sums.agreed / sums.tokens if referenced else None,
    )


def _perplexity(nll: float, tokens: int) -> float:
    try:
        return math.exp(nll / tokens)
    except OverflowError:  # a model that is broken, not merely bad
        return math.inf


def format_evaluation(evaluation: Evaluation) -> str:
    """The scores as lines for a terminal."""
    lines = [
        f"bits per byte   {evaluation.bits_per_byte:.4f}",
        f"perplexity      {evaluation.perplexity:.3f} per token",
        f"scored          {evaluation.scored_tokens:,} tokens, {evaluation.utf8_bytes:,} bytes, "
        f"{evaluation.documents:,} documents; windows of {evaluation.context}, stride {evaluation.stride}",
    ]
    if evaluation.first_token != "bos":
        lines.append("note            the model has no beginning-of-sequence token: each first token is context only")
    if evaluation.kl is not None:
        lines += [
            f"reference       {evaluation.reference_bits_per_byte:.4f} bits per byte, "
            f"perplexity {evaluation.reference_perplexity:.3f}",
            f"KL divergence   {evaluation.kl:.5f} nats per token from the reference",
            f"same top token  {evaluation.top1_agreement:.2%} of the time",
        ]
    return "\n".join(lines)


def read_documents(path: Path) -> list[str]:
    """Read what to score: a ``.jsonl`` file holds one JSON object with ``text`` a line, a ``.json`` file a list.

    Any other file is one document. Texts with a lone surrogate in them are passed over, and a warning is logged.

    Raises:
        InputError: the file is missing, empty, not UTF-8, or a line or entry is not such an object (it is named).

    """
    skipped = Skipped()
    documents = documents_of(path, skipped)
    if warning := skipped.warning():
        _log.warning("%s", warning)
    return documents
