"""Chat templates render as in transformers, styles follow what a repository holds, no option is ignored."""

import json
import re
from datetime import datetime

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers.utils.chat_template_utils import render_jinja_template

from mygpt.errors import InputError
from mygpt.text import prompt_encoder as prompt_encoder_module
from mygpt.text.chat_template import ChatTemplate, find_chat_template
from mygpt.text.prompt_encoder import PromptEncoder
from mygpt.text.prompt_styles import STYLES, PromptStyle
from mygpt.text.tokenizer import Tokenizer, TooManyTokensError

USER = {"role": "user", "content": "Hi <b> & 'you'"}
CHAT = [
    {"role": "system", "content": " Be brief. "},
    USER,
    {"role": "assistant", "content": "Hello\n"},
    {"role": "user", "content": "¿Qué tal? 你好 🙂"},
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

# A backslash at the end of a line joins it to the next one: Python's, not the template's.
TEMPLATES = {
    "chatml": """{% for message in messages %}\
{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
default<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "system folded into the first user message": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first = messages[0]['content'] | trim + '\n\n' -%}{%- set rest = messages[1:] -%}
{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('roles must alternate') }}
    {%- endif -%}
    {{ '<turn>' + message['role'].replace('assistant', 'model') + '\n' }}
    {{ (first if loop.first else '') + message['content'] }}
{%- endfor -%}""",
    "namespace": """{% set ns = namespace(last=0, found=false) %}
{% for m in messages %}
    {% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% set ns.found = true %}{% endif %}
{% endfor %}
{{ ns.last }} {{ ns.found }} {{ messages[ns.last].content }}""",
    "macro": """{% macro turn(m, end='') %}[{{ m.role | upper }}]{{ m.content | trim }}{{ end }}{% endmacro %}
{% for m in messages %}
    {{ turn(m, end=eos_token) }}
{% endfor %}""",
    "tojson": """{{ messages | tojson }}|{{ messages[0] | tojson(indent=2) }}|\
{{ messages[0] | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}""",
    "break and continue": """{% for m in messages %}
{% if m.role == 'system' %}{% continue %}{% endif %}{% if loop.index > 3 %}{% break %}{% endif %}
{{ m.content }};{% endfor %}""",
    "generation": """{% set kept = 'outside' %}{% for m in messages %}
{% if m.role == 'assistant' %}
    {%- generation %}{% set kept = 'inside' %}{{ m.content }}{{ eos_token }}{% endgeneration %}
{% else %}{{ m.content }}{% endif %}
{% endfor %}{{ kept }}""",
    "whitespace": """
  {% for m in messages %}
    {{ m.role }}
      {%- if loop.last %}   last   {% endif +%}
  {% endfor %}

  end  \n""",
    "undefined and missing": """{{ pad_token }}{{ messages[0].name }}\
{% if tools is none %}no tools{% endif %}\
{% if not documents %}, no documents{% endif %}{{ tools is defined }}{{ nothing is defined }}\
{{ unk_token | default('unk') }}""",
    "strings": """{% for m in messages %}\
{{ m.content.strip().split(' ')[0] ~ loop.index ~ m['role'][0] ~ m.content | length }}\
{{ ', ' if not loop.last }}{% endfor %}\
{{ messages | map(attribute='role') | join('-') }}{{ dict(a=1) }}{{ range(3) | list }}""",
    "filters": """{{ messages | selectattr('role', 'equalto', 'user') | list | length }}\
{{ (messages | last).content | replace('tal', 'TAL') }}{{ messages[1:] | first | tojson }}\
{{ custom | default(false) }}""",
    "harmony": """
{%- macro render_param(name, spec, indent=2) -%}
    {{- ' ' * indent + name + ': ' + (spec.type | default('any')) + (',' if not spec.last else '') + '\\n' }}
{%- endmacro -%}
{%- macro system_message() -%}
    {%- set model_identity = model_identity | default('You are a model.') -%}
    {{- model_identity + '\\nCurrent date: ' + strftime_now('%Y-%m-%d') + '\\n\\n' }}
    {{- 'Reasoning: ' + (reasoning_effort if reasoning_effort is defined else 'medium') + '\\n\\n' }}
    {%- for name, spec in {'a': {'type': 'string'}, 'b': {'last': true}}.items() -%}
        {{- render_param(name, spec) }}
    {%- endfor -%}
{%- endmacro -%}
{{- '<|start|>system<|message|>' }}{{ system_message() }}{{ '<|end|>' }}
{%- set last_tool_call = namespace(name=none) -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' and 'tool_calls' in message -%}
        {%- set last_tool_call.name = message.tool_calls[0].function.name -%}
    {%- elif message.role == 'assistant' and loop.last and not add_generation_prompt -%}
        {{- '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|return|>' }}
    {%- else -%}
        {%- if message.role == 'user' %}{% set last_tool_call.name = message.content -%}{% endif -%}
        {{- '<|start|>' + message.role + '<|message|>' + message.content | tojson + '<|end|>' }}
    {%- endif -%}
{%- endfor -%}
{{- last_tool_call.name }}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}""",
    "date": """{{ strftime_now('%Y') }}""",
}


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_renders_as_transformers(name, add_generation_prompt):
    variables = {"add_generation_prompt": add_generation_prompt, "custom": {"a": [1, None, 2.5]}}
    expected, _ = render_jinja_template([CHAT], chat_template=TEMPLATES[name], **SPECIAL, **variables)
    assert ChatTemplate(TEMPLATES[name]).render(CHAT, special_tokens=SPECIAL, **variables) == expected[0]


def test_tools_and_documents_reach_the_template():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    documents = [{"title": "t", "text": "x"}]
    source = "{% for t in tools %}{{ t | tojson }}{% endfor %}{{ documents[0].title }}"
    expected, _ = render_jinja_template([CHAT], tools=tools, documents=documents, chat_template=source)
    assert (
        ChatTemplate(source).render(CHAT, special_tokens={}, tools=tools, documents=documents) == expected[0]
    )


def test_strftime_now_is_the_local_time():
    assert (
        ChatTemplate("{{ strftime_now('%Y-%m') }}").render([USER], special_tokens={})
        == f"{datetime.now():%Y-%m}"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for %}", "not valid Jinja"),
        ("{{ x | nofilter }}", "not valid Jinja"),
        ("{{ raise_exception('roles must\nalternate') }}", "refuses these messages: roles must alternate"),
        ("{{ messages[0].a.b.c }}", "has no attribute"),
        ("{{ messages[0].content + 1 }}", "failed"),
        ("{{ 1 / 0 }}", "division by zero; check them, or choose another --prompt_style$"),  # of chat too
        ("{{ range(10000000) | list }}", "failed"),
        ("{{ messages.append(1) }}", "failed"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "failed"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "failed"),
        ("{{ messages.__init__.__globals__ }}", "failed"),
        ("{{ '{0.__class__.__base__.__subclasses__}'.format(messages) }}", "failed"),
        ("{{ raise_exception.__globals__['json'] }}", "failed"),
        ("{% include 'secret' %}", "failed"),
    ],
)
def test_a_template_that_misbehaves_is_an_input_error_of_one_line(source, message):
    with pytest.raises(InputError, match=message) as error:
        ChatTemplate(source).render([USER], special_tokens={})
    assert "\n" not in str(error.value)


