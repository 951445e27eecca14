"""Where each step of a session stands on its contact sheet, and how the lines between the steps run.

The sheet reads like a score. Time runs to the right: a step's column is its depth, the number of edits since the source.
After the last column the sheet goes on in another system (a group of rows) below. The steps of a branch stand in one row,
which other branches share where there is room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Literal

Point = tuple[int, int]  # pixels from the left, pixels from the top


@dataclass(frozen=True)
class Place:
    """A step's place on the sheet. Rows are counted over the whole sheet, columns and systems from 0."""

    system: int
    row: int
    column: int


@dataclass(frozen=True)
class Box:
    """The pixels that a thumbnail covers; right and bottom are the first that it does not."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def middle(self) -> int:
        """Its height on the sheet halfway down, in pixels from the top."""
        return (self.top + self.bottom) // 2


@dataclass(frozen=True)
class Connector:
    """A line to `child` from `parent`, by its corners. "leaves" and "enters": its two ends, where a system lies between."""

    kind: Literal["within", "leaves", "enters"]
    parent: int
    child: int
    points: tuple[Point, ...]


def main_line(parents: Sequence[int], current: int) -> frozenset[int]:
    """The numbers on the way from the source, 0, to `current`. parents[i] is the parent of step i + 1."""
    path = {0}
    while current:
        path.add(current)
        current = parents[current - 1]
    return frozenset(path)


def find_depths(parents: Sequence[int]) -> list[int]:
    """The number of edits from the source to each step; the source comes first, with 0."""
    depths = [0]
    for parent in parents:
        depths.append(depths[parent] + 1)
    return depths


def find_branches(parents: Sequence[int], current: int) -> list[list[int]]:
    """The steps in lines without a fork, each from its first step on: first the one that leads to `current`.

    A line goes on with the child on the way to the current step, otherwise with the oldest; its other children begin lines of
    their own. Of the lines that leave another the latest comes first, each followed by those that leave it in turn.
    """
    children: list[list[int]] = [[] for _ in range(len(parents) + 1)]
    for child, parent in enumerate(parents, start=1):
        children[parent].append(child)
    path = main_line(parents, current)
    branches, waiting = [], [0]
    while waiting:
        branch = [waiting.pop()]
        while following := children[branch[-1]]:
            on = next((child for child in following if child in path), following[0])
            waiting += reversed([child for child in following if child != on])
            branch.append(on)
        branches.append(branch)
    return branches


def place_steps(parents: Sequence[int], current: int, columns: int) -> list[Place]:
    """The place of each step, the source first.

    parents: the parent of each edit, 0 for the source; every edit comes after its parent. current: the number of the step
    whose branch is the top row. columns: steps in one row, at least 1.

    A branch goes as high as it can below everything that stands in its columns already. In the order of `find_branches` this
    keeps the lines between the steps from crossing: what is placed later leaves further left, and hangs further down.
    """
    depths = find_depths(parents)
    rows = [0] * len(depths)  # within the system
    lowest = [-1] * (max(depths) + 1)  # at each depth, the lowest row so far
    for branch in find_branches(parents, current):
        for _, part in groupby(branch, key=lambda step: depths[step] // columns):
            steps = list(part)
            row = 1 + max(lowest[depths[step]] for step in steps)
            for step in steps:
                rows[step] = lowest[depths[step]] = row
    heights = [1 + max(lowest[start : start + columns]) for start in range(0, len(lowest), columns)]
    above = list(accumulate(heights, initial=0))
    return [
        Place(system=depth // columns, row=above[depth // columns] + row, column=depth % columns)
        for depth, row in zip(depths, rows, strict=True)
    ]


def connect_steps(
    parents: Sequence[int], places: Sequence[Place], boxes: Mapping[int, Box], gutters: Sequence[int], stub: int
) -> list[Connector]:
    """The lines between each step and its parent.

    boxes: each step's thumbnail; those of one row have the same middle. gutters: the middle, in pixels from the left, of the
    room before each column and after the last one. stub: the length in pixels of a line that goes on in another system.
    """
    connectors: list[Connector] = []
    first_child: dict[int, int] = {}  # of the children that begin a system: the one whose line comes from the margin
    for child, parent in enumerate(parents, start=1):
        here, there = boxes[child], boxes[parent]
        gutter = gutters[places[child].column]
        if places[parent].system == places[child].system:
            start: Point = (there.right, there.middle)
            connectors.append(Connector("within", parent, child, _elbow(start, gutter, here)))
            continue
        if parent not in first_child:
            first_child[parent] = min(
                (other for other, its_parent in enumerate(parents, start=1) if its_parent == parent),
                key=lambda other: places[other].row,
            )
        leaving = ((there.right, there.middle), (gutters[places[parent].column + 1] + stub // 2, there.middle))
        connectors.append(Connector("leaves", parent, child, leaving))
        start = (gutter - stub // 2, boxes[first_child[parent]].middle)
        connectors.append(Connector("enters", parent, child, _elbow(start, gutter, here)))
    return connectors


def _elbow(start: Point, gutter: int, end: Box) -> tuple[Point, ...]:
    """Straight where both ends are of one height, otherwise down in the gutter."""
    if start[1] == end.middle:
        return (start, (end.left, end.middle))
    return (start, (gutter, start[1]), (gutter, end.middle), (end.left, end.middle))
