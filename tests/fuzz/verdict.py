"""Whether a case ended as it must: an answer, or one line that says what is wrong."""

import re
import signal
import unicodedata
from dataclasses import dataclass

from tests.fuzz.child import Outcome

LONGEST = 2000  # bytes of an error line
OK, REFUSED, FAILED, BAD = "ok", "refused", "run-time failure", "bad"
# What may fail while running, by how its line begins after "error: ".
RIGHT_FAILURES = ("the model's logits are not finite", "out of memory", "cannot store")
_CODE = re.compile(
    r"Traceback \(most recent call last\)|panicked at|Fatal Python error|Exception (?:ignored )?in[^\n]{0,60}"
)
_WARNING = re.compile(r"^\S+\.py:\d+: \w*Warning: .*", re.MULTILINE)
_BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Verdict:
    """One of the four words, and why: the error line, or what is bad."""

    word: str
    message: str = ""

    @property
    def group(self) -> str:
        """The message without what differs from case to case."""
        text = re.sub(r"/\S*?/run/", "", self.message)
        text = re.sub(r"--\w+ must be", "--OPTION must be", text)
        text = re.sub(r"(?<!\w)(?:'(?:[^'\\]|\\.)*(?:'|$)|\"[^\"]*(?:\"|$))", "'…'", text)
        return re.sub(r"\d+(?:\.\d+)?", "N", text)[:160]


def judge(outcome: Outcome, *, chat: bool = False) -> Verdict:
    """The verdict. In a chat each line of the input may have an error line, and the last sums up."""
    text = outcome.stderr.decode("utf-8", "replace")
    errors = [line for line in text.split("\n") if line.startswith("error: ")]
    last = next((line for line in reversed(text.split("\n")) if line.strip()), "")
    if reason := _not_its_own(outcome) or _broken(text, last):
        return Verdict(BAD, reason)
    if outcome.code not in (0, 1, 2):
        return Verdict(BAD, f"exit code {outcome.code}: {last[:300]}")
    if any(len(line.encode()) > LONGEST for line in errors):
        return Verdict(BAD, f"an error line of {len(max(errors, key=len).encode())} bytes: {last[:300]}")
    if outcome.code == 0:
        return Verdict(OK) if not errors else Verdict(BAD, f"exit code 0 with an error: {last[:300]}")
    if not errors or last != errors[-1] or last == "error: ":
        return Verdict(BAD, f"exit code {outcome.code} and the last line is no error: {last[:300]}")
    if len(errors) > 1 and not chat:
        return Verdict(BAD, f"{len(errors)} error lines: {last[:300]}")
    if outcome.code == 2:
        return Verdict(REFUSED, last)
    return Verdict(FAILED if last.removeprefix("error: ").startswith(RIGHT_FAILURES) else BAD, last[:500])


def _not_its_own(outcome: Outcome) -> str:
    """What ended the case from outside, or what it left."""
    if outcome.timed_out or outcome.code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "time-out" if outcome.timed_out or outcome.code == -signal.SIGXCPU else "killed"
    if outcome.code < 0:
        return f"died of {signal.Signals(-outcome.code).name}"
    if outcome.orphans:
        return f"{outcome.orphans} processes left"
    return f"outside of its folder: {outcome.outside}" if outcome.outside else ""


def _broken(text: str, last: str) -> str:
    """What must be in no message."""
    if found := _CODE.search(text):
        named = re.findall(r"^[\w.]*(?:Error|Exception|Warning|Interrupt)\b.*", text, re.MULTILINE)
        return f"{found[0]}: {(named[-1] if named else last)[:300]}"
    if "MYGPT_DEBUG=1 shows where" in text:
        line = next(line for line in text.split("\n") if "MYGPT_DEBUG=1 shows where" in line)
        return f"unexpected {line.removeprefix('error: ')[:300]}"
    if found := _WARNING.search(text):
        return f"warning {found[0].partition(': ')[2][:300]}"
    if raw := sorted({char for char in text if _is_control(char)}):
        line = next(line for line in text.split("\n") if raw[0] in line)
        return f"control characters {ascii(''.join(raw))[:40]}: {ascii(line)[1:200]}"
    return ""


def _is_control(char: str) -> bool:
    return char not in "\n\t" and (unicodedata.category(char) in ("Cc", "Zl", "Zp") or char in _BIDI)
