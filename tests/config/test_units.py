"""Bytes, spans of time and picture sizes, written and read."""

import pytest

from ipa_cli.config import units
from ipa_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("7", 7),
        ("7b", 7),
        ("1k", 1000),
        ("1.5 GB", 1_500_000_000),
        (" 20gb ", 20 * 10**9),
        ("512MiB", 512 * 2**20),
        ("2Ki", 2048),
        ("3TiB", 3 * 2**40),
        ("0.5m", 500_000),
    ],
)
def test_bytes_are_read_with_decimal_and_binary_units(text, count):
    assert units.parse_size(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1", "1e9", "1.", "1 G B", "5PB", "1" * 13, "١GB", "1.1234567k", "iB"])
def test_text_that_is_not_a_number_of_bytes_is_refused(text):
    with pytest.raises(ValueError, match="5GB or 512MiB"):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("90s", 90), ("5m", 300), ("12H", 43_200), (" 30 d ", 2_592_000), ("2w", 1_209_600)],
)
def test_spans_of_time_are_read(text, seconds):
    assert units.parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "1.5d", "-1d", "1 month", "1" * 10 + "s"])
def test_text_that_is_not_a_span_of_time_is_refused(text):
    with pytest.raises(ValueError, match="30d or 12h"):
        units.parse_age(text)


@pytest.mark.parametrize(
    ("count", "words"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_250_000, "1.2 MB"), (999_000_000, "999.0 MB")),
        *((10**9, "1.0 GB"), (10**12, "1.0 TB"), (5 * 10**15, "5000.0 TB")),
    ],
)
def test_bytes_are_written_with_three_digits_or_more(count, words):
    assert units.size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((0, "now"), (59.9, "now"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (86_399, "23 h")),
        *((86_400, "1 d"), (10 * 86_400 + 5, "10 d")),
    ],
)
def test_spans_of_time_are_written_in_their_largest_unit(seconds, words):
    assert units.age(seconds) == words


@pytest.mark.parametrize("text", ["1024x768", " 1024 X 768 ", "1024×768"])
def test_picture_sizes_are_width_then_height(text):
    assert units.parse_picture_size(text) == (1024, 768)


@pytest.mark.parametrize("text", ["", "1024", "x", "1024x", "100000x8", "10.0x8", "-8x8", "1x2x3"])
def test_text_that_is_not_a_picture_size_is_refused(text):
    with pytest.raises(UsageError) as refused:
        units.parse_picture_size(text)
    assert f"'{text}'" in refused.value.message and "1024x768" in refused.value.hint


@pytest.mark.parametrize("text", ["256..1536", " 256 .. 1536 ", "256-1536"])
def test_ranges_are_smallest_then_largest(text):
    assert units.parse_range(text) == (256, 1536)


@pytest.mark.parametrize("text", ["", "256", "256..", "..1536", "256...1536", "256..1536..", "100000..2"])
def test_text_that_is_not_a_range_is_refused(text):
    with pytest.raises(UsageError) as refused:
        units.parse_range(text)
    assert f"'{text}'" in refused.value.message and "256..1536" in refused.value.hint


def test_one_is_singular_and_every_other_count_plural():
    assert [units.plural(count, "picture") for count in (0, 1, 2)] == ["0 pictures", "1 picture", "2 pictures"]


@pytest.mark.parametrize(
    ("per_second", "words"),
    [
        (None, ""),
        (0, ""),
        (0.04, "25.0 s/picture"),
        (0.8, "1.25 s/picture"),
        (1, "1.00 pictures/s"),
        (35.24, "35.2 pictures/s"),
    ],
)
def test_speeds_below_one_a_second_are_written_as_seconds(per_second, words):
    assert units.rate(per_second, "picture", "pictures") == words
