"""Cases that break a tokenizer's files or a chat template."""

import json
import random
from typing import Any

from tests.families.chat_templates import TEMPLATES
from tests.fuzz import mutate_bytes, mutate_files, values
from tests.fuzz.bases import Bases
from tests.fuzz.case import MODEL, Case
from tests.fuzz.kinds.commands import ONE, new_case, use_model
from tests.fuzz.kinds.model import break_json

_PROMPTS = ("Hi", "The quick é 你好 🙂 <|x|> </s>", " ", "abab" * 20)
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens", "model", "truncation")
_OWN = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# Parts of tokenizer.json that the valid ones lack.
_MORE_PARTS: tuple[tuple[str, Any], ...] = (
    ("pre_tokenizer", {"type": "FixedLength", "length": 0}),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Removed", "invert": True}),
    ("pre_tokenizer", {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": False}),
    ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
    ("normalizer", {"type": "Replace", "pattern": {"Regex": ".*?"}, "content": "y" * 1000}),
    ("normalizer", {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"}] * 9}),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": ""}),
    ("decoder", {"type": "Strip", "content": " ", "start": 2**63, "stop": 2**63}),
    ("decoder", {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True}),
    ("post_processor", {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "no", "type_id": 0}}],
                        "pair": [], "special_tokens": {}}),
    ("truncation", {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 5}),
    ("padding", {"strategy": {"Fixed": 2**40}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 0,
                 "pad_type_id": 0, "pad_token": ""}),
)  # fmt: skip
_SNIPPETS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{{ [messages] * 10**9 }}",
    "{{ messages | tojson(indent=10**9) }}",
    "{{ strftime_now('a' * 10**8) }}",
    "{% set ns = namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{{ 'a' * 10**9 }}",
    "{% set x = 'a' * 10**9 %}",
    "{{ 10**10**8 }}",
    "{{ (1,) * 10**9 }}",
    "{{ 'x' | center(10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ cycler.__init__.__globals__.os.mkdir('../../outside/pwned') }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ messages.append(1) }}",
    "{{ messages[0].pop('role') }}",
    "{{ raise_exception('a\x1b[2J\nerror: b' * 1000) }}",
    "{{ strftime_now('%') }}{{ strftime_now('\ud800') }}",
    "{{ messages | map('upper') | list | sort }}",
    "{{ 1 / 0 }}",
    "{{ nothing.at.all }}",
    "{{ messages[10**30] }}",
    "{% if " + "(" * 500 + "1" + ")" * 500 + " %}{% endif %}",
    "{{ " + "1 + " * 3000 + "1 }}",
    "{% for m in messages recursive %}{{ loop([messages[0]]) }}{% endfor %}",
    "{% set messages = [] %}",
    "{{ '\x00\x1b]0;t\x07' }}",
    "{{ '\ud800' }}",
    "{# open",
    "{% raw %}",
    "{% generation %}",
    "{{ lipsum(n=10**6) }}",
    "{{ range(10**8) | list | length }}",
    "{{ joiner.__call__.__func__.__code__ }}",
    "{{ messages | batch(0) | list }}{{ messages | slice(0) | list }}",
    "{{ 'a' | wordwrap(0) }}{{ 'a b' | wordwrap(-1) }}{{ 'a' | indent(10**8) }}{{ 'ab' | truncate(-5) }}",
    "{{ [3, 'a', none] | sort }}{{ {} | dictsort(by='x') }}",
)


def tokenizer(rng: random.Random, bases: Bases) -> Case:
    """A file of one of the tokenizers."""
    base = rng.choice(bases.under("tokenizer/"))
    case = new_case(bases.get(base))
    case.mutations.append(base)
    own = [name for name in case.files if _name(name) in _OWN]
    beside = [name for name in case.files if _name(name) in _BESIDE]
    path = rng.choice(own if rng.random() < 0.7 else beside)
    if rng.random() < 0.05:
        mutate_files.mutate(rng, case, [path])
    elif path.endswith("/tokenizer.json"):
        _break_tokenizer_json(rng, case, path)
    elif path.endswith(".json"):
        break_json(rng, case, _name(path))
    elif path.endswith(".model") and rng.random() < 0.6:
        _break_sentencepiece(rng, case, path)
    else:
        _break_bytes(rng, case, path)
    use_model(rng, case)
    prompt = rng.choice(_PROMPTS)
    case.arguments = [prompt if word == "Hi" else word for word in case.arguments]
    return case


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _break_bytes(rng: random.Random, case: Case, path: str) -> None:
    content = case.files[path]
    assert isinstance(content, bytes)
    case.files[path], told = mutate_bytes.mutate(rng, content)
    case.mutations.append(f"{path}: {told}")


