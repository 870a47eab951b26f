"""GGUF files: weights equal to what was quantized, Hugging Face's config, broken files refused."""

import math
import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as GGMLType
from gguf import GGUFEndian, GGUFWriter, RopeScalingType
from gguf.quants import dequantize, quantize
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mygpt import LLM
from mygpt.checkpoint.gguf.checkpoint import GGUFCheckpoint
from mygpt.checkpoint.gguf.header import read_header
from mygpt.checkpoint.open import open_checkpoint
from mygpt.checkpoint.write import write_folder
from mygpt.errors import InputError
from tests.checkpoint.gguf.test_tokenizer import BYTE_LEVEL, byte_level_metadata, trained

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDTH, VOCAB = 2, 256, 4, 2, 64, 512, 96

# llama.cpp's names, written out here once more as the test's own knowledge of the format
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    module, kind = name.rsplit(".", 1)
    if not module.startswith("model.layers."):
        return f"{NAMES[module]}.{kind}"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.{kind}"


def permuted(name: str, array: np.ndarray) -> np.ndarray:
    """As llama.cpp's converter stores the rows of q and k."""
    heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else 0
    if not heads:
        return array
    return (
        array.reshape(heads, 2, len(array) // heads // 2, *array.shape[1:])
        .swapaxes(1, 2)
        .reshape(array.shape)
    )


def tiny_llama(**overrides) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "vocab_size": VOCAB,
    }
    heads = {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": 128}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, "rms_norm_eps": 1e-5, **overrides})).eval()


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama()


def add_metadata(writer: GGUFWriter) -> None:
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(HEAD_DIM)


def write(
    path: Path, tensors: dict[str, Tensor], kind: GGMLType = GGMLType.F32, edit=lambda writer: None,
    architecture: str = "llama", **options,
) -> Path:  # fmt: skip
    """A GGUF file of a llama's state dict, its matrices in the type `kind`; `edit` may add to it."""
    writer = GGUFWriter(path, architecture, **options)
    add_metadata(writer)
    edit(writer)
    for name, tensor in tensors.items():
        stored = kind if tensor.ndim == 2 else GGMLType.F32
        array = quantize(permuted(name, tensor.detach().float().numpy()), stored)
        writer.add_tensor(gguf_name(name), array, raw_dtype=stored)
    finish(writer)
    return path


def finish(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


# Weights

PLAIN = {GGMLType.F32: torch.float32, GGMLType.F16: torch.float16, GGMLType.BF16: torch.bfloat16}


@pytest.mark.parametrize(
    "kind",
    [*PLAIN, GGMLType.Q8_0, GGMLType.Q4_0, GGMLType.Q4_1, GGMLType.Q5_0, GGMLType.Q5_1],
    ids=lambda kind: kind.name,
)
def test_weights_of_each_type(kind: GGMLType, model: LlamaForCausalLM, path: Path):
    """Names, shapes, row order of q and k, and values: those of the package's own reference, bit for bit."""
    checkpoint = open_checkpoint(write(path, model.state_dict(), kind))
    found = dict(checkpoint.tensors())
    assert found.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        stored = kind if tensor.ndim == 2 else GGMLType.F32
        expected = torch.from_numpy(dequantize(quantize(tensor.numpy(), stored), stored))
        assert found[name].dtype == PLAIN.get(stored, torch.float32)
        assert torch.equal(found[name].float(), expected), name
    assert checkpoint.shapes() == {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()}


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_quants(kind: str, model: LlamaForCausalLM, path: Path):
    """The package cannot make these, so the blocks hold random bytes."""
    type_ = GGMLType[kind]
    _, block_bytes = gguf.GGML_QUANT_SIZES[type_]
    random_bytes = np.random.default_rng(0)
    written: dict[str, np.ndarray] = {}
    writer = GGUFWriter(path, "llama")
    add_metadata(writer)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1:
            writer.add_tensor(gguf_name(name), tensor.numpy())
            continue
        rows, columns = tensor.shape
        blocks = random_bytes.integers(0, 256, (rows, columns // 256 * block_bytes), dtype=np.uint8)
        written[name] = blocks
        writer.add_tensor(gguf_name(name), permuted(name, blocks), raw_dtype=type_)
    finish(writer)
    with np.errstate(all="ignore"):  # some of the random scales are infinite or no number
        found = dict(open_checkpoint(path).tensors())
        for name, blocks in written.items():
            np.testing.assert_array_equal(found[name].numpy(), dequantize(blocks, type_), err_msg=name)


def test_logits_are_those_of_transformers(path: Path, tmp_path: Path):
    """The rows of q and k are in the right order: any other one changes the logits."""
    model = tiny_llama(attention_bias=True, mlp_bias=True, rope_theta=5000.0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    write(path, model.state_dict(), edit=lambda writer: writer.kv_data[0].update(rope_base(5000.0)))
    write_folder(open_checkpoint(path), tmp_path / "folder")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    ids = torch.arange(40)[None]
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def rope_base(value: float) -> dict[str, gguf.GGUFValue]:
    return {"llama.rope.freq_base": gguf.GGUFValue(value, gguf.GGUFValueType.FLOAT32)}


def test_tied_embeddings_are_written_once(path: Path, tmp_path: Path):
    model = tiny_llama(tie_word_embeddings=True)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    checkpoint = open_checkpoint(write(path, tensors, GGMLType.BF16))
    assert checkpoint.config["tie_word_embeddings"] is True
    write_folder(checkpoint, tmp_path / "folder", torch.bfloat16)
    assert dict(open_checkpoint(tmp_path / "folder").tensors()).keys() == tensors.keys()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    assert loaded.dtype == torch.bfloat16
    assert loaded.lm_head.weight.data_ptr() == loaded.model.embed_tokens.weight.data_ptr()
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight.bfloat16())


# Config


def test_config_is_that_of_transformers(model: LlamaForCausalLM, path: Path):
    checkpoint = open_checkpoint(write(path, model.state_dict()))
    ours = LlamaConfig(**checkpoint.config).to_dict()
    expected = model.config.to_dict()
    keys = expected.keys() - {"architectures", "dtype", "transformers_version", "_name_or_path"}
    assert {key: ours[key] for key in keys if ours[key] != expected[key]} == {
        "bos_token_id": None,
        "eos_token_id": None,
    }
    assert checkpoint.config["torch_dtype"] == "float32"


def with_metadata(model: LlamaForCausalLM, path: Path, edit) -> GGUFCheckpoint:
    return GGUFCheckpoint(write(path, model.state_dict(), edit=edit))


def test_linear_scaling(model: LlamaForCausalLM, path: Path):
    def edit(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    assert with_metadata(model, path, edit).config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_a_factor_that_scales_nothing(factor: float, model: LlamaForCausalLM, path: Path):
    checkpoint = with_metadata(model, path, lambda writer: writer.add_rope_scaling_factor(factor))
    assert checkpoint.config["rope_scaling"] is None


def test_yarn(model: LlamaForCausalLM, path: Path):
    def edit(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(8.0)
        writer.add_rope_scaling_orig_ctx_len(64)

    scaling = with_metadata(model, path, edit).config["rope_scaling"]
    assert scaling.pop("attention_factor") == pytest.approx(0.1 * math.log(8) + 1)
    assert scaling == {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 32.0, "beta_slow": 1.0
    }  # fmt: skip


def test_llama3_scaling_is_a_tensor_of_divisors(model: LlamaForCausalLM, path: Path):
    divisors = np.linspace(1, 8, HEAD_DIM // 2, dtype=np.float32)
    checkpoint = with_metadata(model, path, lambda writer: writer.add_tensor("rope_freqs.weight", divisors))
    assert checkpoint.config["rope_scaling"] == {"rope_type": "divisors", "divisors": divisors.tolist()}
    assert len(dict(checkpoint.tensors())) == len(model.state_dict())


def test_logits_with_divisors_are_those_of_llama3_scaling(path: Path):
    factors = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    model = tiny_llama(rope_parameters={"rope_type": "llama3", "rope_theta": 10_000.0, **factors})
    divisors = (tiny_llama().model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq).numpy()
    assert divisors.max() == 8
    write(path, model.state_dict(), edit=lambda writer: writer.add_tensor("rope_freqs.weight", divisors))
    llm = LLM.load(str(path), precision="32-true", accelerator="cpu")
    ids = torch.arange(90)[None]
    torch.testing.assert_close(llm.logits(ids), model(ids).logits.detach(), rtol=1e-4, atol=1e-4)


def test_divisors_of_one_are_nothing(model: LlamaForCausalLM, path: Path):
    ones = np.ones(HEAD_DIM // 2, dtype=np.float32)
    checkpoint = with_metadata(model, path, lambda writer: writer.add_tensor("rope_freqs.weight", ones))
    assert checkpoint.config["rope_scaling"] is None


def test_sampling_is_read_by_llama_cpps_names(model: LlamaForCausalLM, path: Path):
    def edit(writer: GGUFWriter) -> None:
        writer.add_float32("general.sampling.temp", 0.6)
        writer.add_int32("general.sampling.top_k", 20)
        writer.add_float32("general.sampling.penalty_repeat", 1.1)

    values = with_metadata(model, path, edit).generation_config
    assert {key: value for key, value in values.items() if key != "eos_token_id"} == {
        "temperature": 0.6,
        "top_k": 20,
        "repetition_penalty": 1.1,
    }


def test_end_tokens_are_collected_once(model: LlamaForCausalLM, path: Path):
    def edit(writer: GGUFWriter) -> None:
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_eot_token_id(5)
        writer.add_uint32("tokenizer.ggml.eom_token_id", 2)

    checkpoint = with_metadata(model, path, edit)
    assert checkpoint.generation_config == {"eos_token_id": [2, 5]}
    assert (checkpoint.config["bos_token_id"], checkpoint.config["eos_token_id"]) == (1, 2)


def test_a_list_of_end_tokens_is_an_input_error(model: LlamaForCausalLM, path: Path):
    with pytest.raises(InputError, match=rf"{path.name}: tokenizer\.ggml\.eot_token_id is no token's id"):
        with_metadata(model, path, lambda writer: writer.add_array("tokenizer.ggml.eot_token_id", [1, 2]))


# What is refused


def scale_longrope(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
    writer.add_rope_scaling_factor(4.0)


def scale_twice(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_factor(4.0)
    writer.add_tensor("rope_freqs.weight", np.full(HEAD_DIM // 2, 2, dtype=np.float32))


def add_unsupported_type(writer: GGUFWriter) -> None:
    writer.add_tensor("extra", np.zeros((4, 18), dtype=np.uint8), raw_dtype=GGMLType.IQ4_NL)


REFUSED = {
    "mixture of experts": (lambda writer: writer.add_expert_count(8), "mixtures of experts"),
    "split": (lambda writer: writer.add_uint16("split.count", 3), "one part of a split file"),
    "longrope": (scale_longrope, "rope scaling 'longrope'"),
    "two scalings": (scale_twice, "both rope_freqs.weight and the rope scaling linear"),
    "partial rotation": (lambda writer: writer.add_key_length(HEAD_DIM * 2), "rotates 64 of 128"),
    "unknown tensor": (lambda writer: writer.add_tensor("blk.0.attn_sinks", np.ones(4)), "attn_sinks"),
    "unknown weight": (
        lambda writer: writer.add_tensor("blk.0.attn_gate.weight", np.ones(4, dtype=np.float32)),
        r"no place for its blk\.0\.attn_gate\.weight",
    ),
    "type": (add_unsupported_type, "type IQ4_NL of its tensor extra"),
    "layers": (
        lambda writer: writer.kv_data[0].update(blocks(3)),
        "lacks blk.2.attn_k.weight, .* and 6 more",
    ),
    "many layers": (lambda writer: writer.kv_data[0].update(blocks(2**32 - 1)), "4294967295 layers"),
    "no layers": (lambda writer: writer.kv_data[0].update(blocks(0)), "block_count is not a positive"),
    "no heads": (lambda writer: writer.kv_data[0].pop("llama.attention.head_count"), "head_count is missing"),
}


def blocks(count: int) -> dict[str, gguf.GGUFValue]:
    return {"llama.block_count": gguf.GGUFValue(count, gguf.GGUFValueType.UINT32)}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_models(case: str, model: LlamaForCausalLM, path: Path):
    edit, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as caught:
        with_metadata(model, path, edit)
    assert "\n" not in str(caught.value)


def test_rows_that_do_not_fit_the_heads(model: LlamaForCausalLM, path: Path):
    tensors = {**model.state_dict(), "model.layers.1.self_attn.k_proj.weight": torch.ones(100, HIDDEN)}
    checkpoint = open_checkpoint(write(path, tensors))
    with pytest.raises(InputError, match=r"blk\.1\.attn_k\.weight has 100 rows in place of 2 heads of 64"):
        dict(checkpoint.tensors())


def test_without_an_embedding(model: LlamaForCausalLM, path: Path):
    tensors = {name: tensor for name, tensor in model.state_dict().items() if "embed_tokens" not in name}
    with pytest.raises(InputError, match=r"no tensor token_embd\.weight; download it again"):
        open_checkpoint(write(path, tensors))


def test_other_architectures(model: LlamaForCausalLM, path: Path):
    with pytest.raises(InputError, match="architecture 'gemma3' is not supported"):
        open_checkpoint(write(path, model.state_dict(), architecture="gemma3"))


def test_other_byte_order(model: LlamaForCausalLM, path: Path):
    with pytest.raises(InputError, match="big-endian"):
        open_checkpoint(write(path, {}, endianess=GGUFEndian.BIG))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated or corrupt"),
        (b"GGUF", "truncated or corrupt"),
        (b"<html>not found", "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "truncated or corrupt"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "truncated or corrupt"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "architecture None"),
    ],
)
def test_files_that_are_no_gguf(content: bytes, message: str, path: Path):
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_checkpoint(path)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole GGUF file with a vocabulary and one small tensor: nearly all of it header."""
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"

    def edit(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["a", "b", "ab"])
        writer.add_array("tokenizer.ggml.scores", [0.5, 1.5, 2.5])

    write(path, {"model.norm.weight": torch.ones(32)}, edit=edit)
    return path.read_bytes()


def test_a_file_cut_anywhere_is_refused(small_file: bytes, path: Path):
    for length in range(0, len(small_file) - 31, 7):  # the file ends in padding
        path.write_bytes(small_file[:length])
        with pytest.raises(InputError, match=r"truncated or corrupt|not a GGUF file"):
            read_header(path)


@pytest.mark.filterwarnings("ignore:.*encountered in multiply")  # of scales that are infinite now
def test_corrupt_bytes_raise_nothing_else(model: LlamaForCausalLM, path: Path):
    """Whatever a broken header says, the user reads one line; the same for a tokenizer and tensors built on it."""
    metadata = byte_level_metadata(trained(BYTE_LEVEL, size=300), "gpt-2")
    write(path, model.state_dict(), GGMLType.Q4_0, edit=lambda writer: add_tokenizer(writer, metadata))
    whole = path.read_bytes()
    header_bytes = min(tensor.offset for tensor in read_header(path).tensors)
    chance = random.Random(0)
    survived = 0
    for _ in range(400):
        damaged = bytearray(whole[:header_bytes])
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(header_bytes)] = chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
        with path.open("r+b") as file:
            file.write(damaged)
        try:
            checkpoint = open_checkpoint(path)
            dict(checkpoint.tensors())
            checkpoint.tokenizer()
            survived += 1
        except InputError as error:
            assert "\n" not in str(error)
    assert 20 < survived < 380  # or the damage is too great, or too small, to test anything


def add_tokenizer(writer: GGUFWriter, metadata: dict) -> None:
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, [int(v) if isinstance(v, int) else v for v in value])
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)


def test_our_header_is_that_of_the_package(small_file: bytes, path: Path):
    path.write_bytes(small_file)
    reader, header = gguf.GGUFReader(path), read_header(path)
    theirs = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata == theirs
    (tensor,) = reader.tensors
    assert [(t.name, t.shape, t.type, t.offset, t.nbytes) for t in header.tensors] == [
        (tensor.name, tuple(tensor.shape[::-1]), tensor.tensor_type, tensor.data_offset, tensor.n_bytes)
    ]


def test_real_file_as_a_folder(smollm2_gguf: Path, tmp_path: Path):
    """Converted, it runs in transformers: only with the right weights and tokens does it know its geography."""
    checkpoint = open_checkpoint(smollm2_gguf)
    assert checkpoint.generation_config == {"eos_token_id": [2]}
    write_folder(checkpoint, tmp_path / "folder")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert model.dtype == torch.float32
    assert tokenizer("The quick brown fox 1 2").input_ids == [504, 2365, 6354, 16438, 216, 33, 216, 34]
    assert tokenizer.eos_token_id == 2
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    logits = model(**tokenizer(prompt + "The capital of France is", return_tensors="pt")).logits
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"
