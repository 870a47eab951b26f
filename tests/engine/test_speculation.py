"""Speculation changes the speed alone: the same greedy ids, the same distribution of samples."""

import json
import random
import subprocess
import sys
from collections.abc import Sequence as SequenceOf
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from mygpt import LLM
from mygpt.engine.drafts import Drafts
from mygpt.engine.sampling import rejection_sample
from mygpt.engine.sequence import MAX_DRAFT, Sequence
from mygpt.engine.speculation import IndexedText, ModelDrafter, NGramDrafter
from mygpt.errors import InputError
from mygpt.options import Sampling
from tests.families.variants import ORIGINAL, WINDOW, variant
from tests.models import PADDED_VOCAB, edit_json, write_model, write_tokenizer

FAMILIES = [
    "llama-gqa",
    "gpt2",
    "mistral-window",
    "mistral-window-of-one",
    "gemma2",
    "gpt-oss",
    "deepseek-v3-yarn",
    "qwen2-moe",
    "llama-dynamic",
    "phi3-longrope",
]
LENGTHS = (1, WINDOW + 1, ORIGINAL - 12, ORIGINAL - 2)  # some cross the window, some the original length
NEW_TOKENS = 30
GREEDY = Sampling(temperature=0.0)


def load_variant(name: str, folder: Path) -> LLM:
    variant(name).build(folder)
    return LLM.load(str(folder), precision="32-true", accelerator="cpu")


@pytest.fixture(scope="module", params=FAMILIES)
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LLM:
    return load_variant(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def text_llm(text_model: Path) -> LLM:
    return LLM.load(str(text_model), precision="32-true", accelerator="cpu")


def random_prompts(llm: LLM, lengths: SequenceOf[int] = LENGTHS) -> list[list[int]]:
    torch.manual_seed(1)
    return [torch.randint(0, llm.config.vocab_size, (length,)).tolist() for length in lengths]


def with_draft(llm: LLM, draft: LLM) -> LLM:
    return LLM(replace(llm.loaded, draft=draft.loaded))


class Oracle:
    """Knows the answers, and mixes wrong tokens in: every number of accepted ones happens."""

    def __init__(self, answers: dict[tuple[int, ...], list[int]], vocab_size: int) -> None:
        self.answers = answers
        self.vocab_size = vocab_size
        self.random = random.Random(0)

    def propose(self, sequences: SequenceOf[Sequence], limits: SequenceOf[int]) -> Drafts:
        return Drafts([self.draft(s, limit) for s, limit in zip(sequences, limits, strict=True)])

    def draft(self, sequence: Sequence, limit: int) -> list[int]:
        done = len(sequence.new_ids)
        right = self.answers[tuple(sequence.prompt_ids)][done : done + limit]
        wrong_from = self.random.randrange(limit + 2)
        wrong = [(token + 1) % self.vocab_size for token in right[wrong_from:]]
        sequence.next_draft = self.random.randrange(1, MAX_DRAFT + 1)
        return right[:wrong_from] + wrong


def ids_of(llm: LLM, prompts: SequenceOf[list[int]], drafter: object = None, sampling: Any = GREEDY):
    batch = llm.engine.batch(prompts, sampling, NEW_TOKENS, seeds=range(len(prompts)), drafter=drafter)
    list(batch)
    sequences = [completion.sequence for completion in batch.completions]
    assert batch.timing.new_tokens == sum(len(s.new_ids) for s in sequences)
    return [s.new_ids for s in sequences], sequences


def test_greedy_ids_with_drafts_right_and_wrong(llm: LLM) -> None:
    """Ragged batches in which each row accepts another number, over windows and changes of frequencies."""
    prompts = random_prompts(llm)
    plain, _ = ids_of(llm, prompts)
    answers = {tuple(p): ids for p, ids in zip(prompts, plain, strict=True)}
    for rows in (prompts, *([p] for p in prompts)):
        ids, sequences = ids_of(llm, rows, Oracle(answers, llm.config.vocab_size))
        assert ids == [answers[tuple(p)] for p in rows]
        if llm.config.rope.type != "dynamic":
            accepted = sum(s.accepted_draft_tokens for s in sequences)
            assert 0 < accepted < sum(s.draft_tokens for s in sequences)


def test_greedy_ids_with_ngrams(llm: LLM) -> None:
    prompts = [(prompt * 3)[: ORIGINAL - 2] for prompt in random_prompts(llm)]
    assert ids_of(llm, prompts, NGramDrafter())[0] == ids_of(llm, prompts)[0]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.0, repetition_penalty=1.3)])
