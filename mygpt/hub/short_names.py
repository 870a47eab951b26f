"""Short names of well-known models: `qwen3-0.6b` is `Qwen/Qwen3-0.6B`.

Where there is a variant that was made to follow instructions, the name means that one.
"""

from __future__ import annotations

import re

from mygpt.errors import did_you_mean, nearest
from mygpt.hub.default_model import REPO

# By model_type, so that `mygpt download list` shows them with their family.
SHORT_NAMES = {
    "deepseek_v2": {"deepseek-v2-lite": "deepseek-ai/DeepSeek-V2-Lite-Chat"},
    "deepseek_v3": {"deepseek-r1": "deepseek-ai/DeepSeek-R1", "deepseek-v3.1": "deepseek-ai/DeepSeek-V3.1"},
    "falcon": {"falcon-7b": "tiiuae/falcon-7b-instruct"},
    "gemma2": {"gemma-2-2b": "google/gemma-2-2b-it", "gemma-2-9b": "google/gemma-2-9b-it"},
    "gemma3": {
        "gemma-3-4b": "google/gemma-3-4b-it",
        "gemma-3-12b": "google/gemma-3-12b-it",
        "gemma-3-27b": "google/gemma-3-27b-it",
    },
    "gemma3_text": {"gemma-3-270m": "google/gemma-3-270m-it", "gemma-3-1b": "google/gemma-3-1b-it"},
    "glm4": {"glm-4-9b": "zai-org/GLM-4-9B-0414", "glm-4-32b": "zai-org/GLM-4-32B-0414"},
    "gpt2": {"gpt2": "openai-community/gpt2", "gpt2-xl": "openai-community/gpt2-xl"},
    "gpt_neox": {"pythia-1b": "EleutherAI/pythia-1b"},
    "gpt_oss": {"gpt-oss-20b": "openai/gpt-oss-20b", "gpt-oss-120b": "openai/gpt-oss-120b"},
    "granite": {"granite-3.3-2b": "ibm-granite/granite-3.3-2b-instruct"},
    "llama": {
        "smollm2": REPO,
        "smollm2-135m": REPO,
        "smollm2-360m": "HuggingFaceTB/SmolLM2-360M-Instruct",
        "smollm2-1.7b": "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        "tinyllama": "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        "llama-2-7b": "meta-llama/Llama-2-7b-chat-hf",
        "llama-2-70b": "meta-llama/Llama-2-70b-chat-hf",
        "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
        "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
        "llama-3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
        "llama-3.3-70b": "meta-llama/Llama-3.3-70B-Instruct",
        "deepseek-r1-8b": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
        "deepseek-r1-70b": "deepseek-ai/DeepSeek-R1-Distill-Llama-70B",
    },
    "mistral": {
        "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
        "mistral-nemo": "mistralai/Mistral-Nemo-Instruct-2407",
    },
    "mistral3": {"mistral-small-3.1": "mistralai/Mistral-Small-3.1-24B-Instruct-2503"},
    "mixtral": {"mixtral-8x7b": "mistralai/Mixtral-8x7B-Instruct-v0.1"},
    "olmo2": {
        "olmo-2-1b": "allenai/OLMo-2-0425-1B-Instruct",
        "olmo-2-7b": "allenai/OLMo-2-1124-7B-Instruct",
    },
    "olmo3": {"olmo-3-7b": "allenai/Olmo-3-7B-Instruct"},
    "phi": {"phi-2": "microsoft/phi-2"},
    "phi3": {
        "phi-3.5-mini": "microsoft/Phi-3.5-mini-instruct",
        "phi-4": "microsoft/phi-4",
        "phi-4-mini": "microsoft/Phi-4-mini-instruct",
    },
    "qwen2": {
        "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B-Instruct",
        "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B-Instruct",
        "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
        "qwen2.5-coder-7b": "Qwen/Qwen2.5-Coder-7B-Instruct",
        "deepseek-r1-1.5b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "deepseek-r1-7b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        "deepseek-r1-32b": "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
    },
    "qwen3": {
        "qwen3-0.6b": "Qwen/Qwen3-0.6B",
        "qwen3-1.7b": "Qwen/Qwen3-1.7B",
        "qwen3-4b": "Qwen/Qwen3-4B",
        "qwen3-4b-instruct": "Qwen/Qwen3-4B-Instruct-2507",
        "qwen3-8b": "Qwen/Qwen3-8B",
        "qwen3-14b": "Qwen/Qwen3-14B",
        "qwen3-32b": "Qwen/Qwen3-32B",
    },
    "qwen3_moe": {"qwen3-30b-a3b": "Qwen/Qwen3-30B-A3B"},
    "smollm3": {"smollm3": "HuggingFaceTB/SmolLM3-3B"},
    "stablelm": {"stablelm-zephyr-3b": "stabilityai/stablelm-zephyr-3b"},
    "starcoder2": {"starcoder2-3b": "bigcode/starcoder2-3b"},
}
_REPOS = {name: repo for names in SHORT_NAMES.values() for name, repo in names.items()}


def repo_of(name: str) -> str | None:
    """The repository that a short name stands for; None for any other name.

    Capital letters, dashes, colons and underscores make no difference: `Llama3.2:1b` is `llama-3.2-1b`.
    """
    return _BY_LETTERS.get(_letters(name))


def suggestion(name: str) -> str:
    """`; did you mean NAME?` with the short name or known repository that is most like a name that is none."""
    from mygpt.families import FAMILIES

    examples = [example for family in FAMILIES.values() for example in family.examples]
    repos = {*_REPOS.values(), *examples}
    if name in repos:  # known, but not to this Hub, or not without a token
        return ""
    if "/" in name:
        return did_you_mean(name, repos)
    by_end = {repo.split("/")[1]: repo for repo in repos}
    near = nearest(name, [*by_end, *_REPOS])
    return f"; did you mean {by_end.get(near, near)}?" if near else ""


def _letters(name: str) -> str:
    return re.sub(r"[-_:]", "", name.lower())


_BY_LETTERS = {_letters(name): repo for name, repo in _REPOS.items()}
