"""The timeline's layout: drawn on a small raster, and looked at there."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reedit.models.metrics.timeline_layout import Box, connect_steps, place_steps
from scipy import ndimage

# In pixels: the widest thumbnail, its height, what is written under it, the room between columns and rows, a line's end.
WIDTH, HEIGHT, CAPTION, GAP, STUB = 9, 7, 3, 6, 4


@st.composite
def sessions(draw):
    """(parents, current, columns) of any session of up to 40 edits."""
    count = draw(st.integers(0, 40))
    parents = [
        draw(st.integers(max(0, number - draw(st.integers(1, 40))), number - 1)) for number in range(1, count + 1)
    ]
    return parents, draw(st.integers(0, count)), draw(st.integers(1, 8))


def chain(length):
    return list(range(length))


def ancestors(parents, number):
    path = [number]
    while path[-1]:
        path.append(parents[path[-1] - 1])
    return path


def boxes_of(places):
    boxes = {}
    for number, place in enumerate(places):
        left, top = GAP + place.column * (WIDTH + GAP), GAP + place.row * (HEIGHT + CAPTION + GAP)
        boxes[number] = Box(left, top, left + WIDTH - number % 4, top + HEIGHT)
    return boxes


def shape_of(boxes):
    """The sheet's: with the whole of its last column, also where only narrow pictures stand there."""
    return (max(box.bottom for box in boxes.values()) + GAP, max(box.left for box in boxes.values()) + WIDTH + GAP)


def connectors_of(parents, places):
    gutters = [GAP // 2 + column * (WIDTH + GAP) for column in range(max(place.column for place in places) + 2)]
    return connect_steps(parents, places, boxes_of(places), gutters, STUB)


def drawn(connectors, shape):
    """A raster in which the pixels of the connectors are set."""
    raster = np.zeros(shape, bool)
    for connector in connectors:
        for (left, top), (right, bottom) in pairwise(connector.points):
            assert left == right or top == bottom, "lines run straight across or straight down"
            # A line ends at the first pixel of what it leads to, and does not cover it.
            across = slice(min(left, right), max(left, right) + (left == right))
            raster[min(top, bottom) : max(top, bottom) + 1, across] = True
    return raster


@given(sessions())
def test_every_step_has_a_place_of_its_own_right_of_its_parent(session):
    parents, current, columns = session
    places = place_steps(parents, current, columns)
    assert len(places) == len(parents) + 1 == len({(place.row, place.column) for place in places})
    for number, place in enumerate(places):
        depth = len(ancestors(parents, number)) - 1
        assert (place.system, place.column) == divmod(depth, columns)
    for child, parent in enumerate(parents, start=1):
        here, there = places[child], places[parent]
        assert here.row >= there.row, "time runs right and down"
        assert (here.system, here.column) in ((there.system, there.column + 1), (there.system + 1, 0))
    rows = {place.row for place in places}
    assert rows == set(range(len(rows))), "no row is empty"
    systems = {row: {place.system for place in places if place.row == row} for row in rows}
    assert all(len(those) == 1 for those in systems.values())
    assert [min(systems[row]) for row in sorted(rows)] == sorted(min(those) for those in systems.values())


@given(sessions())
def test_the_way_to_the_current_step_is_the_top_row(session):
    parents, current, columns = session
    places = place_steps(parents, current, columns)
    for step in ancestors(parents, current):
        assert places[step].row == min(place.row for place in places if place.system == places[step].system)


@given(sessions())
def test_no_line_crosses_a_thumbnail_its_caption_or_the_line_of_another_parent(session):
    parents, current, columns = session
    places = place_steps(parents, current, columns)
    boxes = boxes_of(places)
    shape = shape_of(boxes)
    covered = np.zeros(shape, int)
    for box in boxes.values():
        covered[box.top : box.bottom, box.left : box.right] += 1
        covered[box.bottom : box.bottom + CAPTION, box.left : box.left + WIDTH] += 1
    connectors = connectors_of(parents, places)
    for parent in set(parents):
        for entering in (False, True):  # a line's two ends, where a system lies between, are two lines
            ours = [one for one in connectors if one.parent == parent and (one.kind == "enters") == entering]
            covered += drawn(ours, shape)
    assert covered.max() == 1


@given(sessions())
@example((chain(4), 0, 4))  # the last column holds one narrow picture
def test_lines_lead_from_each_parent_to_each_of_its_children(session):
    parents, current, columns = session
    places = place_steps(parents, current, columns)
    boxes, connectors = boxes_of(places), connectors_of(parents, places)
    shape = shape_of(boxes)
    for child, parent in enumerate(parents, start=1):
        ours = {one.kind: one for one in connectors if one.child == child}
        assert all(one.parent == parent for one in ours.values())
        same_system = places[child].system == places[parent].system
        assert set(ours) == ({"within"} if same_system else {"leaves", "enters"})
        pieces, count = ndimage.label(drawn(ours.values(), shape))
        from_parent = pieces[boxes[parent].middle, boxes[parent].right]
        to_child = pieces[boxes[child].middle, boxes[child].left - 1]
        assert from_parent and to_child
        if same_system:
            assert count == 1
        else:  # out at the right edge, and in at the left
            assert pieces[:, boxes[parent].left + WIDTH + GAP // 2].max() == from_parent
            assert pieces[:, GAP // 2].max() == to_child


@pytest.mark.parametrize("columns", [1, 6, 64])
def test_a_long_line_of_edits_wraps(columns):
    """Long enough that nothing may call itself once for each edit."""
    places = place_steps(chain(2000), 2000, columns)
    assert max(place.row for place in places) == 2000 // columns
    assert max(place.column for place in places) == columns - 1


def test_forty_branches_of_one_step_stand_below_each_other():
    places = place_steps([0] * 40, 7, 6)
    assert places[7].row == 0
    assert sorted(place.row for place in places[1:]) == list(range(40))


def test_branches_share_a_row_where_there_is_room():
    """A branch from step 3 and one from step 1, each one step long, stand in different columns of one row."""
    places = place_steps([0, 1, 2, 3, 3, 1], 4, 6)
    assert [place.row for place in places] == [0, 0, 0, 0, 0, 1, 1]
    assert places[6].column < places[5].column


def test_an_older_branch_goes_on_straight_where_none_is_current():
    places = place_steps([0, 1, 0, 2, 2], 3, 6)
    assert [places[number].row for number in (0, 3)] == [0, 0]
    assert places[1].row == places[2].row == places[4].row != places[5].row
