"""Encoding and decoding equal transformers' and sentencepiece's; a stream's pieces join to the full text."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from mygpt.errors import InputError
from mygpt.text.tokenizer import StreamDecoder, Tokenizer

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "  def f(x):\n\treturn x  # an indented line",
    "Zażółć gęślą jaźń; Привет, мир! Как дела?",
    "你好。世界、这是一个测试。 こんにちは世界 안녕하세요",
    "नमस्ते दुनिया สวัสดีชาวโลก مرحبا بالعالم שלום",
    "🙂 👩\u200d👩\u200d👧\u200d👦 👍🏽 🇩🇪 e\u0301 \ufffd <s>[INST] <usr> </s>",
]
REPETITIVE = "abababab aba ab a ba"  # pieces that overlap themselves
SPECIAL = ["<unk>", "<s>", "</s>"]
TEXTS = st.lists(
    st.sampled_from([*SENTENCES, REPETITIVE, *" ".join(SENTENCES).split(" "), " ", "  ", "\n"])
    | st.text(max_size=6),
    max_size=6,
).map("".join)
QUICK = settings(deadline=None, max_examples=300)


def byte_level() -> tokenizers.Tokenizer:
    """Like GPT-2's and Llama 3's."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 3, trainer)
    return backend


def byte_fallback(decoder: decoders.Decoder) -> tokenizers.Tokenizer:
    """Like Llama 2's: sentencepiece's pieces, and bytes for the characters that no piece has."""
    words = [character for character in dict.fromkeys(SENTENCES[0] + "▁�abz") if character != " "]
    words += ["▁t", "th", "▁th", "he", "▁▁", "▁the", "ab", "▁a", "▁ab"]
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *dict.fromkeys(words)]
    merges = [
        ("▁", "t"),
        ("t", "h"),
        ("▁t", "h"),
        ("h", "e"),
        ("▁", "▁"),
        ("▁th", "e"),
        ("a", "b"),
        ("▁", "a"),
    ]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[*merges, ("▁a", "b")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoder
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens(["<usr>"])
    return backend


def llama_decoder(*last: decoders.Decoder) -> decoders.Decoder:
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])


BACKENDS = {
    "byte-level": byte_level(),
    "llama": byte_fallback(llama_decoder(decoders.Strip(" ", 1, 0))),
    "gemma": byte_fallback(llama_decoder()),
    "metaspace": byte_fallback(decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])),
}
TOKENIZERS = {name: Tokenizer(backend, {"eos_token": "</s>"}) for name, backend in BACKENDS.items()}


def stream(tokenizer: Tokenizer, ids) -> str:
    decoder = StreamDecoder(tokenizer)
    return "".join([*map(decoder.push, ids), decoder.flush()])


# --- streaming ---


