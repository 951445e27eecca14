import torch
from reedit.models.session.record import EditRecord
from reedit.models.session.step_name import step_names


def test_the_same_changes_in_another_process_have_the_same_names():
    def session() -> EditRecord:
        generator = torch.Generator().manual_seed(1)
        source = torch.randn(1, 4, 8, 8, generator=generator)
        record = EditRecord(source).with_edit(source + 1, "a", "t")
        changed = source.clone()
        changed[..., :2, :2] = 0
        return record.at(0).with_edit(changed, "b", "t")

    assert step_names(session()) == step_names(session())
    assert len(set(step_names(session()))) == 3


def test_the_name_depends_on_the_way_and_not_on_the_label():
    source = torch.randn(1, 4, 8, 8)
    plus, changed = source + 1, source.clone()
    changed[..., :2, :2] = 0
    first = EditRecord(source).with_edit(plus, "a", "t").with_edit(changed, "b", "t")
    other = EditRecord(source).with_edit(plus, "c", "u").with_edit(changed, "d", "u")
    direct = EditRecord(source).with_edit(changed, "b", "t")
    assert step_names(first) == step_names(other)
    assert step_names(direct)[1] not in step_names(first)


def test_values_that_only_differ_in_place_have_other_names():
    source = torch.zeros(1, 4, 8, 8)
    left, right = source.clone(), source.clone()
    left[..., 0, 0], right[..., 0, 1] = 1, 1
    names = {step_names(EditRecord(source).with_edit(samples, "a", "t"))[1] for samples in (left, right)}
    assert len(names) == 2
