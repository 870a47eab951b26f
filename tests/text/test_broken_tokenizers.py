"""Files that the tokenizers library panics at, or that end the process, are input errors that name the file."""

import base64
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mygpt.errors import InputError
from mygpt.text.panics import refuse_failures, refuse_quietly
from mygpt.text.tokenizer import Tokenizer
from tests.text.test_tokenizer import (
    SENTENCES,
    byte_fallback,
    byte_level,
    llama_decoder,
    train_sentencepiece,
)
from tests.text.test_tokenizer import write as write_json

ROOT = Path(__file__).parents[2]


def edited(**changes) -> bytes:
    return json.dumps({**json.loads(byte_level().to_str()), **changes}).encode()


def replace(pattern: dict, content: str) -> dict:
    return {"type": "Replace", "pattern": pattern, "content": content}


def template(*pieces: dict, **special) -> dict:
    return {"type": "TemplateProcessing", "single": list(pieces), "pair": [], "special_tokens": special}


def charsmap(table: bytes) -> dict:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


A, B = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}
BOS = {"SpecialToken": {"id": "<s>", "type_id": 0}}
NO_MERGES = json.loads(byte_level().to_str())["model"]
PANICS = {
    "FixedLength of 0": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "Replace of nothing": {"normalizer": replace({"String": ""}, "x")},
    "Replace of what may be nothing": {"normalizer": replace({"Regex": "a*"}, "x")},
    "Replace of the beginning": {"normalizer": replace({"Regex": r"\A"}, "x")},
    "Prepend of nothing": {"normalizer": {"type": "Prepend", "prepend": ""}},
    "a template's unknown token": {"post_processor": template(BOS, A)},
    "a template's second text": {"post_processor": template(B)},
    "a template without a text": {"post_processor": {"type": "Sequence", "processors": [template()] * 2}},
    "no table of replacements": {"normalizer": charsmap(b"\0\0\0")},
    "a short table of replacements": {"normalizer": charsmap(b"\4\0\0\0\0\0\xff\xff")},
    "a table of 4 GB": {"normalizer": {"type": "Sequence", "normalizers": [charsmap(b"\xff" * 4)]}},
    "a decoder that strips more than there is": {
        "decoder": {"type": "Strip", "content": "a", "start": 5, "stop": 5}
    },
    "merges longer than any token": {"model": {**NO_MERGES, "merges": [["Ġ" * 40, "Ġ" * 40]]}},
    "a prefix that its merges lack": {"model": {**NO_MERGES, "continuing_subword_prefix": "#"}},
    "a prefix that is no ASCII": {"model": {**NO_MERGES, "continuing_subword_prefix": "é"}},
}


@pytest.mark.parametrize("changes", PANICS.values(), ids=PANICS)
def test_a_panic_is_an_input_error_of_one_line_and_stderr_does_not_tell_of_it(tmp_path, capfd, changes):
    (tmp_path / "tokenizer.json").write_bytes(edited(**changes))
    with pytest.raises(InputError, match=r"tokenizer\.json.*: download it again$") as error:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["continuing_subword_prefix", r"continuing_subword_prefi\u0078"])
def test_what_would_abort_the_process_is_refused_before_the_library_reads_it(tmp_path, name):
    """A merge is cut within a character: the library makes text of that and cannot even panic."""
    vocab = {"a": 0, "é": 1, "aé": 2, "ab": 3}
    model = {"type": "BPE", "vocab": vocab, "merges": [["a", "é"]], "continuing_subword_prefix": "#"}
    content = edited(model=model).replace(b"continuing_subword_prefix", name.encode())
    (tmp_path / "tokenizer.json").write_bytes(content)
    code = "import sys; from pathlib import Path; from mygpt.text.tokenizer import Tokenizer\n"
    code += "try: Tokenizer.from_folder(Path(sys.argv[1]))\nexcept ValueError as error: print(error)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "tokenizer.json: its merges lack the prefix '#'" in done.stdout
    assert done.stderr == ""


def test_merges_with_their_prefix_are_used(tmp_path):
    vocab = {"a": 0, "#b": 1, "ab": 2}
    model = {"type": "BPE", "vocab": vocab, "merges": [["a", "#b"]], "continuing_subword_prefix": "#"}
    write_json(tmp_path / "tokenizer.json", {"version": "1.0", "added_tokens": [], "model": model})
    assert Tokenizer.from_folder(tmp_path).encode("ab") == [2]


def test_duplicate_ids_are_no_more_than_a_broken_file(tmp_path):
    for model in (NO_MERGES, json.loads(byte_fallback(llama_decoder()).to_str())["model"]):
        same = {**model, "vocab": {**dict.fromkeys(model["vocab"], 0), "<unk>": 1, "a": 0}}
        (tmp_path / "tokenizer.json").write_bytes(edited(model=same))
        try:
            Tokenizer.from_folder(tmp_path).encode("a")
        except InputError as error:
            assert "tokenizer.json" in str(error)