def test_greedy_ids_with_a_model(llm: LLM, sampling: Sampling) -> None:
    """The model drafts for itself, so that all is accepted; its windows are set back each time."""
    prompts = random_prompts(llm)
    model = llm.loaded.model
    drafter = ModelDrafter(model, llm.loaded.vocab_size)
    ids, sequences = ids_of(llm, prompts, drafter, sampling)
    assert ids == ids_of(llm, prompts, None, sampling)[0]
    assert sum(s.accepted_draft_tokens for s in sequences) == sum(s.draft_tokens for s in sequences)
    if llm.config.rope.type != "dynamic":
        assert all(s.draft_tokens for s in sequences)
    # The drafter serves another batch, which begins as the one before or otherwise.
    again = [prompts[0], prompts[2][:5] + prompts[1], prompts[1], prompts[3]]
    assert ids_of(llm, again, drafter, sampling)[0] == ids_of(llm, again, None, sampling)[0]


def test_greedy_and_sampled_rows_in_one_draft(llm: LLM) -> None:
    prompts = random_prompts(llm)
    settings = [GREEDY if row % 2 else Sampling(temperature=2.0) for row in range(len(prompts))]
    drafter = ModelDrafter(llm.loaded.model, llm.loaded.vocab_size)
    ids, plain = ids_of(llm, prompts, drafter, settings)[0], ids_of(llm, prompts)[0]
    assert [a == b for a, b in zip(ids, plain, strict=True)] == [s is GREEDY for s in settings]


@pytest.mark.parametrize(
    "changes", [{}, {"top_k": 5}, {"top_k": 0, "top_p": 0.7}, {"min_p": 0.1}, {"repetition_penalty": 1.5}]
)
def test_drafts_without_chance_sample_the_same_ids_by_the_same_seed(
    text_llm: LLM, changes: dict[str, float]
) -> None:
    """A draft that chance has no part in is kept where the draw agrees: no id changes."""
    prompts, sampling = [[1, 2, 3] * 6, [4, 5] * 7], Sampling(temperature=0.7, **changes)
    plain, _ = ids_of(text_llm, prompts, None, sampling)
    oracle = Oracle({tuple(p): ids for p, ids in zip(prompts, plain, strict=True)}, 257)
    for drafter in (NGramDrafter(), oracle):
        ids, sequences = ids_of(text_llm, prompts, drafter, sampling)
        assert ids == plain
    assert all(s.accepted_draft_tokens > 0 for s in sequences)


def test_an_end_token_within_a_draft(text_llm: LLM) -> None:
    prompts = random_prompts(text_llm, (5, 9))
    plain, _ = ids_of(text_llm, prompts)
    answers = {tuple(p): ids for p, ids in zip(prompts, plain, strict=True)}
    for stop in {plain[0][7], plain[1][12]}:
        ending = LLM(replace(text_llm.loaded, stop_ids=frozenset({stop})))
        oracle = Oracle(answers, text_llm.config.vocab_size)
        ids, sequences = ids_of(ending, prompts, oracle)
        assert ids == ids_of(ending, prompts)[0]
        assert "stop" in {s.finish_reason for s in sequences}


@pytest.mark.parametrize("new_tokens", [1, 2, 7, 20])
def test_stop_strings_and_the_last_token_within_a_draft(text_llm: LLM, new_tokens: int) -> None:
    prompt = "abcabcabcabc"
    ids = text_llm.encode(prompt, raw_prompt=True)
    answer = text_llm.generate_ids(ids, max_new_tokens=20, temperature=0.0)
    text = text_llm.generate(prompt, raw_prompt=True, max_new_tokens=20, temperature=0.0)
    for stop in ([], [text[3:5]], [text[-2:]]):
        done = []
        for drafter in (None, Oracle({tuple(ids): answer}, 300)):
            batch = text_llm.engine.batch([ids], GREEDY, new_tokens, seeds=[0], stop=stop, drafter=drafter)
            list(batch)
            completion = batch.completions[0]
            done.append((completion.text, completion.sequence.new_ids, completion.sequence.finish_reason))
        assert done[0] == done[1]


def test_a_conversation_goes_on_after_drafts(text_llm: LLM) -> None:
    """Its cache holds what was accepted, nothing else; the draft model's is kept too."""
    speculating = with_draft(text_llm, text_llm)
    plain, drafted = (llm.chat(temperature=0.0, max_new_tokens=9) for llm in (text_llm, speculating))
    for said in ("hi", "hi hi", "and"):
        assert "".join(plain.say(said)) == "".join(drafted.say(said))
        assert plain._held == drafted._held
    assert drafted.last is not None
    assert "draft tokens accepted (100%)" in drafted.last.speculation
    ngrams = text_llm.chat(temperature=0.0, max_new_tokens=9, speculate="ngram")
    for turn in plain.messages[::2]:
        answer = "".join(ngrams.say(turn["content"]))
        assert answer == plain.messages[len(ngrams.messages) - 1]["content"]
    with pytest.raises(InputError, match="two ways to do one thing"):
        drafted.change(speculate="ngram")


