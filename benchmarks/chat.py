"""What a turn waits for: the new message alone, whatever the history. And does a long session stay small?

    python benchmarks/chat.py [CHECKPOINT] [--history 1500] [--repeats 3] [--soak 0]

The time to the first token of turn 10, with a history of about `--history` tokens, against that of a first turn
whose message has the same length; medians of the rounds. A first turn computes what the template puts before it too
(SmolLM2's: a system message), so a turn 10 that computes as many tokens is measured as well. The ids of turn 10 are
compared with those of the same history computed from nothing, in float32. `--soak N` goes on for N short turns in a
context of 512 tokens, so that the oldest turns are dropped again and again, and tells how much resident memory grew
after the first third.
"""

import argparse
import dataclasses
import os
from pathlib import Path
from statistics import median

from report import print_report

from mygpt import LLM
from mygpt.chat.conversation import Conversation

TURNS = 10
ANSWER = 16  # tokens
QUESTION = "And what would you say is the most important thing about that?"
WORDS = "The sea was calm and the old boat went slowly past the white cliffs towards the harbour. "
SOAK_CONTEXT = 512  # tokens


def new_conversation(llm: LLM) -> Conversation:
    return llm.chat(max_new_tokens=ANSWER, temperature=0.0)


def say(conversation: Conversation, text: str) -> float:
    """Seconds to the first token."""
    for _ in conversation.say(text):
        pass
    assert conversation.last is not None
    return conversation.last.timing.ttft_s


def talk(llm: LLM, history: int) -> Conversation:
    """A conversation of nine turns with a history of about so many tokens."""
    conversation = new_conversation(llm)
    message = text_of(llm, history // (TURNS - 1) - ANSWER)
    for _ in range(TURNS - 1):
        say(conversation, message)
    return conversation


def text_of(llm: LLM, tokens: int) -> str:
    """A text of so many tokens, or of one or two less."""
    words = (WORDS * (tokens // len(llm.tokenizer.encode(WORDS)) + 1)).split()
    while len(llm.tokenizer.encode(" ".join(words))) > tokens:
        words.pop()
    return " ".join(words)


def computed_tokens(conversation: Conversation) -> int:
    """Of the last turn's prompt."""
    assert conversation.last is not None
    return conversation.last.prompt_tokens - conversation.last.reused_tokens


def turn_times(llm: LLM, history: int, repeats: int) -> dict[str, object]:
    """Rounds of a turn 10, the same with as many tokens as a first turn computes, and a first turn."""
    first, tenth, equal = [], [], []
    first_tokens, question_tokens = len(llm.encode(QUESTION)), len(llm.tokenizer.encode(QUESTION))
    for _ in range(repeats):
        conversation = talk(llm, history)
        tenth.append(say(conversation, QUESTION))
        tenth_tokens, last = computed_tokens(conversation), conversation.last
        first.append(say(new_conversation(llm), QUESTION))
        longer = talk(llm, history)
        equal.append(say(longer, text_of(llm, question_tokens + first_tokens - tenth_tokens)))
    assert last is not None
    prompt = llm.encode(conversation.messages[:-1])
    expected = llm.generate_ids(prompt, max_new_tokens=ANSWER, temperature=0.0)
    return {
        "history_tokens": len(prompt),
        "computed_tokens": tenth_tokens,
        "equal_computed_tokens": computed_tokens(longer),
        "first_turn_tokens": first_tokens,
        "first_turn_ttft_s": median(first),
        "turn_10_ttft_s": median(tenth),
        "equal_turn_10_ttft_s": median(equal),
        "ratio": median(tenth) / median(first),
        "equal_ratio": median(equal) / median(first),
        "rounds": {"first_turn_ttft_s": first, "turn_10_ttft_s": tenth, "equal_turn_10_ttft_s": equal},
        "same_ids_as_without_reuse": last.new_ids == expected,
    }


def soak(llm: LLM, turns: int) -> dict[str, object]:
    """Short turns in a small context; resident memory after each tenth of them."""
    model = llm.loaded.model
    model.config = dataclasses.replace(model.config, context_length=SOAK_CONTEXT)
    conversation = new_conversation(llm)
    resident = []
    for number in range(turns):
        say(conversation, f"Tell me about the number {number}.")
        resident.append(resident_mb())
    warm = resident[turns // 3 - 1 :]
    return {
        "turns": turns,
        "context": SOAK_CONTEXT,
        "dropped_messages": conversation.n_dropped,
        "resident_mb": resident[:: max(turns // 10, 1)] + resident[-1:],
        "growth_mb": max(warm) - warm[0],
    }


def resident_mb() -> float:
    """Resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a conversation; see the top of this file.")
    parser.add_argument("checkpoint", nargs="?", help="by default the default model")
    parser.add_argument("--history", type=int, default=1500, help="tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--soak", type=int, default=0, help="turns")
    args = parser.parse_args()
    llm = LLM.load(args.checkpoint, precision="32-true")
    results = turn_times(llm, args.history, args.repeats)
    print(
        f"time to first token: turn {TURNS} {results['turn_10_ttft_s']:.3f} s, first turn "
        f"{results['first_turn_ttft_s']:.3f} s, ratio {results['ratio']:.2f}"
    )
    print(
        f"of as many computed tokens ({results['equal_computed_tokens']} and {results['first_turn_tokens']}): "
        f"turn {TURNS} {results['equal_turn_10_ttft_s']:.3f} s, ratio {results['equal_ratio']:.2f}"
    )
    if args.soak:
        results["soak"] = soaked = soak(llm, args.soak)
        print(f"soak: {soaked['growth_mb']:.1f} MB more after turn {args.soak // 3} of {args.soak}")
    print_report("chat", results)


if __name__ == "__main__":
    main()
