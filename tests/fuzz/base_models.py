"""Valid checkpoints: tiny models of every family, and every way in which weights are stored."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as GGMLType
from gguf import GGUFWriter
from gguf.quants import quantize
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mygpt.checkpoint.convert import convert
from mygpt.checkpoint.open import open_checkpoint
from mygpt.quantize.schemes import quantizers
from tests.families.variants import FIRST, variant
from tests.models import CHAT_TEMPLATE, EOS, edit_json, write_model
from tests.quantize.test_fp8 import quantize as to_fp8
from tests.quantize.test_mxfp4 import quantized_folder

Maker = Callable[[Path], None]
SIZES = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
         "max_position_embeddings": 1024}  # fmt: skip
THINK = "{% if enable_thinking is defined and enable_thinking is false %}-{% endif %}"
NOTE = "{{ note if note is defined else '' }}"  # a variable of the chat templates
HIDDEN, HEADS, LAYERS, WIDTH = 64, 2, 2, 64  # of the GGUF files


def makers() -> dict[str, Maker]:
    """A function for each base, which writes it into an empty folder."""
    families = {f"family/{name}": partial(_family, name) for name in sorted(FIRST)}
    stored = {f"bnb/{name}": partial(_bnb, name) for name in sorted(quantizers())}
    ggufs = {f"gguf/{kind.name}": partial(_gguf, kind) for kind in (GGMLType.F32, GGMLType.Q4_0)}
    return {
        **families,
        **stored,
        **ggufs,
        "llama": _llama,
        "sharded/safetensors": _sharded,
        "bin/zip": partial(_bin, True),
        "bin/legacy": partial(_bin, False),
        "sharded/bin": _sharded_bin,
        "quantized/fp8": _fp8,
        "quantized/mxfp4": _mxfp4,
    }


def _ascii_tokenizer(folder: Path) -> None:
    """A token for each ASCII character: fits the families' vocabularies of 128."""
    texts = [chr(code) for code in range(32, 127)]
    backend = Tokenizer(
        models.BPE({text: i for i, text in enumerate([*texts, "<unk>"])}, [], unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([EOS])
    backend.save(str(folder / "tokenizer.json"))
    template = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"
    config = {"eos_token": EOS, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _family(name: str, folder: Path) -> None:
    FIRST[name].build(folder)
    _ascii_tokenizer(folder)


def _llama(folder: Path) -> None:
    write_model(folder, **SIZES)
    edit_json(folder / "tokenizer_config.json", chat_template=NOTE + THINK + CHAT_TEMPLATE)
    content = {"eos_token_id": [256, 0], "temperature": 0.6, "top_k": 20, "top_p": 0.9, "do_sample": True,
               "repetition_penalty": 1.1, "max_new_tokens": 20, "min_p": 0.05, "bos_token_id": 1}  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(content))


def _two_shards(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    _llama(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    first, second = names[: len(names) // 2], names[len(names) // 2 :]
    return {name: tensors[name] for name in first}, {name: tensors[name] for name in second}


def _write_index(
    folder: Path, stem: str, suffix: str, shards: tuple[dict[str, torch.Tensor], ...]
) -> list[Path]:
    files = [folder / f"{stem}-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    weight_map = {name: file.name for file, shard in zip(files, shards, strict=True) for name in shard}
    size = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    content = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(content))
    return files


def _sharded(folder: Path) -> None:
    shards = _two_shards(folder)
    for file, shard in zip(_write_index(folder, "model", "safetensors", shards), shards, strict=True):
        save_file(shard, file)


def _sharded_bin(folder: Path) -> None:
    shards = _two_shards(folder)
    for file, shard in zip(_write_index(folder, "pytorch_model", "bin", shards), shards, strict=True):
        torch.save(shard, file)


def _bin(zipped: bool, folder: Path) -> None:
    _llama(folder)
    tensors, file = load_file(folder / "model.safetensors"), folder / "pytorch_model.bin"
    (folder / "model.safetensors").unlink()
    if zipped:
        torch.save(tensors, file)
        return
    # All in one storage: the file names storages by their addresses, which are others each time.
    parts = torch.cat([tensor.flatten() for tensor in tensors.values()]).split(
        [t.numel() for t in tensors.values()]
    )
    views = {name: part.view(tensors[name].shape) for name, part in zip(tensors, parts, strict=True)}
    torch.save(views, file, _use_new_zipfile_serialization=False)
    key = b"X\6\0\0\0" + b"storag"
    file.write_bytes(re.sub(rb"X(?s:....)\d{6,}", lambda _: key, file.read_bytes()))


def _bnb(scheme: str, folder: Path) -> None:
    plain, made = folder / "plain", folder / "made"
    write_model(plain, hidden_size=128, intermediate_size=128, num_attention_heads=2, num_key_value_heads=1)
    convert(open_checkpoint(plain), made, dtype=None, scheme=quantizers()[scheme], report=lambda *_: None)
    for file in made.iterdir():
        file.rename(folder / file.name)
    made.rmdir()
    shutil.rmtree(plain)


@torch.no_grad()
def _fp8(folder: Path) -> None:
    variant("deepseek-v3").build(folder)
    _ascii_tokenizer(folder)
    file, stored = folder / "model.safetensors", {}
    for name, tensor in load_file(file).items():
        stored[name] = tensor
        if name.endswith("_proj.weight") or "kv_a_proj" in name:
            stored[name], stored[name + "_scale_inv"] = to_fp8(tensor)
    save_file(stored, file)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                     "weight_block_size": [128, 128]}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


def _mxfp4(folder: Path) -> None:
    quantized_folder(folder)
    _ascii_tokenizer(folder)


def _gguf(kind: GGMLType, folder: Path) -> None:
    writer = GGUFWriter(folder / "model.gguf", "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    vocabulary = _add_byte_level(writer) if kind == GGMLType.F32 else _add_pieces(writer)
    numbers = np.random.default_rng(0)
    matrices = {"token_embd": (vocabulary, HIDDEN), "output": (vocabulary, HIDDEN)}
    for layer in range(LAYERS):
        inner = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (HIDDEN, HIDDEN))
        inner |= {"ffn_gate": (WIDTH, HIDDEN), "ffn_up": (WIDTH, HIDDEN), "ffn_down": (HIDDEN, WIDTH)}
        matrices |= {f"blk.{layer}.{name}": shape for name, shape in inner.items()}
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(HIDDEN, np.float32))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for name, shape in matrices.items():
        values = numbers.standard_normal(shape, np.float32) * 0.1
        writer.add_tensor(f"{name}.weight", quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_byte_level(writer: GGUFWriter) -> int:
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "lo", EOS]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["h e", "l o"])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template("{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}")
    return len(tokens)


def _add_pieces(writer: GGUFWriter) -> int:
    """As sentencepiece's: bytes, then a few pieces with scores."""
    kinds = gguf.TokenType
    special = [("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)]
    rows = [*special, *((f"<0x{byte:02X}>", kinds.BYTE) for byte in range(256))]
    rows += [(piece, kinds.NORMAL) for piece in ("▁", *"abcdefghijklmnopqrstuvwxyz", "▁t", "he", "▁the")]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece for piece, _ in rows])
    writer.add_token_types([kind for _, kind in rows])
    writer.add_token_scores([-float(number) for number in range(len(rows))])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    return len(rows)
