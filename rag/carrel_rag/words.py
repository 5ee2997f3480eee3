"""Where words begin and end, so that no answer begins inside of one. Knows characters, no language.

A number with its points is one word; a Chinese character is a word, since nothing tells where longer ones end.
"""

from __future__ import annotations

import re

from carrel_rag.text import CJK_LETTER

_LETTERS = f"[^\\W_{CJK_LETTER}]"
_NUMBER = rf"(?:\d+(?:[.,:]\d+)+|(?<![\w.])\.\d+){_LETTERS}*"  # 4,812 or 10:30 or 1.5kg or .5
WORD = re.compile(rf"\s+|{_NUMBER}|{_LETTERS}+|.", re.S)  # every character is in one match
CLOSING = ",.;:!?)]}、。，；：！？）》」』】”’…"  # nothing begins with these
OPENING = "([{（《「『【“‘"  # and nothing ends with these
PAUSES = ",;:、，；："  # nor with these
_PAIRS = {"(": ")", "[": "]", "（": "）", "《": "》", "「": "」", "『": "』", "【": "】", "“": "”"}
_POINT = re.compile(r"\.\d")  # .5 is half of one
_FULL_STOP = re.compile(r"(?<!\b[A-Z])(?<!\w\.\w)[.。!！…]+$")  # but not the one of "U.S." and "John F."


def whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """``start:end`` made longer to where its first word begins and its last one ends.

    >>> whole_words("It has 4,812 lanterns.", 9, 15)
    (7, 21)
    """
    near = max(0, start - 64)  # far enough: a longer word may be cut
    for word in WORD.finditer(text, near, min(len(text), end + 64)):
        if word.start() < start < word.end() and not word.group().isspace():
            start = word.start()
        if word.start() < end < word.end() and not word.group().isspace():
            return start, word.end()
    return start, end


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """``start:end`` without blanks and marks that are none of the answer's; empty if nothing else is there.

    A bracket that was opened is closed, if that is the next character; one without its fellow goes.

    >>> text = "Of these, 1,207 (a quarter) burned."
    >>> [text[slice(*trimmed(text, *place))] for place in ((8, 26), (9, 27), (10, 35))]
    ['1,207 (a quarter)', '1,207 (a quarter)', '1,207 (a quarter) burned']
    """
    while True:
        piece = text[start:end]
        if not any(char.isalnum() for char in piece):
            return start, start
        body = piece.strip()
        start += len(piece) - len(piece.lstrip())
        end = start + len(body)
        for opening, closing in _PAIRS.items():
            if body.count(opening) > body.count(closing) and text[end : end + 1] == closing:
                end += 1
        body = text[start:end]
        lone_quote = '"' if body.count('"') == 1 else ""
        if (body[0] in CLOSING + lone_quote and not _POINT.match(body)) or (
            body[0] in _PAIRS and _PAIRS[body[0]] not in body
        ):
            start += 1
        elif body[-1] in OPENING + PAUSES + lone_quote or any(
            body[-1] == closing and opening not in body for opening, closing in _PAIRS.items()
        ):
            end -= 1
        elif stop := _FULL_STOP.search(body):
            end = start + stop.start()
        else:
            return start, end
