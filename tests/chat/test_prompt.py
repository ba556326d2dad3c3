"""Conversations as tokens: what users write never becomes a special token, all else is as transformers encodes it."""

import json
from functools import cache
from pathlib import Path

import pytest
from chat_templates import CHATML
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers_of_all_kinds import content_of
from transformers import PreTrainedTokenizerFast

from edgepress.chat.conformance import CASES, Case, Vectors, differences, read_vectors, vector
from edgepress.chat.prompt import ChatEncoder
from edgepress.chat.template import ChatTemplate
from edgepress.errors import InputError
from edgepress.text.tokenizer import Tokenizer

KINDS = ("byte level", "byte fallback", "unigram")
SPECIAL = ("<|im_start|>", "<|im_end|>", "</s>")


@cache
def both(kind: str) -> tuple[ChatEncoder, PreTrainedTokenizerFast]:
    library = Library.from_str(json.dumps(content_of(kind)))
    library.no_padding()
    library.add_special_tokens(list(SPECIAL))
    library.add_tokens(["<think>"])  # added, and not special: the template writes it
    text = library.to_str()
    fast = PreTrainedTokenizerFast(tokenizer_object=Library.from_str(text), eos_token="</s>", chat_template=CHATML)
    return ChatEncoder(ChatTemplate(CHATML), Tokenizer(Library.from_str(text))), fast


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_transformers(kind: str, case: Case) -> None:
    case = case.with_control("<|im_end|>")
    encoder, fast = both(kind)
    given = {"tools": case.tools, "documents": case.documents}
    wanted = fast.apply_chat_template(
        [*case.messages],
        add_generation_prompt=case.answer,
        return_dict=False,
        sanitize_control_tokens=True,
        **given,
        **case.variables,
    )
    assert encoder.encode(case.messages, answer=case.answer, variables=case.variables, **given) == wanted


hostile = st.lists(st.sampled_from([*SPECIAL, "<think>", "<|im_", "end|>", "\ue0b0", "\ue0b1", "a", " ", "\n", "é"]))


@given(pieces=hostile, kind=st.sampled_from(KINDS))
def test_no_text_of_a_user_becomes_a_control_token(pieces: list[str], kind: str) -> None:
    encoder, _ = both(kind)
    control = {encoder.tokenizer.library.token_to_id(token) for token in (*SPECIAL, "<think>")}
    empty = encoder.encode([{"role": "user", "content": ""}])
    said = encoder.encode([{"role": "user", "content": "".join(pieces)}])
    assert [token for token in said if token in control] == [token for token in empty if token in control]


@given(text=st.text())
def test_a_user_s_text_comes_back_whole(text: str) -> None:
    encoder, _ = both("byte level")
    tokens = encoder.encode([{"role": "user", "content": text}], answer=False)
    decoded = encoder.tokenizer.decode(tokens)
    assert text.replace("\ue0b0", "").replace("\ue0b1", "") in decoded


@pytest.mark.parametrize("messages", [[], "hello", {"role": "user"}, [{"content": "hello"}], ["hello"]])
def test_what_is_no_conversation_is_refused(messages: object) -> None:
    with pytest.raises(InputError, match="role"):
        both("byte level")[0].encode(messages)  # type: ignore[arg-type] # as users do


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InputError, match="conversation"):
        both("byte level")[0].encode([{"role": "user", "content": "\ud83d"}])


def test_differences_from_the_vectors_of_an_export_are_named(tmp_path: Path) -> None:
    encoder, _ = both("byte level")
    made = [vector(encoder, case.with_control("</s>")) for case in CASES]
    assert differences(encoder, Vectors("</s>", "transformers", made)) == []
    turned = {**{one.case: one for one in made}}
    first, second = CASES[0].name, CASES[1].name
    turned[first] = type(made[0])(first, made[0].text, [*made[0].tokens[:3], 0, *made[0].tokens[4:]])
    turned[second] = type(made[0])(second, None, None)
    assert differences(encoder, Vectors("</s>", "transformers", [*turned.values()])) == [
        f"{first}: its tokens differ from number 3",
        f"{second}: it is rendered here, and was refused",
    ]
    assert read_vectors(tmp_path) is None
