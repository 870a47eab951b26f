"""Ten and more ways to break the core, and the tests that must notice: `python -m tests.mutations [NAME …]`.

Each mutation changes one text of one file in a copy of the package, and runs the named tests of the default suite
there. Run by hand (`just mutations`), not by pytest. Exit code 1: a mutation was missed; 2: a text is not there any
more, so the table below must follow the code.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIED = ("mygpt", "tests", "benchmarks", "tutorials", "pyproject.toml")


@dataclass(frozen=True)
class Mutation:
    """A text of a file under `mygpt/`, what takes its place, and the tests that must fail, as pytest is given them."""

    name: str
    file: str
    old: str
    new: str
    tests: str


PARITY = "tests/families/test_parity.py -k"
MUTATIONS = [
    Mutation(
        "window one too long",
        "model/forward_context.py",
        "(keys > queries - window)",
        "(keys >= queries - window)",
        f"{PARITY} mistral-window",
    ),
    Mutation(
        "a query of a ragged batch does not see itself",
        "model/forward_context.py",
        "(torch.arange(seen, device=positions.device) <= queries)",
        "(torch.arange(seen, device=positions.device) < queries)",
        "tests/families/test_batches.py -k llama-gqa",
    ),
    Mutation(
        "attention scale dropped",
        "model/attention.py",
        "        return config.attention_scale\n",
        "        return None\n",
        f"{PARITY} granite",
    ),
    Mutation(
        "wrong key-value head on a rank",
        "parallel/tensor.py",
        "head = self.rank * heads // self.world_size",
        "head = self.rank % heads",
        "tests/parallel/test_equal.py -k llama-gqa",
    ),
    Mutation(
        "every rank adds the output's bias",
        "parallel/tensor.py",
        "if layer.bias is not None and self.rank > 0:",
        "if layer.bias is not None and self.rank > 8:",
        "tests/parallel/test_equal.py -k gpt2",
    ),
    Mutation(
        "rope turns the other way",
        "model/rope.py",
        "torch.cat((-sin, sin), dim=-1)",
        "torch.cat((sin, -sin), dim=-1)",
        f"{PARITY} llama-gqa",
    ),
    Mutation(
        "yarn does not stretch",
        "model/rope.py",
        "(1 - ramp) * base + ramp * base / rope.factor",
        "(1 - ramp) * base + ramp * base",
        f"{PARITY} llama-yarn",
    ),
    Mutation(
        "llama3 stretches one turn too late",
        "model/rope.py",
        "(turns - rope.low_freq_factor)",
        "(turns - rope.low_freq_factor + 1)",
        f"{PARITY} llama-llama3",
    ),
    Mutation(
        "longrope changes one token too early",
        "model/rope.py",
        "[:, None] > self.rope.original_max_positions",
        "[:, None] >= self.rope.original_max_positions",
        f"{PARITY} phi3-longrope",
    ),
    Mutation(
        "ring written one slot off",
        "model/kv_cache.py",
        "self._write(keys, values, context.positions % ring)",
        "self._write(keys, values, (context.positions + 1) % ring)",
        "tests/families/test_windows.py -k mistral-window",
    ),
    Mutation(
        "ragged rows written one slot off",
        "model/kv_cache.py",
        "            self._write(keys, values, context.positions)\n",
        "            self._write(keys, values, (context.positions + 1) % self.size)\n",
        "tests/families/test_batches.py",
    ),
    Mutation(
        "norm's epsilon ignored",
        "model/norm.py",
        "eps=config.norm_eps)",
        "eps=1e-6)",
        PARITY + " 'cohere-untied or starcoder2 or olmo2'",
    ),
    Mutation(
        "experts' weights not normalized",
        "model/router.py",
        "topk_weights = topk_weights / topk_weights.sum(-1, keepdim=True)\n        return topk_weights.to(",
        "pass\n        return topk_weights.to(",
        f"{PARITY} mixtral",
    ),
    Mutation(
        "expert's tokens off by one",
        "model/moe.py",
        "token_indices = pairs // topk_indices.shape[-1]",
        "token_indices = (pairs + 1) // topk_indices.shape[-1] % len(tokens)",
        "tests/model/test_moe.py",
    ),
    Mutation(
        "samples of several prompts share the first one's prefill",
        "engine/prefill.py",
        "cache.copy_rows(small, rows)",
        "cache.copy_rows(small, [0] * len(rows))",
        "tests/engine tests/families/test_windows.py tests/commands/test_generate.py",
    ),
    Mutation(
        "drafts accepted unseen",
        "engine/scheduler.py",
        "if drafts.ids[row][index : index + 1] == [token]]",
        "if drafts.ids[row][index : index + 1]]",
        "tests/engine/test_speculation.py",
    ),
    Mutation(
        "a drafted token is refused too often",
        "engine/sampling.py",
        "share = torch.where(offered > 0, wanted / offered, 0).clamp(max=1)",
        "share = torch.where(offered > 0, wanted, 0).clamp(max=1)",
        "tests/engine/test_speculation.py",
    ),
    Mutation(
        "chat keeps one token too many",
        "engine/prefill.py",
        "(i for i, (a, b) in pairs if a != b)",
        "(i + 1 for i, (a, b) in pairs if a != b)",
        "tests/chat/test_conversation.py tests/engine",
    ),
    Mutation(
        "rows of sequences that left are not filled",
        "model/kv_cache.py",
        "sources = [rows[target] for target in targets]",
        "sources = targets",
        "tests/engine/test_scheduler.py",
    ),
    Mutation(
        "settings of the first sequence for all",
        "engine/sampler.py",
        "groups.setdefault(sequence.sampling, [])",
        "groups.setdefault(sequences[0].sampling, [])",
        "tests/engine/test_scheduler.py",
    ),
    Mutation(
        "top_p keeps one id more",
        "engine/sampling.py",
        "(before >= top_p).scatter(-1, order, before >= top_p)",
        "(before > top_p).scatter(-1, order, before > top_p)",
        "tests/engine/test_sampling.py",
    ),
    Mutation(
        "min_p keeps too few",
        "engine/sampling.py",
        "logits < logits.amax(-1, keepdim=True) + math.log(min_p)",
        "logits <= logits.amax(-1, keepdim=True) + math.log(min_p)",
        "tests/engine/test_sampling.py",
    ),
    Mutation(
        "penalty rewards what is unlikely",
        "engine/sampling.py",
        "where(logits > 0, logits * penalty)",
        "where(logits > 0, logits / penalty)",
        "tests/engine/test_sampling.py",
    ),
    Mutation(
        "one token too many",
        "engine/sequence.py",
        "len(self.new_ids) == self.max_new_tokens",
        "len(self.new_ids) > self.max_new_tokens",
        "tests/commands/test_generate.py",
    ),
    Mutation(
        "a stop string's last but one character slips out",
        "text/stop_strings.py",
        "len(text) - self._longest + 1)",
        "len(text) - self._longest + 2)",
        "tests/text/test_stop_strings.py",
    ),
    Mutation(
        "the later stop string wins",
        "text/stop_strings.py",
        "min(found, default=",
        "max(found, default=",
        "tests/text/test_stop_strings.py",
    ),
]


def mutated(mutation: Mutation, text: str) -> str:
    """The file's text with the mutation in it; `SystemExit` where the text to change is not there exactly once."""
    if (count := text.count(mutation.old)) != 1:
        print(f"{mutation.name}: mygpt/{mutation.file} has {mutation.old!r} {count} times, not once")
        raise SystemExit(2)
    return text.replace(mutation.old, mutation.new)


