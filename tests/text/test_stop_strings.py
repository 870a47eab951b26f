"""Stop strings: whatever the cuts, the text shown is what a naive search in the whole text gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mygpt.errors import InputError
from mygpt.text.stop_strings import StopMatcher

STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=4)


def naive(text: str, stops: list[str]) -> tuple[str, str | None]:
    found = [(text.find(stop), len(stop), stop) for stop in stops if stop in text]
    if not found:
        return text, None
    start, _, stop = min(found)
    return text[:start], stop


def run(pieces: list[str], stops: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    shown = "".join([matcher.push(piece) for piece in pieces])
    shown += matcher.flush()
    return shown, matcher.stop


@settings(deadline=None, max_examples=500)
@given(st.lists(st.text("abc", max_size=4), max_size=8), STOPS)
def test_equals_a_naive_search_however_the_text_is_cut(pieces, stops):
    assert run(pieces, stops) == naive("".join(pieces), stops)


@settings(deadline=None, max_examples=500)
@given(st.text("ab", max_size=12), STOPS)
def test_text_shown_so_far_is_never_taken_back(text, stops):
    final, _ = naive(text, stops)
    matcher, shown = StopMatcher(stops), ""
    for character in text:
        shown += matcher.push(character)
        assert final.startswith(shown)


def test_a_failed_match_may_begin_another():
    """Matching that resets to zero on a mismatch misses `aab` in `aaab`."""
    assert run(list("xaaaby"), ["aab"]) == ("xa", "aab")


def test_what_may_begin_a_stop_is_held_back_and_released():
    matcher = StopMatcher(["###"])
    assert [matcher.push(piece) for piece in ("a#", "#", "b", "##")] == ["a", "", "##b", ""]
    assert not matcher.matched
    assert matcher.flush() == "##"


def test_nothing_is_shown_after_a_match():
    matcher = StopMatcher(["\n\n"])
    assert matcher.push("one\n") == "one"
    assert matcher.push("\ntwo") == ""
    assert matcher.matched and matcher.stop == "\n\n"
    assert matcher.push("three") == "" and matcher.flush() == ""


def test_a_stop_inside_a_longer_one_waits_for_it():
    assert run(["abc", "d"], ["abcd", "bc"]) == ("", "abcd")
    assert run(["abc", "x"], ["abcd", "bc"]) == ("a", "bc")
    assert run(["abc"], ["abcd", "bc"]) == ("a", "bc")


def test_without_stops_everything_is_shown_at_once():
    assert StopMatcher([]).push("text") == "text"


def test_held_text_does_not_grow():
    matcher = StopMatcher(["aab"])
    for _ in range(1000):
        matcher.push("aaaa")
    assert len(matcher._held) == 2


@pytest.mark.parametrize("stops", [[""], ["a", ""], [None], "###"])
def test_bad_stops_are_an_input_error(stops):
    with pytest.raises(InputError, match="stop strings must be") as error:
        StopMatcher(stops)
    assert "\n" not in str(error.value)
