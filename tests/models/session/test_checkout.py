import pytest
import torch
from reedit.models.session.checkout import find_step, list_steps
from reedit.models.session.record import EditRecord


@pytest.fixture
def record() -> EditRecord:
    """source - 1 red - 2 blue, and from 1 a branch: 3 Blue - 4 "back 9"; the current step is 4."""
    start = EditRecord(torch.randn(1, 4, 2, 2))
    for parent, label in ((0, "red"), (1, "make it blue"), (1, "Make it  Blue"), (3, "back 9")):
        start = start.at(parent).with_edit(torch.randn(1, 4, 2, 2), label, "t")
    return start


@pytest.mark.parametrize(
    "wanted, number",
    [
        *[("0", 0), ("source", 0), ("4", 4), (" 2 ", 2), ("red", 1), ("RED", 1), ("make it blue", 3)],
        *[("back", 3), ("back 1", 3), ("Back 2", 1), ("back 3", 0), ("back 0", 4)],
    ],
)
def test_a_step_is_found_by_number_label_or_distance(record, wanted, number):
    assert find_step(record, wanted) == number


def test_back_follows_the_branch_of_the_current_step(record):
    assert find_step(record.at(2), "back 1") == 1


@pytest.mark.parametrize("wanted", ["5", "", "-1", "green", "source 1", "back one"])
def test_what_is_not_there_is_answered_with_what_is(record, wanted):
    with pytest.raises(
        ValueError, match="(?s)is not in this session.*0. source\n1. red\n2. make it blue\n3. .*made on 1"
    ):
        find_step(record, wanted)


def test_going_back_before_the_source_says_how_far_it_goes(record):
    with pytest.raises(ValueError, match="has 3 edits before it, so going back 4 is not possible"):
        find_step(record, "back 4")


def test_a_long_session_lists_its_newest_steps(record):
    lines = list_steps(record, limit=2).splitlines()
    assert lines == ["… 3 more before these", "3. Make it  Blue (made on 1)", "4. back 9  ← current"]