@pytest.mark.parametrize("family", ["mistral-window", "gemma2"])
def test_turns_over_windows_after_drafts(family: str, tmp_path: Path) -> None:
    """Drafts left beside the ring are taken up by the next turn, also where the cache grows in between."""
    llm = load_variant(family, tmp_path)
    model, rounds = llm.loaded.model, 4
    cache, history = model.allocate_cache(1, 20), random_prompts(llm, (15,))[0]
    for _ in range(rounds):
        answer = llm.generate_ids(history, max_new_tokens=9, temperature=0.0)
        oracle = Oracle({tuple(history): answer}, llm.config.vocab_size)
        list(batch := llm.engine.batch([history], GREEDY, 9, seeds=[0], cache=cache, drafter=oracle))
        assert batch.completions[0].sequence.new_ids == answer
        history = [*history, *answer, 1, 2, 3]


# --- the distribution of samples


def test_settle_follows_the_target() -> None:
    """Drafted tokens drawn from another distribution, over a grid of chances: the result is the target's."""
    target, draft = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.1, 0.4, 0.1, 0.4])
    n = 20_000
    uniforms = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    counts = torch.zeros(4)
    for token, probability in enumerate(draft.tolist()):
        drafted = torch.full((n,), token)
        result = rejection_sample(target.expand(n, -1), draft.expand(n, -1), drafted, uniforms)
        counts += probability * result.bincount(minlength=4) / n
    torch.testing.assert_close(counts, target, rtol=0, atol=1e-3)


