"""What the default model answers to simple questions, with no option given: how many of 20 seeds are right.

    python benchmarks/first_minute.py

Each question is one `mygpt generate --num_samples 20 --seed 1`, whose answers are those of seeds 1 to 20 alone. An
answer counts if its first 100 characters hold the expected word. `wrong` holds the beginnings of the others;
`words` says how long the answers are. The first five questions are those of the first minute.
The others show what so small a model does not know.
"""

import argparse
import json
import re
import subprocess
import sys
from statistics import median
from typing import Any

from report import print_report

QUESTIONS = {
    "What is the capital of France?": "Paris",
    "What's the capital of France?": "Paris",
    "What is the capital of Japan?": "Tokyo",
    "What is the first month of the year?": "January",
    "What is the opposite of hot?": "^The opposite of hot is cold",
    "How many legs does a spider have?": r"\b8\b|[Ee]ight",
    "What is 2 + 2?": r"\b4\b|[Ff]our",
    "What color is the sky?": "[Bb]lue",
}


def answers(question: str, seeds: int) -> list[str]:
    """The answers with seeds 1, 2, ..."""
    options = ["--prompt", question, "--seed", "1", "--num_samples", str(seeds), "--json", "true"]
    command = [sys.executable, "-m", "mygpt", "generate", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return [json.loads(line)["text"] for line in done.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Count right answers; see the top of this file.")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--questions", type=int, default=len(QUESTIONS), help="ask only the first ones")
    args = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for question, word in list(QUESTIONS.items())[: args.questions]:
        texts = answers(question, args.seeds)
        begun = [text[:100] for text in texts]
        wrong = [text for text in begun if not re.search(word, text)]
        right = len(texts) - len(wrong)
        results[question] = {
            "right": right,
            "words": median(len(text.split()) for text in texts),
            "wrong": wrong,
        }
        print(f"{right} of {args.seeds}: {question}", flush=True)
    print_report("first_minute", vars(args) | {"results": results})


if __name__ == "__main__":
    main()