def test_a_template_sees_plain_values_only():
    """An object with methods of its own is a way out of the sandbox."""
    with pytest.raises(InputError, match="plain JSON values"):
        ChatTemplate("").render([{"role": "user", "content": object()}], special_tokens={})


def tokenizer(tokens=(), bos=False, **config) -> Tokenizer:
    """Bytes, and the given special tokens after them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>", *tokens])
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 256)])
    return Tokenizer(backend, {"bos_token": "<s>", "eos_token": "</s>", **config})


def written(prompt_encoder: PromptEncoder, prompt, **options) -> str:
    """The prompt as the model sees it, special tokens included."""
    return prompt_encoder.tokenizer.backend.decode(
        prompt_encoder.encode(prompt, **options), skip_special_tokens=False
    )


TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}" + (
    "{% if add_generation_prompt %}assistant={% endif %}"
)


def test_sources_of_the_template_in_order(tmp_path):
    config = {"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "J"}))
    assert find_chat_template(None, tokenizer()) is None
    assert find_chat_template(tmp_path, tokenizer()) == ("J", tmp_path / "chat_template.json")
    of_config = tmp_path / "tokenizer_config.json"
    assert find_chat_template(tmp_path, tokenizer(chat_template="C")) == ("C", of_config)
    assert find_chat_template(tmp_path, tokenizer(**config)) == ("D", of_config)
    assert find_chat_template(None, tokenizer(**config)) == ("D", None)
    gguf = tmp_path / "model.gguf"
    assert find_chat_template(gguf, tokenizer(**config)) == ("D", gguf)
    (tmp_path / "chat_template.jinja").write_text("é\n", encoding="utf-8")
    jinja = tmp_path / "chat_template.jinja"
    assert find_chat_template(tmp_path, tokenizer(**config)) == ("é\n", jinja)


@pytest.mark.parametrize(
    "found", [1, {"a": "b"}, [{"name": "rag", "template": "R"}], [{"name": ["x"]}], ["x"], []]
)
def test_a_chat_template_of_another_shape_is_an_input_error(found):
    with pytest.raises(InputError, match="chat_template in the tokenizer's config"):
        find_chat_template(None, tokenizer(chat_template=found))


def test_a_jinja_file_that_is_not_text_is_an_input_error(tmp_path):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"chat_template\.jinja is not UTF-8"):
        PromptEncoder.choose(tokenizer(), tmp_path)


def test_a_string_is_one_user_message_and_a_list_is_the_conversation():
    prompt_encoder = PromptEncoder.choose(tokenizer(chat_template=TEMPLATE), None)
    assert prompt_encoder.is_chat
    assert written(prompt_encoder, "Hi") == "<s>user=Hi;assistant="
    assert written(prompt_encoder, "Hi", sys_prompt="Be brief.") == "<s>system=Be brief.;user=Hi;assistant="
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert written(prompt_encoder, turns) == "<s>user=a;assistant=b;user=c;assistant="
    assert (
        written(prompt_encoder, tuple(turns), sys_prompt="S")
        == "<s>system=S;user=a;assistant=b;user=c;assistant="
    )
    assert prompt_encoder.stop_strings == () and prompt_encoder.stop_token_ids == ()


def test_no_second_bos_after_a_template_and_the_post_processors_one_for_raw_text():
    prompt_encoder = PromptEncoder.choose(tokenizer(bos=True, chat_template=TEMPLATE), None)
    assert prompt_encoder.encode("Hi").count(256) == 1
    assert written(prompt_encoder, "Hi", raw=True) == "<s>Hi"
    assert written(PromptEncoder.choose(tokenizer(bos=True), None), "Hi") == "<s>Hi"
    assert written(PromptEncoder.choose(tokenizer(), None), "Hi") == "Hi"


def test_a_base_model_takes_text_as_it_is():
    prompt_encoder = PromptEncoder.choose(tokenizer(), None)
    assert not prompt_encoder.is_chat
    assert written(prompt_encoder, "Once upon") == "Once upon"
    assert (prompt_encoder.stop_strings, prompt_encoder.stop_token_ids) == ((), ())


def test_what_is_wrong_names_the_file_of_the_template(tmp_path):
    for source, message in (("{% if %}", "is not valid Jinja"), ("{{ 1 / 0 }}", "failed on these messages")):
        (tmp_path / "chat_template.jinja").write_text(source)
        with pytest.raises(InputError, match=f"^{tmp_path}/chat_template.jinja: the chat template {message}"):
            PromptEncoder.choose(tokenizer(), tmp_path).encode("Hi")
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(InputError, match=f"^{tmp_path}/tokenizer_config.json: the chat template"):
        PromptEncoder.choose(tokenizer(chat_template="{% if %}"), tmp_path).encode("Hi")
    with pytest.raises(InputError, match=f"config of {tmp_path}/tokenizer_config.json is neither"):
        PromptEncoder.choose(tokenizer(chat_template=5), tmp_path)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("a\udcff", {}, "^the prompt is not valid Unicode at character 1: write it in UTF-8$"),
        ("a\udcff", {"raw": True}, "^the prompt is not valid Unicode at character 1"),
        ("a", {"sys_prompt": "\udcff"}, "^--sys_prompt is not valid Unicode at character 0"),
        (
            [USER, {"role": "user", "content": "ab\ud800"}],
            {},
            "^message 2 is not valid Unicode at character 2",
        ),
    ],
)
def test_what_is_no_unicode_is_named_where_it_was_given(prompt, options, message):
    """Not where it stands in what the template wrote."""
    with pytest.raises(InputError, match=message):
        PromptEncoder.choose(tokenizer(chat_template=TEMPLATE), None).encode(prompt, **options)


@pytest.mark.parametrize("raw", [True, False])
def test_a_prompt_far_over_the_limit_is_not_encoded(raw, monkeypatch):
    encoder = PromptEncoder.choose(tokenizer(chat_template=TEMPLATE), None)
    longest, encode = [], encoder.tokenizer._ids
    monkeypatch.setattr(
        encoder.tokenizer, "_ids", lambda text, **given: longest.append(len(text)) or encode(text, **given)
    )
    with pytest.raises(
        TooManyTokensError, match=r"more than \d+ tokens .* context of 100 tokens; shorten it"
    ):
        encoder.encode("a" * 10**6, raw=raw, limit=100)
    assert max(longest) == 800


@pytest.mark.parametrize("length", [1, 799, 800, 801, 899])
def test_a_prompt_that_fits_or_nearly_does_is_exact(length):
    """Every byte is a token here; that a prompt is a little too long, the engine tells, with its length."""
    encoder = PromptEncoder.choose(tokenizer(), None)
    assert encoder.encode("a" * length, limit=800) == encoder.encode("a" * length)


@pytest.mark.parametrize("unknown", ["x" * 50, ""], ids=["unknown token", "none"])
def test_a_prompt_of_long_tokens_is_exact(unknown):
    """51 characters a token; a prompt is cut within one of them to see whether it is too long."""
    backend = Backend(models.WordLevel({"x" * 50: 0}, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    encoder = PromptEncoder.choose(Tokenizer(backend, {}), None)
    for length in (1, 99, 1000):
        assert encoder.encode(" ".join(["x" * 50] * length), limit=length) == [0] * length


def test_a_broken_template_does_not_stand_in_the_way_of_raw_prompts():
    prompt_encoder = PromptEncoder.choose(tokenizer(chat_template="{% if %}"), None)
    assert written(prompt_encoder, "Hi", raw=True) == "Hi"
    with pytest.raises(InputError, match="not valid Jinja"):
        prompt_encoder.encode("Hi")


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "non-empty list"),
        (None, {}, "non-empty list"),
        ({"role": "user", "content": "Hi"}, {}, "non-empty list"),
        (["Hi"], {}, "message 1 is malformed"),
        ([USER, {"role": "user"}], {}, "message 2 is malformed"),
        ([{"content": "Hi"}], {}, "message 1 is malformed"),
        ([{"role": 1, "content": "Hi"}], {}, "message 1 is malformed"),
        ([{"role": "user", "content": 3}], {}, "message 1 is malformed"),
        (CHAT, {"sys_prompt": "S"}, "a system message already"),
        ("Hi", {"sys_prompt": "S", "raw": True}, "--sys_prompt cannot be used.*drop --raw_prompt"),
        ([USER], {"raw": True}, "a list of messages.*drop --raw_prompt"),
        ("", {"raw": True}, "the prompt is empty"),
    ],
)
def test_bad_prompts_are_an_input_error_of_one_line(prompt, options, message):
    with pytest.raises(InputError, match=message) as error:
        PromptEncoder.choose(tokenizer(chat_template=TEMPLATE), None).encode(prompt, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("Hi", {"sys_prompt": "S"}, "--sys_prompt cannot be used.*--prompt_style of stablelm, redpajama"),
        ([USER], {}, "a list of messages.*--prompt_style of stablelm, redpajama"),
        ("", {}, "the prompt is empty"),
    ],
)
def test_what_a_base_model_cannot_do_is_an_input_error(prompt, options, message):
    with pytest.raises(InputError, match=message):
        PromptEncoder.choose(tokenizer(), None).encode(prompt, **options)


def test_an_empty_text_is_a_prompt_where_the_tokenizer_adds_bos():
    assert PromptEncoder.choose(tokenizer(bos=True), None).encode("") == [256]


def test_style_names():
    with_template = tokenizer(chat_template=TEMPLATE)
    assert not PromptEncoder.choose(with_template, None, "raw").is_chat
    assert written(PromptEncoder.choose(with_template, None, "template"), "Hi").startswith("<s>user=Hi")
    assert written(PromptEncoder.choose(with_template, None, "redpajama"), "Hi") == "<human>: Hi\n<bot>:"
    with pytest.raises(InputError, match=r"ships no chat template.*raw, stablelm, redpajama"):
        PromptEncoder.choose(tokenizer(), None, "template")
    with pytest.raises(InputError, match="'alpaca': choose one of template, raw, stablelm, redpajama"):
        PromptEncoder.choose(tokenizer(), None, "alpaca")


STABLELM = ["<|SYSTEM|>", "<|USER|>", "<|ASSISTANT|>"]
STABLELM_SYSTEM = """# StableLM Tuned (Alpha version)
- StableLM is a helpful and harmless open-source AI language model developed by StabilityAI.
- StableLM is excited to be able to help the user, but will refuse to do anything that could be \
considered harmful to the user.
- StableLM is more than just an information source, StableLM is also able to write poetry, \
short stories, and make jokes.
- StableLM will refuse to participate in anything that could harm a human.
"""


def test_stablelm_by_its_vocabulary():
    """The prompt of Stability-AI/StableLM's README."""
    prompt_encoder = PromptEncoder.choose(tokenizer(STABLELM), None)
    question = "What's your mood today?"
    assert written(prompt_encoder, question) == f"<|SYSTEM|>{STABLELM_SYSTEM}<|USER|>{question}<|ASSISTANT|>"
    assert (
        written(prompt_encoder, "Hi", sys_prompt="Be brief.") == "<|SYSTEM|>Be brief.<|USER|>Hi<|ASSISTANT|>"
    )
    assert written(prompt_encoder, CHAT[1:]).endswith(
        f"<|USER|>{CHAT[1]['content']}<|ASSISTANT|>Hello\n<|USER|>{CHAT[3]['content']}<|ASSISTANT|>"
    )
    assert prompt_encoder.stop_token_ids == (258, 259, 260)
    assert prompt_encoder.stop_strings == ()
    assert not PromptEncoder.choose(tokenizer(STABLELM[:2]), None).is_chat