def test_settle_without_a_draft_draws_and_with_the_same_one_agrees() -> None:
    target = torch.tensor([[0.5, 0.3, 0.2]] * 3)
    uniforms = torch.tensor([0.1, 0.6, 0.99], dtype=torch.float64)
    nothing = torch.zeros(3, dtype=torch.long)
    assert rejection_sample(target, torch.zeros(3, 3), nothing, uniforms).tolist() == [0, 1, 2]
    assert rejection_sample(target, target, torch.tensor([2, 0, 1]), uniforms).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    "changes", [{"top_k": 0}, {"top_k": 4}, {"top_k": 0, "top_p": 0.8, "repetition_penalty": 1.4}]
)
def test_samples_with_a_draft_model_are_distributed_as_without(
    changes: dict[str, float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Chi-squared, on two-token continuations of a vocabulary of 8 ids; seeds are fixed, so no test is flaky."""
    models = []
    for seed in (0, 1):  # another seed makes another model: they agree sometimes
        folder = tmp_path_factory.mktemp("tiny")
        base = variant("llama-gqa")
        tiny = replace(base, changes={**base.changes, "vocab_size": 8, "initializer_range": 0.3 + seed / 10})
        tiny.build(folder)
        models.append(LLM.load(str(folder), precision="32-true", accelerator="cpu"))
    llm, draft = models
    sampling, n = Sampling(temperature=1.0, **changes), 3000
    prompt = [3, 1, 4, 1, 5]

    def counts(drafter: ModelDrafter | None, first_seed: int) -> torch.Tensor:
        batch = llm.engine.batch(
            [prompt] * n, sampling, 3, seeds=range(first_seed, first_seed + n), drafter=drafter
        )
        list(batch)
        rows = torch.tensor([c.sequence.new_ids for c in batch.completions])
        if drafter is not None:
            accepted = sum(c.sequence.accepted_draft_tokens for c in batch.completions)
            assert 0.1 * n < accepted < sum(c.sequence.draft_tokens for c in batch.completions)
        return (rows * torch.tensor([64, 8, 1])).sum(1).bincount(minlength=512).float()

    plain = counts(None, 0)
    drafted = counts(ModelDrafter(draft.loaded.model, 8), n)
    both = plain + drafted
    common = both >= 20
    rest = [c[~common].sum()[None] for c in (plain, drafted)]
    a, b = torch.cat((plain[common], rest[0])), torch.cat((drafted[common], rest[1]))
    chi_squared = float(((a - b) ** 2 / (a + b).clamp(min=1)).sum())
    cells = len(a)
    assert chi_squared < cells + 4 * (2 * cells) ** 0.5  # its mean, and four standard deviations


def test_samples_with_a_draft_model_repeat_by_their_seed_and_know_no_neighbour(text_llm: LLM) -> None:
    prompts, sampling = random_prompts(text_llm, (5, 9, 12)), Sampling(temperature=1.3, top_k=0)
    model = text_llm.loaded.model

    def run(rows: SequenceOf[int]) -> list[list[int]]:
        drafter = ModelDrafter(model, text_llm.loaded.vocab_size)
        batch = text_llm.engine.batch(
            [prompts[r] for r in rows], sampling, 20, seeds=list(rows), drafter=drafter
        )
        list(batch)
        return [completion.sequence.new_ids for completion in batch.completions]

    together = run([0, 1, 2])
    assert together == run([0, 1, 2])
    assert together == [run([row])[0] for row in (0, 1, 2)]


# --- what is drafted


def test_the_longest_and_latest_match_goes_on() -> None:
    text = IndexedText()
    text.extend([1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3])
    assert text.continuation(4) == [7, 9, 2, 3]  # after 1 2 3, though 2 3 was seen later
    text.extend([5, 9, 2])
    assert text.continuation(2) == [3, 8]
    text.extend([6])
    assert text.continuation(3) == []


def test_a_loop_is_drafted_further_than_it_was_written() -> None:
    text = IndexedText()
    text.extend([5, 1, 2, 1, 2, 1])
    assert text.continuation(5) == [2, 1, 2, 1, 2]


def test_drafts_grow_where_they_are_right_and_shrink_where_not() -> None:
    sequence = Sequence([1], 10, seed=0)
    lengths = []
    for drafted, accepted in [(4, 4), (8, 8), (8, 2), (3, 0), (0, 0), (1, 1)]:
        sequence.count_draft(drafted, accepted)
        lengths.append(sequence.next_draft)
    assert lengths == [8, 8, 3, 1, 1, 2]
    assert (sequence.draft_tokens, sequence.accepted_draft_tokens) == (24, 15)


# --- options


def test_a_draft_model_by_its_option(text_model: Path, text_llm: LLM) -> None:
    llm = LLM.load(str(text_model), precision="32-true", accelerator="cpu", draft=str(text_model))
    options = {"max_new_tokens": 20, "temperature": 0.0}
    assert llm.generate("abc", **options) == text_llm.generate("abc", **options)
    with pytest.raises(InputError, match="two ways to do one thing"):
        llm.generate("abc", speculate="ngram")
    with pytest.raises(InputError, match="--speculate must be one of ngram, it is 'medusa'"):
        text_llm.generate("abc", speculate="medusa")


def test_a_draft_of_another_vocabulary_is_refused(text_model: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    edit_json(other / "tokenizer.json", **tokenizer)
    with pytest.raises(
        InputError, match=r"--draft .*other: its tokenizer is not the model's, id \d+ \('[ab]'\)"
    ):
        LLM.load(str(text_model), accelerator="cpu", draft=str(other))


def run_command(command: str, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The one sample's JSON, and standard error."""
    arguments = [str(folder), "--prompt=abcabcabcabcabcabc", "--raw_prompt=true", "--json=true"]
    arguments += ["--precision=32-true", "--accelerator=cpu", "--temperature=0", "--max_new_tokens=20"]
    program = [sys.executable, "-m", "mygpt", command]
    done = subprocess.run([*program, *arguments, *options], capture_output=True, text=True, check=True)
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "generate",
        *(pytest.param(c, marks=pytest.mark.full) for c in ("generate_sequentially", "generate_tp")),
    ],
)
def test_the_commands(command: str, tmp_path: Path) -> None:
    """With windows, whose drafts every rank must keep or drop alike; the model drafts for itself."""
    base = variant("mistral-window")
    changes = {
        "vocab_size": PADDED_VOCAB,
        "tie_word_embeddings": True,
    }  # tied, random models repeat themselves
    replace(base, changes={**base.changes, **changes}).build(tmp_path)
    write_tokenizer(tmp_path)
    llm = LLM.load(str(tmp_path), precision="32-true", accelerator="cpu")
    ids = llm.encode("abcabcabcabcabcabc", raw_prompt=True)
    plain = llm.generate_ids(ids, max_new_tokens=20, temperature=0.0)
    devices = [] if command == "generate" else ["--devices=2"]
    for option in ("--speculate=ngram", f"--draft={tmp_path}"):
        sample, statistics = run_command(command, tmp_path, option, *devices)
        assert sample["token_ids"] == plain
        assert 0 < sample["draft_tokens"] < 40
        of = f"{sample['accepted_draft_tokens']} of {sample['draft_tokens']} draft tokens accepted"
        assert of in statistics
    assert sample["accepted_draft_tokens"] == sample["draft_tokens"]


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_both_ways_are_refused_before_anything_is_loaded(command: str) -> None:
    options = ["no-such-model", "--speculate=ngram", "--draft=neither"]
    options += ["--prompt=x"] if command == "generate" else []
    with pytest.raises(InputError, match="--speculate ngram and --draft are two ways to do one thing"):
        import_module(f"mygpt.commands.{command}").run(options)
