"""GGUF files of the llama family, read as if they were Hugging Face folders: config, weight names and layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gguf import GGMLQuantizationType as GGMLType
from torch import Tensor

from mygpt.checkpoint.base import Checkpoint
from mygpt.checkpoint.gguf.header import ARCHITECTURES, GGUFHeader, GGUFTensor, read_header
from mygpt.checkpoint.gguf.tokenizer import build_tokenizer
from mygpt.errors import InputError
from mygpt.families._fields import MOST_NUMBER
from mygpt.quantize.schemes import ggml_scheme

if TYPE_CHECKING:
    from mygpt.text.tokenizer import Tokenizer

_PLAIN = {GGMLType.F32: torch.float32, GGMLType.F16: torch.float16, GGMLType.BF16: torch.bfloat16}

_ROPE_DIVISORS = "rope_freqs.weight"  # becomes part of the config
_ROPE_TABLE = ".attn_rot_embd.weight"  # of old files: what rope computes, so it is skipped
_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_ROTATED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}  # and so permuted
_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_SAMPLING = {  # llama.cpp's names of generation_config.json's
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")

_USE_REPOSITORY = "use the model's Hugging Face repository instead"


class GGUFCheckpoint(Checkpoint):
    """One GGUF file of a llama-family model, its weights dequantized as they are streamed."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            InputError: the file is broken, or of an architecture, a kind or a tensor type not supported.
        """
        self.path = path
        self._header = read_header(path)
        self._metadata = _Metadata(path, self._header)
        self._check_supported()
        self.config = self._llama_config()
        self.generation_config = self._generation_config()
        self._names = self._hugging_face_names()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All weights under their Hugging Face names: quantized ones as float32, others in their own type."""
        for tensor in self._header.tensors:
            if tensor.name in self._names:
                yield self._names[tensor.name], self._weight(tensor)

    def shapes(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        """The shape and type of each tensor that `tensors` yields, without reading data."""
        return {
            self._names[tensor.name]: (torch.Size(tensor.shape), _PLAIN.get(tensor.type, torch.float32))
            for tensor in self._header.tensors
            if tensor.name in self._names
        }

    @property
    def mapped_dtype(self) -> torch.dtype | None:
        """That of the largest tensor, None where it is quantized."""
        return _PLAIN.get(max(self._header.tensors, key=lambda tensor: tensor.nbytes).type)

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that the metadata describes; InputError where it is of an unknown kind."""
        from mygpt.text.tokenizer import Tokenizer

        if not self._has_tokenizer():
            return None
        return Tokenizer(*build_tokenizer(self._header.metadata, self.path), self.path)

    def write_tokenizer(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, the chat template in it."""
        if not self._has_tokenizer():
            return
        tokenizer, config = build_tokenizer(self._header.metadata, self.path)
        tokenizer.save(str(folder / "tokenizer.json"))
        text = json.dumps(config, indent=2, ensure_ascii=False)
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    def _has_tokenizer(self) -> bool:
        return self._metadata.get("tokenizer.ggml.model") not in (None, "none", "no_vocab")

    def _weight(self, tensor: GGUFTensor) -> Tensor:
        weight = _read(self.path, tensor)
        heads_key = _ROTATED.get(tensor.name.split(".")[-2])
        if heads_key is None:
            return weight
        heads, head_dim = self.config[heads_key], self.config["head_dim"]
        if weight.shape[0] != heads * head_dim or head_dim % 2:
            problem = f"{tensor.name} has {weight.shape[0]} rows in place of {heads} heads of {head_dim}"
            raise InputError(f"{self.path} is broken: {problem}; download it again")
        return _unpermute(weight, heads)

    def _check_supported(self) -> None:
        meta = self._metadata
        architecture = meta.get("general.architecture")
        if architecture not in ARCHITECTURES:
            self._refuse(f"its architecture {architecture!r} is not supported in GGUF files, only 'llama' is")
        if meta.get("llama.expert_count", 0):
            self._refuse("mixtures of experts are not supported in GGUF files")
        if meta.get("split.count", 1) not in (0, 1):
            raise InputError(
                f"{self.path} is one part of a split file; merge them with `llama-gguf-split --merge`"
            )
        for tensor in self._header.tensors:
            if tensor.type not in _PLAIN and ggml_scheme(tensor.type.name) is None:
                self._refuse(f"the type {tensor.type.name} of its tensor {tensor.name} is not supported")

    def _refuse(self, reason: str) -> None:
        raise InputError(f"cannot use {self.path}: {reason}; {_USE_REPOSITORY}")

    def _llama_config(self) -> dict[str, Any]:
        meta, tensors = self._metadata, {tensor.name: tensor for tensor in self._header.tensors}
        if "token_embd.weight" not in tensors:
            raise InputError(f"{self.path} has no tensor token_embd.weight; download it again")
        embedding = tensors["token_embd.weight"]
        hidden_size, n_heads = (
            meta.integer("llama.embedding_length"),
            meta.integer("llama.attention.head_count"),
        )
        rotated = meta.integer("llama.rope.dimension_count", hidden_size // n_heads)
        head_dim = meta.integer("llama.attention.key_length", rotated)
        if rotated != head_dim:
            self._refuse(f"it rotates {rotated} of {head_dim} dimensions per head")
        biased = {stem for stem in (*_ATTENTION, *_MLP) if f"blk.0.{stem}.bias" in tensors}
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": str(_PLAIN.get(embedding.type, torch.float32)).removeprefix("torch."),
            "hidden_size": hidden_size,
            "intermediate_size": meta.integer("llama.feed_forward_length"),
            "num_hidden_layers": meta.integer("llama.block_count"),
            "num_attention_heads": n_heads,
            "num_key_value_heads": meta.integer("llama.attention.head_count_kv", n_heads),
            "head_dim": head_dim,
            "hidden_act": "silu",
            "vocab_size": embedding.shape[0],
            "max_position_embeddings": meta.integer("llama.context_length"),
            "rms_norm_eps": meta.decimal("llama.attention.layer_norm_rms_epsilon"),
            "rope_theta": meta.decimal("llama.rope.freq_base", 10_000.0),
            "rope_scaling": self._rope_scaling(tensors.get(_ROPE_DIVISORS), head_dim // 2),
            "attention_bias": not biased.isdisjoint(_ATTENTION),
            "mlp_bias": not biased.isdisjoint(_MLP),
            "tie_word_embeddings": "output.weight" not in tensors,
            "bos_token_id": meta.token_id("bos_token_id"),
            "eos_token_id": meta.token_id("eos_token_id"),
        }

    def _rope_scaling(self, divisors: GGUFTensor | None, count: int) -> dict[str, Any] | None:
        """Hugging Face's `rope_scaling`. The type `divisors` is ours: llama3 scaling is stored as such."""
        scaling = self._named_rope_scaling()
        if divisors is None:
            return scaling
        if divisors.shape != (count,):
            self._refuse(f"its {_ROPE_DIVISORS} has the shape {divisors.shape} in place of {(count,)}")
        values = _read(self.path, divisors).tolist()
        if all(value == 1 for value in values):
            return scaling
        if scaling:
            self._refuse(f"it has both {_ROPE_DIVISORS} and the rope scaling {scaling['rope_type']}")
        return {"rope_type": "divisors", "divisors": values}

    def _named_rope_scaling(self) -> dict[str, Any] | None:
        meta, prefix = self._metadata, "llama.rope.scaling"
        kind = meta.get(f"{prefix}.type", "linear")
        factor = meta.decimal(
            f"{prefix}.factor", meta.decimal("llama.rope.scale_linear", 1.0)
        )  # the old name
        if kind == "none" or factor in (0, 1):
            return None
        if factor < 0:
            self._refuse(f"its rope scaling's factor is {factor}")
        if kind == "linear":
            return {"rope_type": "linear", "factor": factor}
        if kind != "yarn":
            self._refuse(f"its rope scaling {kind!r} is not supported in GGUF files")
        context = meta.integer("llama.context_length")
        stretch = meta.decimal(f"{prefix}.attn_factor", 1.0)  # on top of what YaRN itself prescribes
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": meta.integer(f"{prefix}.original_context_length", context),
            "attention_factor": stretch * (0.1 * float(np.log(factor)) + 1.0),
            "beta_fast": meta.decimal(f"{prefix}.yarn_beta_fast", 32.0),
            "beta_slow": meta.decimal(f"{prefix}.yarn_beta_slow", 1.0),
        }

    def _generation_config(self) -> dict[str, Any]:
        meta = self._metadata
        ids = [meta.token_id(key) for key in _END_TOKENS]
        sampling = {
            name: meta.get(f"general.sampling.{key}")
            if key == "top_k"
            else meta.decimal(f"general.sampling.{key}")
            for key, name in _SAMPLING.items()
            if meta.get(f"general.sampling.{key}") is not None
        }
        return {"eos_token_id": [token for token in dict.fromkeys(ids) if token is not None], **sampling}

    def _hugging_face_names(self) -> dict[str, str]:
        """GGUF's name to Hugging Face's of every tensor that the config asks for, all of them present."""
        names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
        if not self.config["tie_word_embeddings"]:
            names["output.weight"] = "lm_head.weight"
        weights = {**_NORMS, **_ATTENTION, **_MLP}
        layers = self.config["num_hidden_layers"]
        if layers > len(self._header.tensors):  # so that a corrupt number makes no long list
            raise InputError(f"{self.path} lacks the tensors of its {layers} layers; download it again")
        biases = (_ATTENTION if self.config["attention_bias"] else {}) | (
            _MLP if self.config["mlp_bias"] else {}
        )
        for layer in range(layers):
            for kind, modules in (("weight", weights), ("bias", biases)):
                for stem, module in modules.items():
                    names[f"blk.{layer}.{stem}.{kind}"] = f"model.layers.{layer}.{module}.{kind}"
        self._check_complete(set(names))
        return names

    def _check_complete(self, expected: set[str]) -> None:
        present = {tensor.name for tensor in self._header.tensors}
        if missing := sorted(expected - present):
            raise InputError(f"{self.path} lacks {_listed(missing)}; download it again")
        skipped = {name for name in present if name == _ROPE_DIVISORS or name.endswith(_ROPE_TABLE)}
        if unknown := sorted(present - expected - skipped):
            self._refuse(f"a llama model has no place for its {_listed(unknown)}")


class _Metadata:
    """The metadata of a file, with numbers checked as they are asked for."""

    def __init__(self, path: Path, header: GGUFHeader) -> None:
        self._path = path
        self._values = header.metadata

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    def integer(self, key: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self._values.get(key, default)
        if type(value) is not int or value <= 0:
            problem = f"{key} is missing" if value is None else f"{key} is not a positive whole number"
            raise InputError(f"cannot use {self._path}: {problem}; {_USE_REPOSITORY}")
        return value

    def decimal(self, key: str, default: float | None = None) -> float:
        """A float32 as the decimal number it was written from: 1e-05, not 9.999999747378752e-06."""
        value = self._values.get(key, default)
        if not isinstance(value, int | float) or not abs(value) < MOST_NUMBER:
            raise InputError(f"cannot use {self._path}: {key} is missing or not a number; {_USE_REPOSITORY}")
        return float(str(np.float32(value)))

    def token_id(self, key: str) -> int | None:
        """The id of a token, None where the file names none."""
        value = self._values.get(f"tokenizer.ggml.{key}")
        if value is not None and (type(value) is not int or not 0 <= value < 2**31):
            raise InputError(
                f"cannot use {self._path}: tokenizer.ggml.{key} is no token's id; {_USE_REPOSITORY}"
            )
        return value


def _listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _read(path: Path, tensor: GGUFTensor) -> Tensor:
    """One tensor: a view into the mapped file where it is unquantized, else dequantized to float32.

    Only this tensor's part of the file is mapped, and only as long as it is in use.
    """
    try:
        data = np.memmap(path, np.uint8, mode="c", offset=tensor.offset, shape=(tensor.nbytes,))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} has changed while it was read; download it again") from error
    if tensor.type in _PLAIN:
        return torch.from_numpy(data).view(_PLAIN[tensor.type]).view(tensor.shape)
    scheme = ggml_scheme(tensor.type.name)
    assert scheme is not None, "of another type the file was refused"
    return scheme.decode(data.view(np.ndarray), tensor.type.name, tensor.shape)


def _unpermute(weight: Tensor, n_heads: int) -> Tensor:
    """Rows of q or k, (heads * head_dim, …), back in Hugging Face's order.

    llama.cpp rotates neighbouring rows, so its files interleave the two halves of each head.
    """
    return weight.view(n_heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)
