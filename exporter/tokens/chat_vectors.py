"""What transformers makes of the conversations on which all renderers have to agree, for the bundle to carry."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from edgepress.chat.conformance import (
    CASES,
    CONFORMANCE_FILE,
    NOW,
    Case,
    Vector,
    Vectors,
    control_token,
    differences,
    read_vectors,
)
from edgepress.chat.genai import TEXT_ONLY, genai_differences, is_installed
from edgepress.chat.prompt import ChatEncoder
from edgepress.chat.template import read_template
from edgepress.disk.files import write_json
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.tokens.source_tokenizer import reference_tokenizer
from edgepress.text.tokenizer import read_tokenizer

_log = logging.getLogger("edgepress.export")
_SHOWN = 3  # cases named in a warning
_ANY_LENGTH = 1 << 62  # tokens: nothing runs, so nothing is too long


def write_vectors(bundle: Path, checkpoint: Checkpoint) -> None:
    """Write ``chat_conformance.json`` beside the template of ``bundle``; nothing where it has none.

    What the runtime makes differently is said by a warning, and by ``edgepress verify --conformance`` at any time.
    """
    template = read_template(bundle)
    reference = None if template is None else reference_tokenizer(checkpoint)
    if template is None or reference is None:
        return
    from transformers import __version__

    reference.model_max_length = _ANY_LENGTH
    encoder = ChatEncoder(template, read_tokenizer(bundle))
    control = control_token(encoder)
    with stopped_clock():
        made = [reference_vector(reference, case.with_control(control)) for case in CASES]
    vectors = Vectors(control, f"transformers {__version__}", made)
    write_json(bundle / CONFORMANCE_FILE, msgspec.to_builtins(vectors))
    _say_what_is_refused(made)
    if found := differences(encoder, vectors):
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        _log.warning(
            "the chat template gives other tokens here than in transformers in %d of %d conversations: %s%s; encode "
            "such conversations with transformers",
            len(found),
            len(CASES),
            "; ".join(found[:_SHOWN]),
            more,
        )


def _say_what_is_refused(made: Sequence[Vector]) -> None:
    """Say where a template takes no plain question, in transformers as here, and what it wants."""
    taken = [case for case, vector in zip(CASES, made, strict=True) if vector.text is not None]
    if CASES[0] in taken:
        return
    wants = "; it takes those with tools alone" if taken and all(case.tools for case in taken) else ""
    _log.warning(
        "the chat template refuses %d of %d conversations, in transformers as here, a plain question among them%s",
        len(CASES) - len(taken),
        len(CASES),
        wants,
    )


def compare_genai(bundle: Path) -> None:
    """Say where onnxruntime-genai's own engine differs from the bundle's vectors; nothing where it is not installed."""
    vectors = read_vectors(bundle)
    if vectors is None or not is_installed():
        return
    forged = {case.name for case in CASES if case != case.with_control("")}  # alike in no bundle: no news
    if differing := [name for name in genai_differences(bundle, vectors) if name not in forged]:
        _log.warning(
            "onnxruntime-genai's own template engine gives other text or tokens than transformers in %d of %d "
            "conversations (%s …): in an app that uses it, encode with edgepress.chat and append the tokens",
            len(differing),
            len(TEXT_ONLY),
            "; ".join(differing[:_SHOWN]),
        )


def reference_vector(reference: Any, case: Case, template: str | None = None) -> Vector:
    """What transformers makes of a case, of ``template`` in place of its own; None where it refuses it."""
    given = {
        "conversation": list(case.messages),
        "chat_template": template,
        "tools": case.tools,
        "documents": case.documents,
        "add_generation_prompt": case.answer,
        **case.variables,
    }
    try:
        text = reference.apply_chat_template(tokenize=False, **given)
        tokens = reference.apply_chat_template(return_dict=False, sanitize_control_tokens=True, **given)
    except Exception as error:  # whatever a template raises
        _log.debug("transformers refuses %r: %s", case.name, error)
        return Vector(case.name, None, None)
    return Vector(case.name, text, tokens)


@contextmanager
def stopped_clock() -> Iterator[None]:
    """Let it be :data:`NOW` to templates that transformers renders: the same bundle every day."""
    from transformers.utils import chat_template_utils

    templates: Any = chat_template_utils

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override] # the time where the user is
            return NOW if tz is None else NOW.astimezone(tz)

    running = templates.datetime
    templates.datetime = Stopped
    try:
        yield
    finally:
        templates.datetime = running
