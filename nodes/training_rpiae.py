"""Training of RPiAEs inside the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from comfy_api.v0_0_2 import io

from ..models.autoencoders.dinov2 import StoredDINOv2, read_dinov2
from ..models.autoencoders.rpiae_layout import StoredRPiAE, read_rpiae
from ..models.training.rpiae import RPiAESettings
from .dinov2 import DINOv2Vision
from .rpiae import RPiAEVAE, load_rpiae_vae
from .training import outcome, outputs, places_inputs, places_of, refuse_to_replace, train_in_host, widgets

SHOWN = (
    "stage",
    "steps",
    "batch",
    "crop",
    "learning_rate",
    "pivot",
    "perceptual",
    "adversarial",
    "adversarial_start",
    "patches",
    "channels",
    "decoder",
    "precision",
    "seed",
)


def base_of(base: Any) -> StoredDINOv2 | StoredRPiAE:
    """What a training starts from, as it is in its file. Raises ValueError for anything else."""
    # What is loaded will not do: it has been rounded to the precision that the host computes in.
    if isinstance(base, RPiAEVAE):
        return read_rpiae(base.path)
    if isinstance(base, DINOv2Vision):
        return read_dinov2(base.path)
    raise ValueError(
        f"base ({type(base).__name__}) is nothing that an RPiAE is trained from. Connect a DINOv2 with registers from Load "
        "DINOv2, or an RPiAE from Load RPiAE or from another Train RPiAE."
    )


def check_output(path: Path, base: Any) -> None:
    """Raise ValueError if a file is there that is no RPiAE which this node wrote, or is the base's own."""
    if path.resolve() == Path(getattr(base, "path", "")).resolve():
        raise ValueError(f"name: {path} is the file that is connected as base. Give another name.")
    if path.exists():
        try:
            ours = "stage" in read_rpiae(path).about
        except ValueError:
            ours = False
        if not ours:
            raise refuse_to_replace(path)


class ReEditTrainRPiAE(io.ComfyNode):
    settings: ClassVar[type[RPiAESettings]] = RPiAESettings

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditTrainRPiAE",
            display_name="ReEdit Train RPiAE",
            category="ReEdit/training",
            description="Trains an autoencoder on a vision model's tokens (RPiAE), on your pictures, one of its three stages "
            "at a time: the vision model held near what it was, the bridge to few channels, the decoder. A run that was "
            "stopped goes on when it is run again.",
            search_aliases=["train vae", "rae", "representation autoencoder", "dinov2"],
            inputs=[
                io.MultiType.Input(
                    "base",
                    types=[io.ClipVision, io.Vae],
                    tooltip="For the pivot stage a DINOv2 with registers from Load DINOv2; for the others the VAE of the "
                    "stage before. It is not changed.",
                ),
                *places_inputs("rpiae"),
                *widgets(cls.settings, SHOWN),
            ],
            outputs=outputs("After the pivot stage it has no latents yet; the next stage goes on from it.", "made"),
            is_output_node=True,
        )

    @classmethod
    def execute(cls, base: Any, pictures: str, name: str, **settings: Any) -> io.NodeOutput:
        # Transformers takes seconds to import, for which the host's start would have to wait.
        from ..models.training.train_rpiae import train_rpiae

        chosen, places = cls.settings(**settings), places_of(pictures, name)
        check_output(places.output, base)
        with torch.inference_mode(False):  # what is read inside it can never be trained
            stored = base_of(base)
        rows = train_in_host("ReEdit Train RPiAE", train_rpiae, stored, places, chosen)
        return outcome(cls, load_rpiae_vae(places.output), rows, places, chosen.steps)