def _break_tokenizer_json(rng: random.Random, case: Case, path: str) -> None:
    """Each part as often as the vocabulary, which is much larger."""
    content = case.files[path]
    assert isinstance(content, bytes)
    how = rng.random()
    if how < 0.15:
        return _break_bytes(rng, case, path)
    root = json.loads(content)
    if how < 0.35:
        part, value = rng.choice(_MORE_PARTS)
        root[part] = value
        case.mutations.append(f"{part}: {json.dumps(value)[:100]}")
    else:
        part = rng.choice(_PARTS)
        changed, told = values.mutate(rng, {part: root.get(part)})
        root.pop(part, None)
        root |= changed if isinstance(changed, dict) else {part: changed}
        case.mutations.append(told)
    case.files[path] = values.dump(root).encode()
    return None


def _break_sentencepiece(rng: random.Random, case: Case, path: str) -> None:
    """A field of the model, or its pieces; what no longer is a message stays as it was."""
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2
    model = messages.ModelProto.FromString(case.files[path])
    how = rng.choice(("pieces", "trainer_spec", "normalizer_spec"))
    if how == "pieces":
        i = rng.randrange(len(model.pieces))
        told = f"piece {i}: {_break_piece(rng, model.pieces, i)}"
    else:
        part = getattr(model, how)
        name = rng.choice([field.name for field in part.DESCRIPTOR.fields])
        value = rng.choice(
            (*values.TEXTS[:16], *(n for n in values.NUMBERS if not isinstance(n, str)), b"\xff\x00AAAA")
        )
        told = f"{how}.{name} = {str(value)[:40]!a}"
        try:
            setattr(part, name, value)
        except (TypeError, ValueError, OverflowError, AttributeError):
            told += ", not set"
    case.files[path] = model.SerializeToString()
    case.mutations.append(told)


def _break_piece(rng: random.Random, pieces: Any, i: int) -> str:
    how = rng.choice(("remove", "all", "type", "score", "text", "copy"))
    if how == "remove":
        del pieces[i]
    elif how == "all":
        del pieces[rng.choice((0, 1, 3, 259)) :]
    elif how == "type":
        pieces[i].type = rng.choice((1, 2, 3, 4, 5, 6))
    elif how == "score":
        pieces[i].score = rng.choice((float("nan"), float("inf"), float("-inf"), 1e38, 0.0))
    elif how == "text":
        pieces[i].piece = rng.choice([text for text in values.TEXTS if text.isprintable() or "\x1b" in text])
    else:
        pieces[i].piece = pieces[rng.randrange(len(pieces))].piece
    return how


def template(rng: random.Random, bases: Bases) -> Case:
    """A chat template, in each of the files that may hold it."""
    case = new_case(bases.get("llama"))
    source = rng.choice(list(TEMPLATES.values()))
    how = rng.random()
    if how < 0.6:
        at, snippet = rng.choice((0, 0, len(source), rng.randrange(len(source)))), rng.choice(_SNIPPETS)
        source = source[:at] + snippet + source[at:]
        case.mutations.append(f"at {at}: {snippet[:100]!a}")
    elif how < 0.9:
        changed, told = mutate_bytes.mutate(rng, source.encode())
        source = changed.decode("utf-8", "surrogateescape")
        case.mutations.append(told)
    else:
        source = values.nasty(rng)
        case.mutations.append(f"the template is {str(source)[:40]!a}")
    _place(rng, case, source)
    use_model(rng, case)
    if rng.random() < 0.5:
        case.arguments = ["generate", MODEL, "--prompt", "Hi", "--sys_prompt", "Be kind.", *ONE]
    return case


def _place(rng: random.Random, case: Case, source: Any) -> None:
    config = f"{MODEL}/tokenizer_config.json"
    content = case.files[config]
    assert isinstance(content, bytes)
    root = json.loads(content)
    where = rng.choice(("tokenizer_config.json", "list", "chat_template.jinja", "chat_template.json"))
    case.mutations.append(where)
    if where == "chat_template.jinja":
        del root["chat_template"]
        case.files[f"{MODEL}/{where}"] = (
            str(source).encode("utf-8", "surrogateescape") if _fits(source) else b"\xff"
        )
    elif where == "chat_template.json":
        del root["chat_template"]
        case.files[f"{MODEL}/{where}"] = values.dump({"chat_template": source}).encode()
    elif where == "list":
        root["chat_template"] = [
            {"name": "default", "template": source},
            {"name": "tool_use", "template": ""},
        ]
        if rng.random() < 0.3:
            root, told = values.mutate(rng, root)
            case.mutations.append(told)
    else:
        root["chat_template"] = source
    case.files[config] = values.dump(root).encode()


def _fits(source: Any) -> bool:
    try:
        str(source).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