@pytest.mark.parametrize("name", TOKENIZERS)
@QUICK
@given(text=TEXTS)
def test_a_streamed_text_is_the_decoded_text(name, text):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    assert stream(tokenizer, ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@QUICK
@given(data=st.data())
def test_streamed_random_ids_are_the_decoded_ids(name, data):
    """Ids as a model may choose them: parts of characters, special tokens in between, ids without a token."""
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 1), max_size=30))
    assert stream(tokenizer, ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@QUICK
@given(data=st.data())
def test_streamed_random_bytes_are_the_decoded_bytes(name, data):
    """Only tokens of one byte, and a space and a special token: most of it is not UTF-8."""
    tokenizer = TOKENIZERS[name]
    alphabet = (
        pre_tokenizers.ByteLevel.alphabet() if name == "byte-level" else map("<0x{:02X}>".format, range(256))
    )
    some = [*sorted(alphabet)[128:], "</s>", "Ġ" if name == "byte-level" else "▁"]
    ids = [tokenizer.token_to_id(token) for token in data.draw(st.lists(st.sampled_from(some), max_size=30))]
    assert None not in ids
    assert stream(tokenizer, ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_stream_never_shows_part_of_a_character(name):
    decoder = StreamDecoder(TOKENIZERS[name])
    ids = TOKENIZERS[name].encode("a你🙂 👩\u200d👩\u200d👧\u200d👦ż a")
    text, shown = TOKENIZERS[name].decode(ids), ""
    for token_id in ids:
        shown += decoder.push(token_id)
        assert text.startswith(shown)
    assert shown == text


def test_a_stream_shows_plain_text_at_once():
    for tokenizer in TOKENIZERS.values():
        decoder, ids = StreamDecoder(tokenizer), tokenizer.encode("the quick dog")
        assert all(map(decoder.push, ids))


def test_a_space_after_a_special_token_is_kept():
    tokenizer = TOKENIZERS["llama"]
    ids = [tokenizer.token_to_id(token) for token in ("▁ab", "</s>", "▁a", "</s>", "</s>", "▁the")]
    assert stream(tokenizer, ids) == "ab a the"


def test_what_is_left_comes_with_flush():
    for name, token in (("byte-level", "ð"), ("llama", "<0xF0>")):
        decoder = StreamDecoder(TOKENIZERS[name])
        assert decoder.push(TOKENIZERS[name].token_to_id(token)) == ""
        assert decoder.flush() == "\ufffd"
        assert decoder.flush() == ""


def test_a_push_costs_the_same_at_any_length():
    """Even where every token decodes to U+FFFD, which might still become a character."""
    tokenizer = TOKENIZERS["byte-level"]
    decoder, invalid = StreamDecoder(tokenizer), tokenizer.token_to_id("ÿ")
    for _ in range(1000):
        decoder.push(invalid)
        assert len(decoder._window) <= StreamDecoder._CONTEXT


# --- tokenizer.json ---


def write(path: Path, content) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def save(folder: Path, backend: tokenizers.Tokenizer, config=None) -> Path:
    """A folder whose tokenizer transformers takes as it is, instead of building the one of a model class."""
    backend.save(str(folder / "tokenizer.json"))
    write(folder / "config.json", {"model_type": "llama"})
    write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **(config or {})})
    return folder


def assert_equals_transformers(folder: Path, texts=SENTENCES) -> None:
    ours, theirs = Tokenizer.from_folder(folder), AutoTokenizer.from_pretrained(folder)
    for text in texts:
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
        assert ours.encode_prompt(text) == theirs.encode(text)
        ids = theirs.encode(text)
        expected = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(ids) == expected
    assert ours.special_tokens == theirs.special_tokens_map
    assert ours.vocab_size == len(theirs)


