import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_cli.errors import UsageError
from ipa_cli.sweep import plan
from tests.sweep.folders import make


def test_every_combination_is_a_point_and_the_scale_changes_fastest():
    sweep = make((0.0, 1.0), ("a", "b"), ("p", "q"), ((64, 64), (64, 128)), (1, 2))
    assert [point.number for point in sweep.points] == list(range(1, 33))
    assert [point.scale for point in sweep.points] == [0.0, 1.0] * 16
    rows = [(row.reference, row.prompt, row.width, row.height, row.seed) for row in sweep.rows]
    assert len(set(rows)) == 16
    assert rows[:3] == [(0, 0, 64, 64, 1), (0, 0, 64, 64, 2), (0, 0, 64, 128, 1)]
    assert sweep.summary == "2 scales × 2 references × 2 prompts × 2 sizes × 2 seeds = 32 pictures"


def test_what_is_not_varied_is_not_counted():
    assert make((0.5,), ("a",)).summary == "1 scale × 1 reference = 1 picture"


def test_files_sort_by_row_and_no_two_are_alike():
    files = [point.file for point in make((0.0, 0.25, 1e-6), tuple(map(str, range(12)))).points]
    assert files[:2] == ["pictures/row-01-0-scale-0.png", "pictures/row-01-0-scale-0.25.png"]
    assert len(set(files)) == 36 and files == sorted(files, key=lambda name: name.split("-scale-")[0])


@pytest.mark.parametrize(
    ("reference", "stem"),
    [
        ("cat.png", "row-1-cat"),
        ("cats/My cat (1).JPG", "row-1-My-cat-1"),
        ("pets.safetensors", "row-1-pets"),
        ("cat.png + dog.png", "row-1-cat-dog"),
        ("https://example.org/", "row-1-example"),
        ("???.png", "row-1-picture"),
        ("x" * 300 + ".png", "row-1-" + "x" * 80),
    ],
)
def test_files_carry_the_name_of_their_reference(reference, stem):
    sweep = make((0.5,), (reference,))
    assert [point.file for point in sweep.points] == [f"pictures/{stem}-scale-0.5.png"]


def test_scales_are_0_to_1_in_5_by_default():
    assert plan.make_scales(None, None, None, None) == (0, 0.25, 0.5, 0.75, 1)


def test_listed_scales_are_sorted():
    assert plan.make_scales(" 1, 0,.5 ", None, None, None) == (0, 0.5, 1)


def test_a_range_has_both_its_ends_and_short_names():
    assert plan.make_scales(None, 0.1, 0.4, 4) == (0.1, 0.2, 0.3, 0.4)
    assert plan.make_scales(None, None, 2.0, 3) == (0, 1, 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("", None, None, None), "empty"),
        (("0,,1", None, None, None), "empty"),
        (("0,nan", None, None, None), "nan"),
        (("0,inf", None, None, None), "inf"),
        (("0,-0.5", None, None, None), "-0.5"),
        (("0,11", None, None, None), "11"),
        (("0,half", None, None, None), "'half' is not a number"),
        (("0.5,0.50", None, None, None), "0.5 is given twice"),
        (("0,-0", None, None, None), "0 is given twice"),
        (("0.12345678", None, None, None), "decimal places"),
        (("0,1", 0.0, None, None), "cannot be combined"),
        (("0,1", None, None, 3), "cannot be combined"),
        ((None, 1.0, 0.5, 3), "--from 1 is not below --to 0.5"),
        ((None, 0.5, 0.5, 3), "not below"),
        ((None, math.nan, 1.0, 3), "--from nan"),
        ((None, 0.0, math.inf, 3), "--to inf"),
        ((None, 0.0, 1.0, 1), "--num 1"),
        ((None, 0.0, 1.0, 10**9), "--num 1000000000"),
        ((None, 0.0, 0.000001, 5), "too many"),
    ],
)
def test_bad_scales_are_refused(arguments, message):
    with pytest.raises(UsageError) as caught:
        plan.make_scales(*arguments)
    assert message in caught.value.message
    assert caught.value.hint


@given(st.one_of(st.text(), st.text("0123456789.,eE-+naif ")))
def test_any_text_makes_distinct_rising_scales_or_is_refused(text):
    try:
        scales = plan.make_scales(text, None, None, None)
    except UsageError:
        return
    assert scales == tuple(sorted(set(scales)))
    assert all(0 <= scale <= 10 for scale in scales)
    assert len({plan.format_scale(scale) for scale in scales}) == len(scales)


@given(st.floats(0, 10), st.floats(0, 10), st.integers(2, 100))
def test_any_range_makes_distinct_rising_scales_or_is_refused(first, last, number):
    try:
        scales = plan.make_scales(None, first, last, number)
    except UsageError:
        assert last - first < 1e-3
        return
    assert len(scales) == number and scales == tuple(sorted(set(scales)))


def test_a_size_is_width_by_height():
    assert plan.parse_size("1024x768") == plan.parse_size(" 1024 × 768") == (1024, 768)


@pytest.mark.parametrize("text", ["", "64", "64x", "64x64x64", "0x64", "65x64", "64x9000", "-64x64", "64.0x64"])
def test_bad_sizes_are_refused(text):
    with pytest.raises(UsageError):
        plan.parse_size(text)


@given(st.text())
def test_any_text_is_a_size_or_refused(text):
    try:
        width, height = plan.parse_size(text)
    except UsageError:
        return
    assert width % 8 == height % 8 == 0


def test_bad_seeds_are_refused():
    plan.check_seeds((0, 2**63 - 1))
    with pytest.raises(UsageError):
        plan.check_seeds((1, -1))


@pytest.mark.parametrize(
    "axes",
    [
        {"prompts": ("a", "b", "a")},
        {"sizes": ((64, 64), (64, 64))},
        {"seeds": (1, 1)},
    ],
)
def test_duplicates_are_refused(axes):
    with pytest.raises(UsageError, match="given twice"):
        make(**axes)


def test_a_reference_given_twice_is_refused():
    plan.check_references(("a", "b"), "--image")
    with pytest.raises(UsageError, match="--image a is given twice"):
        plan.check_references(("a", "b", "a"), "--image")


def test_too_many_pictures_are_refused_before_any_is_listed():
    with pytest.raises(UsageError, match="10000000 pictures"):
        make((0.0, 1.0), ("a",), tuple(map(str, range(5000))), ((64, 64),), tuple(range(1000)))


def test_labels_are_short_and_distinct():
    assert plan.labels(("x/cat.png", "https://h/dog.png", "y/cat.png")) == ("x/cat.png", "dog.png", "y/cat.png")
    assert plan.labels(("/",)) == ("/",)
    assert plan.labels(("https://h/a", "b", "https://h/a")) == ("https://h/a (1)", "b", "https://h/a (3)")
