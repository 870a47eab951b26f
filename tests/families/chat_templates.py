"""Chat templates of the constructs that the families' published ones are made of, each much shorter."""

# ruff: noqa: E501
# A backslash at the end of a line joins it to the next one: Python's, not the template's.
LOOP = "{% for m in messages %}{{ '<|' + m.role + '|>' + (m.content or '') }}{% endfor %}"
TEMPLATES = {
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' + date_string + '\\n' + system + '<|eot_id|>' }}
{%- for m in messages %}
    {%- if 'tool_calls' in m %}{{- '<|python_tag|>' + m.tool_calls[0].function.arguments | tojson }}
    {%- else %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}""",
    "llama2": """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}\
{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}{% set system = false %}{% endif %}\
{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}\
{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}\
{% else %}{% set content = m['content'] %}{% endif %}\
{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% elif m['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "mistral": """{%- set ns = namespace(index=0) %}{{- bos_token }}
{%- for m in messages if m['role'] != 'system' %}
    {%- if m['role'] in ['user', 'assistant'] and not m.tool_calls is defined %}
        {%- if (m['role'] == 'user') != (ns.index % 2 == 0) %}{{- raise_exception("Not alternating:
            user, assistant") }}{%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
    {%- if m['role'] == 'user' %}{{- '[INST] ' + m['content'] + '[/INST]' }}
    {%- elif m['content'] is defined and m['content'] is not none %}{{- ' ' + m['content'] + eos_token }}{%- endif %}
{%- endfor %}""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for m in messages %}
{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}
{{ '<start_of_turn>' + role + '\\n' + (m['content'] or '') | trim + '<end_of_turn>\\n' }}
{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}""",
    "gemma3": """{{ bos_token }}
{%- set prefix = messages[0]['content'] + '\\n\\n' if messages[0]['role'] == 'system' else '' -%}
{%- for m in (messages[1:] if prefix else messages) -%}
    {{ '<start_of_turn>' + m['role'] + '\\n' + (prefix if loop.first else '') }}
    {%- if m['content'] is string -%}{{ m['content'] | trim }}
    {%- elif m['content'] is iterable -%}{% for item in m['content'] %}{{ item['text'] }}{% endfor %}
    {%- else -%}{{ raise_exception('Invalid content type') }}{%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}""",
    "qwen2": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}\
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | default('', true) + '<|im_end|>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "qwen3": """{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and m.role == "user" and m.content is string and not m.content.startswith('<tool_response>') %}
        {%- set ns.searching = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}{%- set reasoning = '' %}
    {%- if m.reasoning_content is string %}{%- set reasoning = m.reasoning_content %}
    {%- elif '</think>' in content %}
        {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + m.role + '\\n' }}
    {%- if m.role == 'assistant' and loop.index0 > ns.last - 3 %}{{- '<think>\\n' + reasoning + '\\n</think>\\n' }}{%- endif %}
    {{- content }}
    {%- for call in m.tool_calls or [] %}{{- call.function | tojson }}{%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    "phi3": """{% for m in messages %}{% if m['role'] in ['system', 'user', 'assistant'] and m['content'] %}\
{{'<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}""",
    "smollm3": """{%- macro block(role, text='', end=true) -%}
<|im_start|>{{ role }}
{{ text | trim }}{% if end %}<|im_end|>{% endif %}
{%- endmacro -%}
{%- set mode = '/think' if enable_thinking | default(true) else '/no_think' -%}
{{ block('system', 'Mode: ' ~ mode) }}
{% for m in messages %}
{% generation %}{{ block(m.role, m.content, end=not loop.last) }}{% endgeneration %}
{% endfor %}""",
    "olmo2": """{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' and not loop.last %}\
{{ '<|assistant|>\\n' + (m['content'] or '') + eos_token + '\\n' }}\
{% else %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '\\n' }}{% endif %}\
{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}""",
    "granite": """{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set system = "Knowledge until April 2024." %}{%- if tools and documents %}{%- set system = system + " Tools." %}{%- endif %}
{%- set loop_messages = messages %}{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\\n' }}
{%- for m in loop_messages %}
    {{- '<|start_of_role|>' + m['role'] + '<|end_of_role|>' ~ m['content'] ~ '<|end_of_text|>\\n' }}
    {%- if loop.last and add_generation_prompt %}{{- '<|start_of_role|>assistant' }}
        {%- if controls %}{{- ' ' + controls | tojson() }}{%- endif %}{{- '<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}""",
    "cohere": """{%- macro render(m) %}<|START|><|{{ {'user': 'USER', 'assistant': 'CHATBOT'}.get(m.role, 'SYSTEM') }}|>
{%- if m.tool_calls %}{{ m.tool_calls | map(attribute='function') | list | tojson(indent=4) }}
{%- else %}{{ m.content }}{% endif %}<|END|>{% endmacro -%}
{{ bos_token }}{% if tools is not none and tools %}Tools: {{ tools | length }}{% elif documents %}Documents
{% else %}{% for m in messages %}{{ render(m) }}{% endfor %}{% endif %}""",
    "deepseek": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}\
{% set ns = namespace(is_first=true, is_tool=false, system='') %}\
{%- for m in messages %}{%- if m['role'] == 'system' %}{%- if ns.is_first %}{% set ns.system = ns.system + m['content'] %}\
{% set ns.is_first = false %}{%- endif %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system }}\
{%- for m in messages %}{%- if m['role'] == 'user' %}{%- set ns.is_tool = false -%}{{ '<|User|>' + m['content'] }}{%- endif %}\
{%- if m['role'] == 'assistant' and 'tool_calls' in m %}{%- set ns.is_tool = true -%}\
{%- for call in m['tool_calls'] %}{{ call['type'] + '```json\\n' + call['function']['arguments'] | tojson }}{%- endfor %}\
{%- elif m['role'] == 'assistant' %}{% set content = m['content'] %}{% if '</think>' in content %}\
{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<|Assistant|>' + content + eos_token }}{%- endif %}{%- endfor -%}\
{% if add_generation_prompt and not ns.is_tool %}{{ '<|Assistant|><think>\\n' }}{% endif %}""",
    "gpt_oss": """{%- macro system_message() -%}
    {{- "Current date: " + strftime_now("%Y-%m-%d") + "\\n\\nReasoning: " + (reasoning_effort or "medium") }}
{%- endmacro -%}
{%- if reasoning_effort is not defined %}{%- set reasoning_effort = "medium" %}{%- endif %}
{{- "<|start|>system<|message|>" }}{{- system_message() }}{{- "<|end|>" }}
{%- set last = namespace(tool=none) %}
{%- for m in messages -%}
    {%- if m.role == 'assistant' -%}
        {%- if "thinking" in m %}{{- "<|start|>assistant<|channel|>analysis<|message|>" + m.thinking + "<|end|>" }}{%- endif %}
        {%- if "tool_calls" in m %}{%- set last.tool = m.tool_calls[0].function.name %}
        {%- else %}{{- "<|start|>assistant<|channel|>final<|message|>" + m.content + "<|return|>" }}{%- endif %}
    {%- elif m.role == 'tool' -%}
        {%- if last.tool is none %}{{- raise_exception("A tool message without a call") }}{%- endif %}
        {{- "<|start|>functions." + last.tool + "<|message|>" + m.content | tojson + "<|end|>" }}
    {%- else -%}{{- "<|start|>" + m.role + "<|message|>" + m.content + "<|end|>" }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}""",
    "glm4": """[gMASK]<sop>
{%- for m in messages %}{%- if m.role == 'tool' %}{% continue %}{%- endif %}
{%- if m.role == 'assistant' and not m.content %}{% break %}{%- endif %}
<|{{ m.role }}|>
{%- set text = m.content.split('</think>') | last %}
{{ text.strip() }}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>{%- endif %}""",
    "zephyr": """{% for m in messages %}
{% if loop.first %}{{ bos_token }}{% endif %}
{% if m['role'] == 'user' %}
{{ '<|user|>\\n' + m['content'] + eos_token }}
{% elif m['role'] == 'assistant' %}
{{ '<|assistant|>\\n' ~ m['content'] ~ eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
}
