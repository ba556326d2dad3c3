"""onnxruntime-genai's own tokenizer and template engine, held to the conversations that a bundle carries."""

import importlib.util
import json
from pathlib import Path

from edgepress.chat.conformance import CASES, Case, Vector, Vectors

TEXT_ONLY = tuple(case for case in CASES if not case.variables and not case.documents)
"""What its engine can be asked: it takes neither documents nor a template's variables."""


def is_installed() -> bool:
    """Whether there is an onnxruntime-genai to ask."""
    return importlib.util.find_spec("onnxruntime_genai") is not None


def genai_differences(bundle: Path, vectors: Vectors) -> list[str]:
    """The conversations of ``TEXT_ONLY`` that its engine renders or encodes otherwise, or refuses; by name.

    A special token in a user's text is one to it: that case is among them for every tokenizer.
    """
    import onnxruntime_genai

    tokenizer = onnxruntime_genai.Tokenizer(str(bundle))
    wanted = {one.case: one for one in vectors.vectors}
    cases = [case.with_control(vectors.control) for case in TEXT_ONLY if case.name in wanted]
    return [case.name for case in cases if vector_of_genai(tokenizer, case) != wanted[case.name]]


def vector_of_genai(tokenizer: object, case: Case, template: str | None = None) -> Vector:
    """What its engine makes of a case, of ``template`` in place of the bundle's; None where it refuses it."""
    tools = {} if case.tools is None else {"tools": json.dumps(case.tools)}
    own = {} if template is None else {"template_str": template}
    messages = json.dumps(list(case.messages))
    try:
        text = tokenizer.apply_chat_template(  # type: ignore[attr-defined] # onnxruntime-genai has no types
            messages, add_generation_prompt=case.answer, **tools, **own
        )
        tokens = [int(token) for token in tokenizer.encode(text)]  # type: ignore[attr-defined]
    except Exception:  # whatever it meets: its errors have no class of their own
        return Vector(case.name, None, None)
    return Vector(case.name, text, tokens)
