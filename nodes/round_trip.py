"""What a VAE does to pictures that go through it again and again."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.v0_0_2 import io, ui
from torch import Tensor

from ..models.files import write_beside
from ..models.metrics.round_trip import Pass, RoundTrip, round_trip
from ..models.metrics.round_trip_plot import plot_round_trips, round_trip_sheet
from ..models.metrics.round_trip_text import as_data, describe_round_trips
from ..models.metrics.timeline_thumbnail import to_image
from .autoencoders import decode_pictures, fit_to_cells
from .reports import as_json
from .vae_checks import check_one_each, check_picture, check_picture_vae, pixels_per_cell

NAMES = {"vae": "VAE", "other_vae": "other VAE"}  # in figures and plots, by the socket
KEPT = "reedit/round_trip"  # in the host's output folder: what was done before an interrupt


def fit_to_all(images: Tensor, vaes: Sequence[Any]) -> Tensor:
    """Check the pictures, and crop them around their centre to whole cells of every VAE, as each would do by itself."""
    pictures = check_picture(images, "images")
    if not len(pictures):
        raise ValueError("images is an empty batch. Connect at least one picture.")
    cell = math.lcm(*map(pixels_per_cell, vaes))
    height, width = pictures.shape[1:3]
    if min(height, width) < cell:
        of = "this VAE" if len(vaes) == 1 else "both VAEs together"
        raise ValueError(f"images is {width}×{height}, smaller than one latent cell of {of} ({cell}×{cell}).")
    return fit_to_cells(pictures, cell, "crop")


def save_what_is_done(trips: Sequence[RoundTrip], eight_bit: bool, thumbnail: int, passes: int) -> None:
    """Write the figures, the plot and the sheet of the passes that are done into the output folder, and log where.

    A full disk is logged too: what stopped the test is not to be hidden by it.
    """
    done = len(trips[0].figures)
    if not done:
        return
    try:
        folder, stem, number, *_ = folder_paths.get_save_image_path(KEPT, folder_paths.get_output_directory())
        path = Path(folder) / f"{stem}_{number:05}.png"
        for picture, file in (
            (plot_round_trips(trips), path),
            (round_trip_sheet(trips, thumbnail), path.with_name(f"{path.stem}_sheet.png")),
        ):
            png = BytesIO()
            to_image(picture).save(png, "PNG")
            write_beside(file, png.getvalue())
        write_beside(path.with_suffix(".json"), as_json(as_data(trips, eight_bit)).encode())
    except OSError as error:
        logging.error(
            "ReEdit Round-Trip Test stopped after %d of %d passes, which cannot be saved: %s", done, passes, error
        )
    else:
        logging.warning("ReEdit Round-Trip Test stopped after %d of %d passes; they are kept in %s", done, passes, path)


class ReEditRoundTripTest(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditRoundTripTest",
            display_name="ReEdit Round-Trip Test",
            category="ReEdit/drift",
            description="Encodes and decodes your pictures again and again with one VAE, or with two side by side, and "
            "measures what each pass did to them: whether a VAE is worth using for many edits.",
            search_aliases=["vae test", "compare vae", "reed", "psnr", "degradation"],
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="Your pictures, of any size. Each is cropped around its centre to whole cells of the VAE, as the "
                    "VAE itself would do; with two VAEs to whole cells of both. They go through one by one.",
                ),
                io.Vae.Input("vae", tooltip="The VAE to test."),
                io.Vae.Input(
                    "other_vae",
                    optional=True,
                    tooltip="Another one to test beside it. It may have another ratio, and latents of other channels.",
                ),
                io.Int.Input(
                    "passes",
                    default=25,
                    min=1,
                    max=200,
                    tooltip="How many times to encode and decode. Interrupting keeps the passes that are done, in "
                    "ComfyUI's output folder under reedit.",
                ),
                io.Boolean.Input(
                    "eight_bit",
                    default=True,
                    tooltip="Round to 8 bits after each pass, as if every edit were saved as a file and opened again.",
                ),
                io.Int.Input(
                    "thumbnail",
                    default=256,
                    min=64,
                    max=2048,
                    step=32,
                    optional=True,
                    tooltip="The longer side of each picture on the sheet, in pixels.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="The figures over the passes, and the spectra."),
                io.Image.Output(
                    display_name="sheet",
                    tooltip="The first four pictures, a row for each VAE: the original, and what it was after passes 1, 5, "
                    "15, 25, 50, 100, 200 and the last.",
                ),
                io.String.Output(display_name="report", tooltip="All figures, as JSON."),
                io.String.Output(display_name="summary", tooltip="The test in a few sentences."),
                io.Image.Output(display_name="last", tooltip="Your pictures after the last pass through vae."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        vae: Any,
        other_vae: Any = None,
        passes: int = 25,
        eight_bit: bool = True,
        thumbnail: int = 256,
    ) -> io.NodeOutput:
        vaes = {"vae": vae} if other_vae is None else {"vae": vae, "other_vae": other_vae}
        for socket, given in vaes.items():
            check_picture_vae(given, socket)
        originals = fit_to_all(images, list(vaes.values()))
        trips = [RoundTrip(NAMES[socket], originals) for socket in vaes]
        try:
            run(trips, vaes, passes, eight_bit)
        except BaseException:  # the host's interrupt is no Exception; whatever stops the test, the passes done are kept
            save_what_is_done(trips, eight_bit, thumbnail, passes)
            raise
        plot, sheet = plot_round_trips(trips)[None], round_trip_sheet(trips, thumbnail)[None]
        report, summary = as_json(as_data(trips, eight_bit)), describe_round_trips(trips, eight_bit)
        shown = ui.PreviewImage(plot, cls=cls).as_dict()
        shown["images"] = [*shown["images"], *ui.PreviewImage(sheet, cls=cls).as_dict()["images"]]
        last = torch.stack(trips[0].last)
        return io.NodeOutput(plot, sheet, report, summary, last, ui={**shown, "text": (report, summary)})


def run(trips: Sequence[RoundTrip], vaes: Mapping[str, Any], passes: int, eight_bit: bool) -> None:
    """Send the pictures of `trips` through the VAEs, pass by pass, so that all have done as many when it is stopped.

    vaes: by their sockets.
    """
    progress = comfy.utils.ProgressBar(passes * len(vaes) * len(trips[0].originals))

    def after_each() -> None:
        progress.update(1)
        # The bar looks for an interrupt only as often as it is drawn.
        comfy.model_management.throw_exception_if_processing_interrupted()

    def passes_of(trip: RoundTrip, socket: str) -> Iterator[Pass]:
        vae = vaes[socket]

        def encode(picture: Tensor) -> Tensor:
            return vae.encode(picture.movedim(1, -1))

        def decode(latent: Tensor) -> Tensor:
            picture = decode_pictures(vae, latent)[..., :3]
            check_one_each(picture, latent, socket)
            # A picture from a file lies otherwise in memory than a decoded one, and convolutions round accordingly.
            return (picture.contiguous() if eight_bit else picture).movedim(-1, 1)

        return round_trip(encode, decode, trip.originals, passes, eight_bit, after_each=after_each, name=trip.name)

    for done in zip(*map(passes_of, trips, vaes), strict=True):
        for trip, one in zip(trips, done, strict=True):
            trip.add(one)
