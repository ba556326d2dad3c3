"""Templates are rendered as transformers renders them, and cannot do anything else."""

import json
from pathlib import Path

import pytest
from chat_templates import CHATML, REASONING, STRICT, TOKENS
from transformers.utils.chat_template_utils import render_jinja_template

from edgepress.chat.conformance import CASES, Case
from edgepress.chat.template import ChatTemplate, read_template
from edgepress.errors import InputError


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("source", [CHATML, STRICT, REASONING], ids=["chatml", "strict", "reasoning"])
def test_templates_give_what_transformers_gives(source: str, case: Case) -> None:
    case = case.with_control("<|im_end|>")
    given = {"tools": case.tools, "documents": case.documents}
    try:
        [wanted], _ = render_jinja_template(
            [[*case.messages]],
            chat_template=source,
            add_generation_prompt=case.answer,
            **given,
            **case.variables,
            **TOKENS,
        )
    except Exception as error:  # what the template says is in ours, too
        with pytest.raises(InputError, match=str(error)):
            ChatTemplate(source, tokens=TOKENS).render(
                case.messages, answer=case.answer, variables=case.variables, **given
            )
    else:
        assert (
            ChatTemplate(source, tokens=TOKENS).render(
                case.messages, answer=case.answer, variables=case.variables, **given
            )
            == wanted
        )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "1,000,000 steps"),
        ("{{ 'ab' * 10 ** 9 }}", "16,777,216 characters"),
        ("{{ '%0999999999d' % 3 }}", "16,777,216 characters"),
        ("{{ '%*d' % (10 ** 9, 3) }}", "16,777,216 characters"),
        ("{{ '%s' | format('x' | center(10 ** 7) ~ 'x' | center(10 ** 7)) }}", "16,777,216 characters"),
        ("{{ '{:0999999999d}'.format(3) }}", "16,777,216 characters"),
        ("{{ '{:{}}'.format(3, 10 ** 9) }}", "16,777,216 characters"),
        ("{{ 'x'.ljust(10 ** 9) }}", "16,777,216 characters"),
        ("{{ 'x' | center(width=10 ** 9) }}", "16,777,216 characters"),
        ("{{ ('x\n' * 10 ** 5) | indent(10 ** 4) }}", "16,777,216 characters"),
        ("{{ ('x' * 10 ** 6).replace('x', 'y' * 10 ** 6) }}", "16,777,216 characters"),
        ("{{ ('x' * 10 ** 6) | replace('x', 'y' * 10 ** 6) }}", "16,777,216 characters"),
        ("{{ ('x' * 10 ** 6).join(['a'] * 10 ** 6) }}", "16,777,216 characters"),
        ("{{ (['x' * 10 ** 6] * 10 ** 6) | join }}", "16,777,216 characters"),
        ("{% set a = ['x' * 10 ** 6] * 10 ** 4 %}{{ a }}", "16,777,216 characters"),
        ("{% set a = ['x' * 10 ** 6] * 10 ** 4 %}{{ a | string | length }}", "16,777,216 characters"),
        ("{% set a = 'x' * 10 ** 6 %}{% for i in range(1000) %}{{ a }}{% endfor %}", "16,777,216 characters"),
        ("{{ range(10 ** 5) | map('center', 10 ** 7) | list | length }}", "1,073,741,824 characters together"),
        ("{% set n = namespace(i=3) %}{% for i in range(99) %}{% set n.i = n.i * n.i %}{% endfor %}", "characters"),
        ("{{ 10 ** (10 ** 10) }}", "16,777,216"),
        ("{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "16,777,216"),
        ("{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}", "16,777,216"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion"),
        ("{{ messages.append(1) }}", "refuses"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ namespace.__init__.__globals__ }}", "unsafe"),
        ("{% set n = namespace() %}{% set n.__class__ = 1 %}", "refuses|no template"),
        ("{% include '/etc/passwd' %}", "refuses|cannot render"),
        ("{{ 1 // 0 }}", "ZeroDivisionError"),
        ("{{ messages[7].content.upper() }}", "refuses"),
        ("{% if", "no template of Jinja"),
    ],
)
def test_a_template_that_does_not_end_or_wants_more_than_a_conversation_is_refused(source: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ChatTemplate(source).render([{"role": "user", "content": "hi"}])


def test_a_template_with_an_error_is_refused_where_its_words_are_looked_at() -> None:
    """An encoder asks for them before it renders anything."""
    with pytest.raises(InputError, match="no template of Jinja: Expected an expression"):
        _ = ChatTemplate("{% for x in %}").literals


def test_what_is_no_json_never_reaches_a_template() -> None:
    with pytest.raises(InputError, match="conversation holds a"):
        ChatTemplate("{{ messages }}").render([{"role": "user", "content": Path("here")}])


def write(folder: Path, **config: object) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_the_template_and_the_tokens_that_it_names_are_read_where_transformers_reads_them(tmp_path: Path) -> None:
    write(tmp_path, bos_token="<s>", eos_token={"content": "</s>"}, chat_template="{{ bos_token }}old")
    read = read_template(tmp_path)
    assert read is not None
    assert read.render([{"role": "user"}]) == "<s>old"
    (tmp_path / "chat_template.jinja").write_text("{{ eos_token }}new", encoding="utf-8")
    newer = read_template(tmp_path)
    assert newer is not None
    assert newer.render([{"role": "user"}]) == "</s>new"


def test_the_template_for_tools_is_taken_where_there_are_tools(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with tools"}]
    read = read_template(write(tmp_path, chat_template=named))
    assert read is not None
    assert read.render([{"role": "user"}]) == "plain"
    assert read.render([{"role": "user"}], tools=[{"name": "f"}]) == "with tools"


def test_a_folder_without_a_template_has_none(tmp_path: Path) -> None:
    assert read_template(write(tmp_path, bos_token="<s>")) is None