def test_a_panic_that_waits_for_its_text_is_an_input_error_too(tmp_path):
    """A regular expression that reaches its limit at one text, and a decoder that fails at one token."""
    slow = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    strip = {"type": "Strip", "content": "Z", "start": 5, "stop": 5}
    (tmp_path / "tokenizer.json").write_bytes(edited(pre_tokenizer=slow, decoder=strip))
    ours = Tokenizer.from_folder(tmp_path)
    with pytest.raises(InputError, match=f"^{tmp_path}: the tokenizer cannot encode the text .*retry-limit"):
        ours.encode("a" * 40 + "!")
    with pytest.raises(InputError, match=f"^{tmp_path}: the tokenizer cannot decode the ids .*index out of"):
        ours.decode(ours.encode("Z"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_ctrl_c_is_no_failure_of_the_library(error):
    for refuse in (refuse_failures, refuse_quietly):
        with pytest.raises(error), refuse("x"):
            raise error


def test_what_others_write_to_stderr_is_passed_on(capfd):
    with refuse_quietly("x"):
        os.write(2, b"from a thread\n")
    print("after", file=sys.stderr)
    assert capfd.readouterr().err == "from a thread\nafter\n"


@pytest.mark.parametrize("closed", [False, True])
def test_stderr_may_be_closed_and_no_folder_for_scratch_files_be_there(tmp_path, closed):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    code = "import os, sys; from pathlib import Path; from mygpt.text.tokenizer import Tokenizer\n"
    code += "import tempfile; tempfile.tempdir = '/nowhere'\n" + ("os.close(2)\n" if closed else "")
    code += "print(Tokenizer.from_folder(Path(sys.argv[1])).decode([40]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


# --- vocabularies without an unknown token ---

WORDS = {
    "words": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"},
    "pieces": {
        "type": "WordPiece",
        "vocab": {"a": 0},
        "unk_token": "<unk>",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    },
    "unigram": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": None},
}


@pytest.mark.parametrize("model", WORDS.values(), ids=WORDS)
def test_a_text_that_a_vocabulary_has_no_token_for_is_an_input_error(tmp_path, model):
    whole = {"version": "1.0", "added_tokens": [], "model": model}
    write_json(tmp_path / "tokenizer.json", whole)
    ours = Tokenizer.from_folder(tmp_path)
    assert ours.encode("a") == [0]
    with pytest.raises(
        InputError, match=f"^{tmp_path}: the tokenizer cannot encode the text .*download it again"
    ):
        ours.encode("é")


# --- the files beside ---


@pytest.mark.parametrize("added", [{"x": [1]}, {"x": {}}, {"x": "1"}, {"x": None}, {"x": 1.5}, {"x": True}])
def test_added_tokens_without_ids_are_an_input_error(tmp_path, added):
    train_sentencepiece(tmp_path, "bpe")
    write_json(tmp_path / "added_tokens.json", added)
    with pytest.raises(InputError, match=r"added_tokens\.json does not give each token a whole number"):
        Tokenizer.from_folder(tmp_path)


ODD = [
    1,
    -1.5,
    True,
    [],
    [[]],
    {},
    {"content": 5},
    {"content": None},
    {"content": ["a"]},
    "",
    "a",
    None,
    10**30,
]
KEYS = ["bos_token", "added_tokens_decoder", "extra_special_tokens", "add_bos_token", "tokenizer_class"]


@pytest.mark.parametrize("odd", ODD, ids=map(repr, ODD))
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
def test_odd_entries_are_ignored_or_an_input_error(tmp_path, file, key, odd):
    byte_level().model.save(str(tmp_path))
    write_json(tmp_path / file, {key: odd})
    try:
        Tokenizer.from_folder(tmp_path).encode_prompt("a")
    except InputError as error:
        assert str(tmp_path) in str(error)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes with a name")
@pytest.mark.parametrize(
    "name",
    [
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
        "merges.txt",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ],
)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_special_files_are_refused_by_name(tmp_path, name, make):
    byte_level().model.save(str(tmp_path))
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is no regular file"):
        Tokenizer.from_folder(tmp_path)


# --- flipped bytes ---


def broken(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 3, 20])):
        place = chance.randrange(len(changed))
        kind = chance.randrange(3)
        if kind == 0:
            changed[place] = chance.randrange(256)
        elif kind == 1:
            del changed[place : place + chance.randrange(1, 40)]
        else:
            changed[place:place] = chance.randbytes(chance.randrange(1, 9))
    return bytes(changed)


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_flipped_bytes_of_sentencepiece(tmp_path, capfd, model_type):
    options = (
        {"normalization_rule_name": "nmt_nfkc", "byte_fallback": False} if model_type == "unigram" else {}
    )
    train_sentencepiece(tmp_path, model_type, **options)
    path, chance, refused = tmp_path / "tokenizer.model", random.Random(0), 0
    content = path.read_bytes()
    capfd.readouterr()
    for _ in range(100):
        path.write_bytes(broken(content, chance))
        try:
            ours = Tokenizer.from_folder(tmp_path)
            ours.decode(ours.encode(SENTENCES[0]))
        except InputError as error:
            refused += 1
            assert str(tmp_path) in str(error)
    assert 0 < refused < 100
    assert capfd.readouterr().err == ""