def with_bos(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    bos = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return backend


@pytest.mark.parametrize(
    "flags", [{}, {"add_bos_token": True}, {"add_bos_token": False, "add_eos_token": True}]
)
@pytest.mark.parametrize("bos", [True, False])
def test_the_post_processor_decides_about_bos(tmp_path, bos, flags):
    """As in transformers 5, the flags do not count where there is a tokenizer.json."""
    backend = with_bos(byte_level()) if bos else byte_level()
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", **flags}
    assert_equals_transformers(save(tmp_path, backend, config))
    first = Tokenizer.from_folder(tmp_path).encode_prompt("a")[0]
    assert (first == backend.token_to_id("<s>")) is bos


def test_tokens_that_the_config_adds(tmp_path):
    """Tokens as dicts, one that is not in tokenizer.json, one special only here, one with its own stripping."""
    size = byte_level().get_vocab_size()
    config = {
        "added_tokens_decoder": {
            str(size + 1): {"content": "<later>", "special": False},
            str(size): {"content": "[INST]", "special": True, "lstrip": True, "rstrip": True},
            "2": {"content": "</s>", "special": True, "rstrip": True, "normalized": False},
        },
        "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "pad_token": "<later>",
        "unk_token": None,
        "image_token": "Z",
    }
    folder = save(tmp_path, byte_level(), config)
    assert_equals_transformers(folder, [*SENTENCES, "a <later> b [INST]  c </s>  d"])
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.token_to_id("[INST]") == size
    assert tokenizer.vocab_size == size + 2
    assert tokenizer.eos_ids() == (2,)


def test_special_tokens_map_fills_up_the_config(tmp_path):
    write(tmp_path / "special_tokens_map.json", {"bos_token": {"content": "<s>"}, "eos_token": "<unk>"})
    save(tmp_path, byte_level(), {"eos_token": "</s>", "pad_token": None})
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_tokenizer_json_alone_is_enough(tmp_path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.special_tokens == {} and tokenizer.eos_ids() == ()
    assert tokenizer.decode(tokenizer.encode("Hi 你好")) == "Hi 你好"


def test_an_eos_token_without_an_id_is_none(tmp_path):
    tokenizer = Tokenizer.from_folder(save(tmp_path, byte_level(), {"eos_token": "<|im_end|>"}))
    assert tokenizer.eos_ids() == ()
    assert tokenizer.vocab_size == byte_level().get_vocab_size()


def test_saved_truncation_and_padding_are_switched_off(tmp_path):
    backend = byte_level()
    expected = backend.encode(SENTENCES[0]).ids
    backend.enable_truncation(max_length=4)
    backend.enable_padding(length=64)
    assert Tokenizer.from_folder(save(tmp_path, backend)).encode_prompt(SENTENCES[0]) == expected


def test_ids_of_padded_rows_have_no_text():
    tokenizer = TOKENIZERS["byte-level"]
    assert tokenizer.decode([*tokenizer.encode("a"), tokenizer.vocab_size, tokenizer.vocab_size + 7]) == "a"


# --- sentencepiece ---


def train_sentencepiece(folder: Path, model_type: str, **options) -> sentencepiece.SentencePieceProcessor:
    settings = {
        "vocab_size": 460,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "hard_vocab_limit": False,
        "user_defined_symbols": ["<usr>"],
        "minloglevel": 9,
        **options,
    }
    # Unigram scores of such texts tie, and then rounding decides.
    sentences = [*SENTENCES, REPETITIVE] if model_type == "bpe" else SENTENCES
    prefix = str(folder / "tokenizer")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 20), model_prefix=prefix, model_type=model_type, **settings
    )
    write(folder / "config.json", {"model_type": "llama"})
    return sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model")


NFKC = {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True, "byte_fallback": False}


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("options", [{}, {"add_dummy_prefix": False}, NFKC], ids=["llama", "gemma", "nfkc"])
def test_equals_sentencepiece(tmp_path, model_type, options):
    theirs = train_sentencepiece(tmp_path, model_type, **options)
    ours = Tokenizer.from_folder(tmp_path)

    @QUICK
    @given(TEXTS)
    def check(text: str) -> None:
        text = text.replace("<s>", "").replace("</s>", "").replace("\0", "")  # special tokens, only to us
        if text.strip() == "<usr>":
            return  # the one text that gets no prefix: see tokenizer_files
        ids = theirs.encode(text)
        assert ours.encode(text) == ids
        if theirs.unk_id() not in ids:  # sentencepiece writes it as ⁇, transformers leaves it out
            assert ours.decode(ids) == theirs.decode(ids)
            assert stream(ours, ids) == theirs.decode(ids)

    check()
    assert ours.vocab_size == theirs.vocab_size()
    assert ours.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert ours.eos_ids() == (theirs.eos_id(),)


@pytest.mark.parametrize(
    "flags", [{}, {"add_bos_token": True}, {"add_bos_token": True, "add_eos_token": True}]
)
def test_a_sentencepiece_folder_as_in_transformers(tmp_path, flags):
    train_sentencepiece(tmp_path, "bpe", user_defined_symbols=[])
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", **flags})
    assert_equals_transformers(tmp_path, [text for text in SENTENCES if "<s>" not in text and text[0] != " "])


def test_added_tokens_of_a_sentencepiece_folder(tmp_path):
    size = train_sentencepiece(tmp_path, "bpe").vocab_size()
    write(tmp_path / "added_tokens.json", {"[PAD]": size})
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode("<s>[PAD]") == [1, size]
    assert tokenizer.vocab_size == size + 1