def test_redpajama_by_its_model_card(tmp_path):
    """The prompt of the model card of RedPajama-INCITE-Chat-3B-v1; the answer begins with a space."""
    card = tmp_path / "README.md"
    card.write_text("To prompt the chat model:\n```\n<human>: [Instruction]\n<bot>:\n```\n")
    prompt_encoder = PromptEncoder.choose(tokenizer(), tmp_path)
    assert written(prompt_encoder, "Who is Alan Turing?") == "<human>: Who is Alan Turing?\n<bot>:"
    assert written(prompt_encoder, "Hi", sys_prompt="Be brief.") == "Be brief.\n<human>: Hi\n<bot>:"
    turns = [USER, {"role": "assistant", "content": " Hello.\n"}, {"role": "user", "content": "Bye"}]
    assert (
        written(prompt_encoder, turns) == f"<human>: {USER['content']}\n<bot>: Hello.\n<human>: Bye\n<bot>:"
    )
    assert prompt_encoder.stop_strings == ("<human>:",)
    assert prompt_encoder.stop_token_ids == ()
    card.write_text("A base model.")
    assert not PromptEncoder.choose(tokenizer(), tmp_path).is_chat


def test_of_a_model_card_no_more_than_its_head_is_read(tmp_path, monkeypatch):
    read = []
    start = prompt_encoder_module.read_start
    monkeypatch.setattr(
        prompt_encoder_module, "read_start", lambda *given: read.append(start(*given)) or read[-1]
    )
    with (tmp_path / "README.md").open("wb") as card:
        card.write(b"<human>: <bot>:")
        card.truncate(3 * 10**9)  # takes no space
    assert PromptEncoder.choose(tokenizer(), tmp_path).style == STYLES["redpajama"]
    assert [len(head) for head in read] == [2**20]


