"""Mutations of bytes."""

import random

_HEAD = 4096  # bytes where headers lie; half of all mutations are there
_INTEGERS = (0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
_STRINGS = (b"\x00", b"\xff\xfe", b"\x1b[2J", b"\n", b"\r\n", b'"', b"{", b"]", b"\xed\xa0\x80", b"\xc0\xaf")


def mutate(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """The content with one thing changed, and what it is."""
    changes = (_flip, _flip, _set, _truncate, _cut, _insert, _copy, _swap, _integer, _fill)
    change = rng.choice(changes)
    at = _offset(rng, len(content))
    return change(rng, content, at), f"{change.__name__[1:]} at byte {at} of {len(content)}"


def _offset(rng: random.Random, size: int) -> int:
    return rng.randrange(max(min(size, _HEAD) if rng.random() < 0.5 else size, 1))


def _length(rng: random.Random) -> int:
    return rng.choice((1, 2, 3, 4, 8, 16, 100, 1000, 10_000))


def _flip(rng: random.Random, content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[(at + rng.randrange(8)) % len(changed)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set(rng: random.Random, content: bytes, at: int) -> bytes:
    return content[:at] + bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x22, 0x5C))]) + content[at + 1 :]


def _truncate(rng: random.Random, content: bytes, at: int) -> bytes:
    return content[:at]


def _cut(rng: random.Random, content: bytes, at: int) -> bytes:
    return content[:at] + content[at + _length(rng) :]


def _insert(rng: random.Random, content: bytes, at: int) -> bytes:
    added = rng.choice((rng.randbytes(_length(rng)), bytes(_length(rng)), rng.choice(_STRINGS)))
    return content[:at] + added + content[at:]


def _copy(rng: random.Random, content: bytes, at: int) -> bytes:
    piece = content[at : at + _length(rng)]
    return content[:at] + piece * rng.choice((2, 3, 100)) + content[at:]


def _swap(rng: random.Random, content: bytes, at: int) -> bytes:
    length, other = _length(rng), _offset(rng, len(content))
    first, second = sorted((at, other))
    length = min(length, second - first, len(content) - second)
    a, b = content[first : first + length], content[second : second + length]
    return content[:first] + b + content[first + length : second] + a + content[second + length :]


def _integer(rng: random.Random, content: bytes, at: int) -> bytes:
    width = rng.choice((4, 8))
    number = rng.choice(_INTEGERS) % 256**width
    return content[:at] + number.to_bytes(width, "little") + content[at + width :]


def _fill(rng: random.Random, content: bytes, at: int) -> bytes:
    length = min(_length(rng), len(content) - at)
    return (
        content[:at] + rng.choice((b"\x00", b"\xff", b"\x80", b"9", b"[")) * length + content[at + length :]
    )
