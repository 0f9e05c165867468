import numpy as np
import pytest

from ipa_cli.sweep import difference
from tests.sweep.folders import draw, make


def test_the_difference_of_known_pictures():
    black = np.zeros((4, 4, 3), np.uint8)
    one = black.copy()
    one[0, 0] = (255, 0, 0)
    assert difference.difference(black, black) == (0, 0)
    assert difference.difference(black, one) == difference.difference(one, black) == (255 / 48, 1 / 16)
    assert difference.difference(black, 255 - black) == (255, 1)


def test_neighbours_are_compared_within_their_row(tmp_path):
    drawn = draw(tmp_path, make())
    changes, frozen = difference.compare(tmp_path, drawn.outcomes)
    assert [(change.row, change.before, change.after) for change in changes] == [
        (row, before, after) for row in (1, 2) for before, after in ((0, 0.5), (0.5, 1))
    ]
    assert all(change.mean > 0 and 0 < change.share < 1 for change in changes)
    assert frozen == ()


def test_scales_with_the_same_picture_are_found_though_their_files_differ(tmp_path):
    # Scale 1 of the first row repeats scale 0, which is not its neighbour.
    drawn = draw(tmp_path, make(), frozen={3})
    first, third = (tmp_path / drawn.sweep.points[n].file for n in (0, 2))
    third.write_bytes(first.read_bytes() + b"another file, the same pixels")
    frozen = difference.compare(tmp_path, drawn.outcomes)[1]
    assert [(same.row, same.scales) for same in frozen] == [(1, (0, 1))]
    assert str(frozen[0]) == "row 1: the scales 0 and 1 gave the same picture"


def test_identical_pictures_at_all_scales_are_one_report(tmp_path):
    drawn = draw(tmp_path, make(), frozen=range(1, 7))
    changes, frozen = difference.compare(tmp_path, drawn.outcomes)
    assert [same.scales for same in frozen] == [(0, 0.5, 1)] * 2
    assert all(change.mean == 0 and change.share == 0 for change in changes)
    assert str(frozen[1]) == "row 2: the scales 0, 0.5 and 1 gave the same picture"


def test_the_same_picture_in_two_rows_is_not_reported(tmp_path):
    drawn = draw(tmp_path, make(), frozen={1, 4})
    assert difference.compare(tmp_path, drawn.outcomes)[1] == ()


@pytest.mark.parametrize("failed, left", [({2}, [(1, 0, 1)]), ({1, 2}, []), ({1, 2, 3}, [])])
def test_failed_points_are_skipped(tmp_path, failed, left):
    drawn = draw(tmp_path, make(references=("cat.png",)), failed=failed)
    changes, frozen = difference.compare(tmp_path, drawn.outcomes)
    assert [(change.row, change.before, change.after) for change in changes] == left
    assert frozen == ()
