"""How each format's families write an answer, as their own templates do; not in their words."""

BEFORE = "{% for m in messages %}{% if m.role == 'user' %}[user] {{ m.content }}\n{% else %}"
AFTER = "{% endif %}{% endfor %}"
CALLS = "{% for c in m.tool_calls or [] %}{% set f = c.function %}"
_THINKS = "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
_PLAIN = "{% if v is string %}{{ v }}{% else %}{{ v | tojson }}{% endif %}"
_OBJECT = '{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}'
_NUMBERED = (
    '{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
)
_LINE = "{{ '\n' }}"  # a line break after a block is left out
_COMMA = "{{ ', ' if not loop.last }}"
_LIST = f"[{CALLS}{_OBJECT}{_COMMA}{{% endfor %}}]"
_WITH_IDS = f'[{CALLS}{_OBJECT[:-1]}, "id": "{{{{ c.id }}}}"}}{_COMMA}{{% endfor %}}]'
_EACH = "{% for k, v in f.arguments | items %}"
_PYTHON = (
    f"[{CALLS}{{{{ f.name }}}}({_EACH}{{{{ k }}}}={{{{ v | tojson }}}}{_COMMA}{{% endfor %}}){_COMMA}{{% endfor %}}]"
)
_GEMMA = """{%- macro write(v) -%}
{%- if v is string -%}<|"|>{{ v }}<|"|>
{%- elif v is mapping -%}{{ '{' }}{%- for k in v -%}{{ k }}:{{ write(v[k]) }}{{ ',' if not loop.last }}
{%- endfor -%}{{ '}' }}
{%- elif v is iterable -%}[{%- for one in v -%}{{ write(one) }}{{ ',' if not loop.last }}{%- endfor -%}]
{%- else -%}{{ v | tojson }}{%- endif -%}{%- endmacro -%}
{% if m.reasoning_content %}<|channel>thought
{{ m.reasoning_content }}
<channel|>{% endif %}{{ m.content }}"""
_HARMONY = (
    "{% if m.reasoning_content %}<|channel|>analysis<|message|>{{ m.reasoning_content }}<|end|><|start|>assistant"
    "{% endif %}{% if m.tool_calls %}"
    "{% if m.content %}<|channel|>commentary<|message|>{{ m.content }}<|end|>{% endif %}"
)


def _if_any(before: str, calls: str, after: str = "") -> str:
    """A turn whose calls stand together."""
    return "{{ m.content }}{% if m.tool_calls %}" + before + calls + after + "{% endif %}"


def _deepseek(call: str) -> str:
    begin, end = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
    each = f"{CALLS}{begin}{call}{end}{{% endfor %}}"
    return _THINKS + _if_any("<｜tool▁calls▁begin｜>", each, "<｜tool▁calls▁end｜>")


_SEPARATOR = "<｜tool▁sep｜>"
TEMPLATES = {
    "hermes": f"{_THINKS}{{{{ m.content }}}}{CALLS}{_LINE}<tool_call>\n{_OBJECT}\n</tool_call>{{% endfor %}}<|im_end|>",
    "qwen_xml": f"{_THINKS}{{{{ m.content }}}}{CALLS}{_LINE}<tool_call>\n<function={{{{ f.name }}}}>\n{_EACH}"
    f"<parameter={{{{ k }}}}>\n{_PLAIN}{_LINE}</parameter>\n{{% endfor %}}"
    "</function>\n</tool_call>{% endfor %}<|im_end|>",
    "glm": f"{_THINKS}{{{{ m.content }}}}{CALLS}{_LINE}<tool_call>{{{{ f.name }}}}\n{_EACH}"
    f"<arg_key>{{{{ k }}}}</arg_key>\n<arg_value>{_PLAIN}</arg_value>\n{{% endfor %}}</tool_call>{{% endfor %}}",
    "llama_json": f"{{{{ m.content }}}}{CALLS}{_OBJECT.replace('arguments', 'parameters', 1)}"
    "{{ '; ' if not loop.last }}{% endfor %}<|eot_id|>",
    "pythonic": _if_any("", _PYTHON),
    "lfm": _if_any("<|tool_call_start|>", _PYTHON, "<|tool_call_end|>") + "<|im_end|>",
    "mistral": _if_any("[TOOL_CALLS]", _WITH_IDS),
    "mistral_args": f"{{{{ m.content }}}}{CALLS}[TOOL_CALLS]{{{{ f.name }}}}[CALL_ID]{{{{ c.id }}}}[ARGS]"
    "{{ f.arguments | tojson }}{% endfor %}",
    "granite": _if_any("<|tool_call|>", _LIST),
    "phi": _if_any("<|tool_call|>", _LIST, "<|/tool_call|>") + "<|end|>",
    "harmony": f"{_HARMONY}{CALLS}<|start|>assistant to=functions.{{{{ f.name }}}}<|channel|>commentary json<|message|>"
    "{{ f.arguments | tojson }}<|call|>{% endfor %}{% else %}"
    "<|channel|>final<|message|>{{ m.content }}<|return|>{% endif %}",
    "gemma": f"{_GEMMA}{CALLS}<|tool_call>call:{{{{ f.name }}}}{{{{ write(f.arguments) }}}}<tool_call|>{{% endfor %}}",
    "deepseek": _deepseek(f"function{_SEPARATOR}{{{{ f.name }}}}\n```json\n{{{{ f.arguments | tojson }}}}\n```"),
    "command": "{% if m.reasoning_content %}<|START_THINKING|>{{ m.reasoning_content }}<|END_THINKING|>{% endif %}"
    "{% if m.content %}<|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|>{% endif %}{% if m.tool_calls %}"
    f"<|START_ACTION|>[\n{CALLS}    {_NUMBERED}{{{{ ',' if not loop.last }}}}{_LINE}{{% endfor %}}]<|END_ACTION|>"
    "{% endif %}",
    "kimi": _THINKS
    + _if_any(
        "<|tool_calls_section_begin|>",
        f"{CALLS}<|tool_call_begin|>functions.{{{{ f.name }}}}:{{{{ loop.index0 }}}}<|tool_call_argument_begin|>"
        "{{ f.arguments | tojson }}<|tool_call_end|>{% endfor %}",
        "<|tool_calls_section_end|>",
    ),
    "minimax": _THINKS
    + _if_any(
        "<minimax:tool_call>\n",
        f'{CALLS}<invoke name="{{{{ f.name }}}}">\n{_EACH}<parameter name="{{{{ k }}}}">{_PLAIN}</parameter>\n'
        "{% endfor %}</invoke>\n{% endfor %}",
        "</minimax:tool_call>",
    ),
    "deepseek_v31": _deepseek(f"{{{{ f.name }}}}{_SEPARATOR}{{{{ f.arguments | tojson }}}}"),
}
"""What stands between ``BEFORE`` and ``AFTER``, by the format's name."""
