"""What an answer is worth, in both languages."""

from __future__ import annotations

import pytest

from training.evaluation.metrics import Mean, exact, f1, holds, mean_of, reciprocal_rank, strip_marks, tokens


@pytest.mark.parametrize(
    ("said", "answers", "lang", "score", "same"),
    [
        ("The Eiffel Tower.", ["eiffel tower"], "en", 1.0, 1.0),
        ("“Santa Clara”", ["Santa Clara, California"], "en", 0.8, 0.0),
        ("the BBC", ["ITV", "BBC"], "en", 1.0, 1.0),  # the best alternative counts
        ("in the the north", ["north north"], "en", 0.5, 0.0),  # each token as often as it stands in both
        ("nothing of it", ["Berlin"], "en", 0.0, 0.0),
        ("", ["Berlin"], "en", 0.0, 0.0),
        ("the", ["a"], "en", 0.0, 0.0),  # nothing is left of either
        ("《红楼梦》。", ["红楼梦"], "zh", 1.0, 1.0),
        ("１７９１ 年", ["1791年"], "zh", 1.0, 1.0),
        ("在北京", ["北京"], "zh", 0.8, 0.0),
        ("上海", ["北京", "南京"], "zh", 0.0, 0.0),
        ("NBA总决赛", ["nba"], "zh", 2 * 3 / 9, 0.0),
        ("anything", [], "en", 0.0, 0.0),
    ],
)
def test_f1_and_exact(said: str, answers: list[str], lang: str, score: float, same: float) -> None:
    assert f1(said, answers, lang) == pytest.approx(score)
    assert exact(said, answers, lang) == same


def test_words_and_characters() -> None:
    assert tokens("A cat – an owl's", "en") == ["cat", "owls"]
    assert tokens("第二次世界大战（WWII）", "zh") == list("第二次世界大战wwii")


@pytest.mark.parametrize("text", ["答案。[1]", "答案。 [1][2]", "答案。【3】", "答案。"])
def test_marks_are_no_answer(text: str) -> None:
    assert strip_marks(text) == "答案。"


@pytest.mark.parametrize(
    ("text", "answers", "lang", "found"),
    [
        ("He sold 15 of them.", ["5"], "en", False),
        ("He sold 5 of them.", ["15", "5"], "en", True),
        ("the New York Times", ["York, times"], "en", True),
        ("他在“北京”出生", ["北京"], "zh", True),
        ("他在北方的京城", ["北京"], "zh", False),
        ("anything", [""], "en", False),
    ],
)
def test_whole_words_are_held(text: str, answers: list[str], lang: str, found: bool) -> None:
    assert holds(text, answers, lang) is found


def test_reciprocal_rank() -> None:
    ranking = [str(i) for i in range(12)]
    assert reciprocal_rank(ranking, "0") == 1.0
    assert reciprocal_rank(ranking, "3") == 0.25
    assert reciprocal_rank(ranking, "10") == 0.0 == reciprocal_rank([], "0")
    assert reciprocal_rank(ranking, "1", limit=1) == 0.0


def test_interval_of_a_mean() -> None:
    values = [0.0, 1.0] * 50
    mean = mean_of(values)
    assert mean == mean_of(values) and (mean.value, mean.count) == (0.5, 100)
    assert 0.38 < mean.low < 0.43 and 0.57 < mean.high < 0.62  # 0.5 ± 1.96 · 0.05
    assert mean_of([1.0, 1.0]) == Mean(1.0, 1.0, 1.0, 2)
    assert mean_of([]).percent() == "–"
    assert Mean(0.5, 0.4, 0.625, 8).percent() == "50.0 (40.0 to 62.5)"
