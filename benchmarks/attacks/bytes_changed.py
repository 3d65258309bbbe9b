"""How a mutant differs from the file it was: a few bytes, chosen by dice."""

from __future__ import annotations

import random

_CHUNKS = (
    b"\x00",
    b"\xff",
    b"[" * 3000,
    b"1" * 6000,
    b'"',
    b"\x1b[31m",
    b",",
    b"{}",
    b"-1",
    b"1e999",
    b"NaN",
    b"99999999999999999999",
    b"\n",
)


def mutated(content: bytes, dice: random.Random) -> bytes:
    """One to four changes: bytes flipped, set, cut, doubled, put in, exchanged for a number or a bracket."""
    changed = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        place = dice.randrange(len(changed) + 1)
        size = dice.choice((1, 1, 2, 8, 64))
        how = dice.randrange(7)
        if how == 0 and place < len(changed):
            changed[place] ^= 1 << dice.randrange(8)
        elif how == 1 and place < len(changed):
            changed[place] = dice.randrange(256)
        elif how == 2:
            del changed[place : place + size]
        elif how == 3:
            changed[place:place] = changed[place : place + size]
        elif how == 4:
            changed[place:place] = dice.choice(_CHUNKS)
        elif how == 5:
            del changed[place:]
        else:
            _change_a_number(changed, dice)
    return bytes(changed)


def _change_a_number(changed: bytearray, dice: random.Random) -> None:
    digits = [place for place, byte in enumerate(changed[:4000]) if 48 <= byte <= 57]
    if digits:
        place = dice.choice(digits)
        changed[place : place + 1] = dice.choice((b"", b"0", b"9", b"-", b"999999999", b"0.5", b"null", b'"x"'))
