"""Templates in the manner of those that ship."""

CHATML = """{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif -%}
{% for message in messages %}
<|im_start|>{{ message['role'] }}
{% generation %}{{ message.content | default('') }}{% endgeneration %}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"""
STRICT = """{{ bos_token }}{% set ns = namespace(last='') %}{% for message in messages %}
{%- if message.role not in ['user', 'assistant'] %}
{{- raise_exception('Only user and assistant, not ' ~ message.role) }}{% endif %}
{%- if message.role == ns.last %}{{ raise_exception('Roles must alternate') }}{% endif %}
{%- set ns.last = message.role %}
{%- if loop.first %}[first of {{ loop.length }}]{% endif %}
{%- if message.role == 'assistant' and not loop.last %}{% continue %}{% endif %}
[{{ message.role | upper }}] {{ message['content'].strip() + eos_token }} {{ dict(a=1) | tojson }}
{%- endfor %}"""
REASONING = """{% for m in messages %}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}
{%- if m.tool_calls %}{% for call in m.tool_calls %}
{{- call.function.arguments | tojson(indent=2) }}{% endfor %}{% endif %}
{{ m.role }}: {{ m.content }}{% endfor %}{% for d in documents or [] %}{{ d.title }}{% endfor %}"""
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
