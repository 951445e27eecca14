"""Finding a step of a session by what a person calls it."""

from __future__ import annotations

from .record import SOURCE, EditRecord

LISTED = 30  # steps named in an error


def find_step(record: EditRecord, wanted: str) -> int:
    """The number of the step that `wanted` names.

    "3": edit 3. "0" or "source": the source. "back 2": two edits before the current one, along its own branch; "back" is
    one. Anything else is a label, in any case; of several edits with that label the newest. ValueError where there is none.
    """
    words = wanted.strip().lower().split()
    if words == ["source"]:
        return SOURCE
    if len(words) == 1 and words[0].isdecimal() and int(words[0]) <= len(record.edits):
        return int(words[0])
    if words and words[0] == "back" and (len(words) == 1 or (len(words) == 2 and words[1].isdecimal())):
        return _step_back(record, int(words[1]) if len(words) == 2 else 1)
    found = [edit.number for edit in record.edits if edit.label.lower().split() == words]
    if found:
        return found[-1]
    raise ValueError(
        f"edit “{wanted}” is not in this session. Give a number, a label, “back 1”, or “source”. "
        f"The session has:\n{list_steps(record)}"
    )


def _step_back(record: EditRecord, steps: int) -> int:
    path = record.path_to(record.current)
    if steps >= len(path):
        raise ValueError(
            f"edit: the current step has {len(path) - 1} edits before it, so going back {steps} is not possible. "
            "“source” goes back to the beginning."
        )
    return path[-1 - steps]


def list_steps(record: EditRecord, limit: int = LISTED) -> str:
    """The steps of a session, one line each: number, label, and what it was made on where that is not the step before.

    The current step is marked. Of a session longer than `limit` only the newest are listed.
    """
    lines = ["0. source"]
    for edit in record.edits:
        branch = "" if edit.parent == edit.number - 1 else f" (made on {edit.parent})"
        lines.append(f"{edit.number}. {edit.label}{branch}")
    lines[record.current] += "  ← current"
    left_out = [f"… {len(lines) - limit} more before these"] if len(lines) > limit else []
    return "\n".join(left_out + lines[-limit:])