def test_without_sentencepiece_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.model").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(InputError, match=r"pip install 'mygpt\[sentencepiece\]'"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"IQ== 0\nIg== 1\n", b"\x00\xff" * 50])
def test_another_tokenizer_model_is_an_input_error(tmp_path, content):
    """Llama 3's original tokenizer.model is a list of base64 lines."""
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.model is not a sentencepiece model") as error:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_a_sentencepiece_model_of_words_is_an_input_error(tmp_path):
    train_sentencepiece(tmp_path, "word", byte_fallback=False)
    with pytest.raises(InputError, match="neither a BPE nor a unigram"):
        Tokenizer.from_folder(tmp_path)


# --- vocab.json and merges.txt ---


def save_gpt2(folder: Path, config: dict) -> Path:
    byte_level().model.save(str(folder))
    write(folder / "config.json", {"model_type": "gpt2"})
    write(folder / "tokenizer_config.json", config)
    return folder


NAMES = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.mark.parametrize("flags", [{}, {"add_bos_token": True}, {"add_prefix_space": True}])
def test_vocab_and_merges_as_in_transformers(tmp_path, flags):
    """OPT's repositories are of this kind, and start every text with </s>."""
    config = {"tokenizer_class": "GPT2Tokenizer", **NAMES, **flags}
    assert_equals_transformers(save_gpt2(tmp_path, config))


def test_vocab_and_merges_of_another_kind_are_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"holds a CLIPTokenizer without tokenizer\.json: write that file"):
        Tokenizer.from_folder(save_gpt2(tmp_path, {"tokenizer_class": "CLIPTokenizer"}))


def test_merges_that_do_not_fit_the_vocabulary_are_an_input_error(tmp_path):
    save_gpt2(tmp_path, {})
    (tmp_path / "merges.txt").write_text("#version: 0.2\nnot there\n")
    with pytest.raises(InputError, match=r"vocab\.json and merges\.txt do not fit"):
        Tokenizer.from_folder(tmp_path)


# --- bad files, bad text ---


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"model": {}}', '{"model": {"type": "BPE", "vocab": 1}}']
)
def test_a_corrupt_tokenizer_json_is_an_input_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json is not a valid tokenizer") as error:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_a_corrupt_config_is_an_input_error(tmp_path, content):
    save(tmp_path, byte_level())
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer_config\.json .*: download it again"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("added", [[1], {"x": {}}, {"1": "a"}, {"1": {"content": "a", "special": "yes"}}])
def test_malformed_added_tokens_are_an_input_error(tmp_path, added):
    save(tmp_path, byte_level(), {"added_tokens_decoder": added})
    with pytest.raises(InputError, match=r"added tokens in .* are malformed"):
        Tokenizer.from_folder(tmp_path)


def test_no_tokenizer_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer in .*: download .*tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


def test_text_that_is_not_unicode_is_an_input_error():
    with pytest.raises(InputError, match="not valid Unicode at character 1"):
        TOKENIZERS["byte-level"].encode("a\udcff")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_a_prompt_of_ten_megabytes_takes_little_memory_before_it_is_refused(tmp_path):
    """All of it encoded would take 2 GB."""
    save(tmp_path, byte_level(), {"chat_template": "{{ messages[0].content }}"})
    code = """
import resource, sys
from pathlib import Path
from mygpt.text.prompt_encoder import PromptEncoder
from mygpt.text.tokenizer import Tokenizer
folder = Path(sys.argv[1])
encoder = PromptEncoder.choose(Tokenizer.from_folder(folder), folder)
prompt, before = "The quick brown fox. " * 500_000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for raw in (True, False):
    try:
        encoder.encode(prompt, raw=raw, limit=8192)
    except ValueError as error:
        print("does not fit" in str(error))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    *refused, kilobytes = done.stdout.split()
    assert refused == ["True", "True"]
    assert int(kilobytes) < 150 * 1024


def test_import_is_cheap():
    imports = "import sys; from mygpt.text import chat_template, stop_strings"
    code = f"{imports}; print({{'torch', 'jinja2', 'sentencepiece'}} & {{*sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
