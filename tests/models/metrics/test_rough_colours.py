import torch
from reedit.models.metrics.rough_colours import fit_colours, rough_pictures
from reedit.models.session.record import EditRecord


def test_colours_that_are_linear_in_the_cells_are_found_again():
    samples, map_to_colours = torch.randn(1, 4, 8, 12), torch.randn(4, 3) * 0.05
    colours = torch.einsum("bchw,ck->bhwk", samples, map_to_colours) + 0.5
    picture = colours.repeat_interleave(8, 1).repeat_interleave(8, 2)
    record = EditRecord(samples)
    edited = samples.clone()
    edited[..., 2:4, 3:9] += 0.5
    record = record.with_edit(edited, "a", "t")
    other = record.at(0).with_edit(samples.flip(-1), "b", "t")
    found = rough_pictures(other, fit_colours(samples, picture), [0, 1, 2])
    for number, latent in enumerate((samples, edited, samples.flip(-1))):
        expected = torch.einsum("bchw,ck->bhwk", latent, map_to_colours)[0] + 0.5
        torch.testing.assert_close(found[number], expected.clamp(0, 1), atol=2e-3, rtol=0)


def test_a_video_and_a_change_of_size_are_shown_by_their_first_picture():
    record = EditRecord(torch.randn(2, 4, 3, 4, 4)).with_edit(torch.randn(1, 4, 2, 6, 5), "resized", "t")
    colours = fit_colours(record.source, torch.rand(9, 32, 32, 3))
    found = rough_pictures(record, colours, [0, 1])
    assert found[0].shape == (4, 4, 3) and found[1].shape == (6, 5, 3)


def test_a_picture_of_one_colour_can_be_fitted():
    colours = fit_colours(torch.zeros(1, 4, 4, 4), torch.full((1, 32, 32, 3), 0.25))
    assert bool(colours.isfinite().all())
    (grey,) = rough_pictures(EditRecord(torch.zeros(1, 4, 4, 4)), colours, [0]).values()
    torch.testing.assert_close(grey, torch.full((4, 4, 3), 0.25), atol=1e-3, rtol=0)