def first_failure(mutation: Mutation, folder: Path) -> str | None:
    """Run the tests in a copy of the package with the mutation; the id of one that failed, None where none did."""
    path = folder / "mygpt" / mutation.file
    path.write_text(mutated(mutation, path.read_text(encoding="utf-8")), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-n0", "-x", "-p", "no:cacheprovider", "--tb=no"]
    done = subprocess.run(
        [*command, *shlex.split(mutation.tests)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(
            f"{mutation.name}: pytest ended with {done.returncode}\n{done.stdout}{done.stderr}"
        )
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return failed[1] if failed else None


def main() -> int:
    """Try the mutations whose names hold one of the arguments, by default all, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names
    chosen = [m for m in MUTATIONS if not names or any(name in m.name for name in names)]
    for mutation in MUTATIONS:  # all, before any takes its time
        mutated(mutation, (ROOT / "mygpt" / mutation.file).read_text(encoding="utf-8"))
    missed = 0
    for mutation in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            for name in COPIED:
                source = ROOT / name
                copy = shutil.copytree if source.is_dir() else shutil.copy
                copy(source, Path(scratch, name))
            failed = first_failure(mutation, Path(scratch))
        missed += failed is None
        print(
            f"{'caught' if failed else 'MISSED'}  {mutation.name:<58} {failed or mutation.tests}", flush=True
        )
    print(f"{len(chosen) - missed} of {len(chosen)} mutations caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
