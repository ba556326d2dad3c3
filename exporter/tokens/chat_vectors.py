"""What transformers makes of the conversations on which all renderers have to agree, for the bundle to carry."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from edgepress.chat.conformance import CASES, CONFORMANCE_FILE, NOW, Case, Vector, Vectors, control_token, differences
from edgepress.chat.prompt import ChatEncoder
from edgepress.chat.template import read_template
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.tokens.source_tokenizer import reference_tokenizer
from edgepress.files import write_json
from edgepress.text.tokenizer import read_tokenizer

_log = logging.getLogger("edgepress.export")
_SHOWN = 3  # cases named in a warning


def write_vectors(bundle: Path, checkpoint: Checkpoint) -> None:
    """Write ``chat_conformance.json`` beside the template of ``bundle``; nothing where it has none.

    What the runtime makes differently is said by a warning, and by ``edgepress verify --conformance`` at any time.
    """
    template = read_template(bundle)
    reference = None if template is None else reference_tokenizer(checkpoint)
    if template is None or reference is None:
        return
    from transformers import __version__

    encoder = ChatEncoder(template, read_tokenizer(bundle))
    control = control_token(encoder)
    with _stopped_clock():
        made = [_vector(reference, case.with_control(control)) for case in CASES]
    vectors = Vectors(control, f"transformers {__version__}", made)
    write_json(bundle / CONFORMANCE_FILE, msgspec.to_builtins(vectors))
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


def _vector(reference: Any, case: Case) -> Vector:
    """What transformers makes of a case; None where the template refuses it."""
    given = {
        "conversation": list(case.messages),
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
def _stopped_clock() -> Iterator[None]:
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
