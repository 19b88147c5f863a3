import random
from functools import cache

import pytest

from earlyfusion.eval.metrics.text import (
    PIXEL_BINS,
    TextBox,
    bin_name,
    by_pixels,
    cer,
    edit_distance,
    exact_match,
    grouped,
    side_by_side,
    t_ned,
    tokbench,
)


def plain_edit_distance(a: str, b: str) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(
            distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        )

    return distance(len(a), len(b))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("Ab", "ab", 1),
        ("ab", "ba", 2),
        ("😀a", "a", 1),
    ],
)
def test_edit_distance_of_known_pairs(a, b, expected):
    assert edit_distance(a, b) == edit_distance(b, a) == expected


def test_edit_distance_equals_the_recursive_definition():
    rng = random.Random(0)
    for _ in range(200):
        a, b = ("".join(rng.choices("abc", k=rng.randrange(8))) for _ in range(2))
        assert edit_distance(a, b) == plain_edit_distance(a, b)


def test_cer_is_all_edits_over_all_reference_characters():
    # 0 of 2, 1 of 4, 3 of 1: not the mean of the three rates.
    assert cer(["ab", "word", "x"], ["ab", "wird", "xyzw"]) == pytest.approx(4 / 7)
    assert cer(["abc"], [""]) == 1
    assert cer([""], [""]) is None
    assert cer([], []) is None


def test_exact_match_minds_the_case():
    assert exact_match(["ab", "ab", "ab", "ab"], ["ab", "Ab", "ab ", "ab"]) == 0.5
    assert exact_match([], []) is None


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="2 references.* 1 hypotheses"):
        cer(["a", "b"], ["a"])


def test_t_ned_divides_by_the_longer_text():
    assert t_ned("abcd", "abcd") == 1
    assert t_ned("abcd", "abc") == pytest.approx(3 / 4)
    assert t_ned("ab", "abcd") == pytest.approx(1 / 2)
    assert t_ned("ab", "") == 0
    assert t_ned("", "") == 1


def boxes_of_a_page(seed: int) -> list[TextBox]:
    """Texts of many sizes, some misread in the original, some misread afterwards."""
    rng = random.Random(seed)

    def misread(text: str, chance: float) -> str:
        return "".join(rng.choice("xyz") if rng.random() < chance else c for c in text)

    boxes = []
    for _ in range(200):
        text = "".join(rng.choices("abcdef", k=rng.randint(1, 8)))
        size = rng.uniform(0.005, 0.06)
        boxes.append(TextBox(text, misread(text, 0.05), misread(text, 0.2), size, size * 300))
    return boxes


def test_tokbench_equals_a_few_lines_of_plain_python():
    boxes = boxes_of_a_page(0)
    accuracies, neds = [], []
    for low, high in ((0.02, 0.03), (0.03, 0.04), (0.04, 1)):
        hits, ned, n = 0, 0.0, 0
        for text, original, read, size, *_ in boxes:
            if low <= size < high and original == text:
                n += 1
                hits += read == text
                ned += 1 - plain_edit_distance(text, read) / max(len(text), len(read))
        accuracies.append(hits / n)
        neds.append(ned / n)
    scores = tokbench(boxes)
    assert scores["t_acc"] == pytest.approx(sum(accuracies) / 3)
    assert scores["t_ned"] == pytest.approx(sum(neds) / 3)
    assert [row["reconstruction"]["t_acc"] for row in scores["bins"]] == pytest.approx(accuracies)
    assert scores["dropped"] == sum(box.relative_size < 0.02 for box in boxes)
    assert scores["empty_bins"] == []
    assert scores["counted"] == sum(row["counted"] for row in scores["bins"])


def box(size: float, original: str = "ab", reconstruction: str = "ab") -> TextBox:
    return TextBox("ab", original, reconstruction, size, 10.0)


def test_tokbench_bins_are_half_open_and_empty_ones_are_named():
    scores = tokbench(
        [box(0.019), box(0.02), box(0.03, reconstruction="a"), box(0.5, original="xx"), box(1.0)]
    )
    assert [(row["bin"], row["items"], row["counted"]) for row in scores["bins"]] == [
        ("[0.02, 0.03)", 1, 1),
        ("[0.03, 0.04)", 1, 1),
        ("[0.04, 1)", 1, 0),  # not read in the original
    ]
    assert scores["empty_bins"] == ["[0.04, 1)"]
    assert scores["dropped"] == 2
    assert (scores["t_acc"], scores["t_ned"]) == (0.5, 0.75)


def test_the_mean_of_the_bins_is_unweighted():
    scores = tokbench([box(0.025)] * 9 + [box(0.035, reconstruction="xx")])
    assert scores["t_acc"] == 0.5


def test_nothing_that_counts_gives_none():
    scores = tokbench([])
    assert scores["t_acc"] is None and scores["t_ned"] is None
    assert scores["empty_bins"] == ["[0.02, 0.03)", "[0.03, 0.04)", "[0.04, 1)"]


def test_identity_scores_what_the_original_scores_and_blank_scores_zero():
    boxes = boxes_of_a_page(1)
    same = side_by_side([b._replace(reconstruction=b.original) for b in boxes])
    assert same["reconstruction"] == same["original"]
    assert same["original"]["t_acc"] == same["original"]["t_ned"] == 1
    assert same["original"]["exact_match"] == same["counted"] / len(boxes) < 1
    blank = side_by_side([b._replace(reconstruction="") for b in boxes])["reconstruction"]
    assert blank == {"t_acc": 0, "t_ned": 0, "exact_match": 0, "cer": 1}


def test_bins_by_pixels_reach_from_zero_to_infinity():
    assert PIXEL_BINS[0][0] == 0
    assert bin_name(PIXEL_BINS[-1]) == "48+"
    scores = by_pixels([box(0.5)._replace(pixels=p) for p in (0.5, 12, 12.9, 13, 5000)])
    assert [(row["bin"], row["items"]) for row in scores["bins"]] == [
        ("[0, 8)", 1),
        ("[12, 13)", 2),
        ("[13, 14)", 1),
        ("48+", 1),
    ]
    assert scores["dropped"] == 0


def test_grouped_sorts_and_leaves_out_none():
    assert grouped([3, 1, 2, 5], lambda n: None if n == 5 else n % 2) == {0: [2], 1: [3, 1]}
