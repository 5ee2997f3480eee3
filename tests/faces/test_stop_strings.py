"""What goes out does not depend on how the text is cut, and no more is held than could become a stop string."""

from __future__ import annotations

import pytest
from carrel.stop_strings import StopStrings
from hypothesis import given
from hypothesis import strategies as st

ALPHABET = st.text(alphabet="ab#你🎉", max_size=24)
STOPS = st.lists(st.text(alphabet="ab#你", min_size=1, max_size=4), min_size=1, max_size=3)


def run(pieces: list[str], stop: list[str], include: bool) -> tuple[str, str | None]:
    watch = StopStrings(stop, include_in_output=include)
    out = "".join([watch.push(piece) for piece in pieces])
    return out + watch.flush(), watch.matched


def cut(text: str, stop: list[str], include: bool) -> tuple[str, str | None]:
    """The plain way: the first place at which the text so far ends with a stop string."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stop if text[:end].endswith(s)]
        if ending:
            longest = max(ending, key=len)
            return text[: end if include else end - len(longest)], longest
    return text, None


@given(text=ALPHABET, stop=STOPS, include=st.booleans(), data=st.data())
def test_every_split_gives_the_same(text, stop, include, data):
    pieces, rest = [], text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces.append(rest[:size])
        rest = rest[size:]
    assert run(pieces, stop, include) == cut(text, stop, include)


@given(text=ALPHABET, stop=STOPS)
def test_only_the_beginning_of_a_stop_string_is_held(text, stop):
    watch, out = StopStrings(stop), ""
    for char in text:
        out += watch.push(char)
        if watch.matched is not None:
            return
    held = text[len(out) :]
    assert not held or any(s.startswith(held) and s != held for s in stop)


@pytest.mark.parametrize(("include", "text"), [(False, "答案是"), (True, "答案是。\n\n")])
def test_a_stop_string_over_several_pieces(include, text):
    assert run(["答案", "是。", "\n", "\n问"], ["。\n\n"], include) == (text, "。\n\n")


def test_without_stop_strings_nothing_is_held():
    watch = StopStrings([])
    assert (watch.push("好"), watch.flush(), watch.matched) == ("好", "", None)