def test_a_folders_name_decides_nothing(tmp_path):
    folder = tmp_path / "togethercomputer" / "RedPajama-INCITE-Chat-3B-v1"
    folder.mkdir(parents=True)
    assert not PromptEncoder.choose(tokenizer(), folder).is_chat


def test_the_repositorys_own_template_comes_before_the_named_styles(tmp_path):
    (tmp_path / "README.md").write_text("<human>: <bot>:")
    prompt_encoder = PromptEncoder.choose(tokenizer(STABLELM, chat_template=TEMPLATE), tmp_path)
    assert written(prompt_encoder, "Hi") == "<s>user=Hi;assistant="
    assert prompt_encoder.style == PromptStyle("template", TEMPLATE)


@pytest.mark.parametrize("style", STYLES)
def test_named_styles_refuse_what_they_cannot_write(style):
    prompt_encoder = PromptEncoder.choose(tokenizer(), None, style)
    for message in (
        {"role": "tool", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
    ):
        with pytest.raises(InputError, match="the chat template failed"):
            prompt_encoder.encode([message])


THINKING = (
    "{% for message in messages %}{{ message.content }}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}<no>{% endif %}{{ mood }}"
)


def thinking_encoder(template: str) -> PromptEncoder:
    return PromptEncoder(tokenizer(), PromptStyle("template", template))


def test_think_sets_the_templates_switch() -> None:
    encoder = thinking_encoder(THINKING)
    plain, off = encoder.encode("Hi"), encoder.encode("Hi", think=False)
    assert encoder.tokenizer.decode(off) == encoder.tokenizer.decode(plain) + "<no>"
    assert encoder.encode("Hi", think=True) == plain
    assert encoder.encode("Hi", template_kwargs={"enable_thinking": False}) == off


def test_deepseeks_switch_has_another_name() -> None:
    template = (
        "{% if not thinking is defined %}{% set thinking = false %}{% endif %}"
        "{{ messages[0].content }}{% if thinking %}<yes>{% endif %}"
    )
    encoder = thinking_encoder(template)
    assert encoder.tokenizer.decode(encoder.encode("Hi", think=True)) == "Hi<yes>"
    assert encoder.tokenizer.decode(encoder.encode("Hi")) == "Hi"


def test_template_kwargs_are_variables() -> None:
    encoder = thinking_encoder(THINKING)
    assert encoder.tokenizer.decode(encoder.encode("Hi", template_kwargs={"mood": "!"})) == "Hi!"


@pytest.mark.parametrize(
    ("template", "options", "says"),
    [
        ("{{ messages[0].content }}", {"think": True}, "has no switch for it; leave"),
        ("{{ messages[0].content }}{{ reasoning_effort }}", {"think": False}, "reasoning_effort"),
        (THINKING, {"template_kwargs": {"enable_thinkin": True}}, "no variable 'enable_thinkin'"),
        (THINKING, {"template_kwargs": {"messages": []}}, "no variable 'messages'"),
        (THINKING, {"raw": True, "think": True}, "--think is for chat templates"),
        (
            THINKING,
            {"raw": True, "template_kwargs": {"a": 1}},
            "--chat_template_kwargs is for chat templates",
        ),
    ],
)
def test_options_that_the_template_cannot_take(template: str, options: dict, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        thinking_encoder(template).encode("Hi", **options)
