"""A VAE whose decoding is corrected by its own encoder."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sd
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..models.autoencoders.chain import Network
from ..models.autoencoders.correction import decode_corrected
from .tiled_vae import TILE_CELLS, decode_picture, encode_picture
from .vae_checks import check_latent_fits, check_one_each, check_picture_vae, encoding_vae, pixels_per_cell

MOST_CORRECTIONS = 8
# Of the demo's VAE, after 25 passes: 20.5 dB without, 31.9 with one, 35.1 with two, 36.0 with three (dev.py bench reed).
DEFAULT_CORRECTIONS = 2


class CorrectedVAE(comfy.sd.VAE):
    """The host's VAE object of another one, which is not changed: all is its own but that decoding is corrected."""

    def __init__(self, vae: Any, corrections: int) -> None:
        self.__dict__.update(vars(vae))  # one network and one memory management for both
        self.corrected, self.corrections = vae, corrections
        self.base_vae = encoding_vae(vae)

    def decode(self, samples_in: Tensor, vae_options: Any = None) -> Tensor:
        """A latent to pictures, (B, H, W, 3) in 0..1; (B, 1, H, W, 3) where the VAE is one of videos."""
        options = {} if vae_options is None else {"vae_options": vae_options}
        return self._decode(samples_in, self.encode, lambda latent: self.corrected.decode(latent, **options))

    def decode_tiled(self, samples: Tensor, tile_x: int = TILE_CELLS, tile_y: int = TILE_CELLS, **_: Any) -> Tensor:
        """The same, in tiles of so many cells; ours for a VAE that they are for, which need no overlap."""
        side = min(tile_x or TILE_CELLS, tile_y or TILE_CELLS) * pixels_per_cell(self)
        return self._decode(
            samples,
            lambda picture: encode_picture(self.corrected, picture, side),
            lambda latent: decode_picture(self.corrected, latent, side),
        )

    def _decode(self, samples: Tensor, encode: Network, decode: Network) -> Tensor:
        check_latent_fits(samples, self)
        if self.latent_dim == 2 and samples.ndim == 5:
            samples = samples[:, :, 0]  # as the host does
        framed = samples.ndim == 5
        if framed and samples.shape[2] != 1:
            raise ValueError(
                f"samples is a video of {samples.shape[2]} latent frames, and decoding is corrected for pictures only. "
                "Decode it with the VAE itself."
            )

        def read(pictures: Tensor) -> Tensor:
            # Of several pictures the host would make one video.
            return torch.cat([encode(part) for part in (pictures.split(1) if framed else [pictures])])

        def show(latent: Tensor) -> Tensor:
            shown = decode(latent)
            pictures = shown.flatten(0, 1) if framed else shown
            check_one_each(pictures, latent, "vae")
            return pictures

        interruptible = comfy.model_management.throw_exception_if_processing_interrupted
        pictures = decode_corrected(read, show, samples, self.corrections, interruptible)
        return pictures[:, None] if framed else pictures

    def encode(self, pixel_samples: Tensor) -> Tensor:
        return self.base_vae.encode(pixel_samples)

    def encode_tiled(self, *pixels: Any, **sizes: Any) -> Tensor:
        return self.base_vae.encode_tiled(*pixels, **sizes)

    def get_sd(self) -> dict[str, Tensor]:
        return self.corrected.get_sd()


class ReEditCorrectDecoding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditCorrectDecoding",
            display_name="Correct VAE Decoding",
            category="ReEdit/autoencoders",
            description="Makes a VAE decode to pictures that its encoder reads as the latent they were decoded from, so that "
            "they survive many more round trips. Nothing is trained.",
            search_aliases=["vae drift", "consistent decode", "round trip", "reed"],
            inputs=[
                io.Vae.Input("vae", tooltip="Any VAE of pictures. It stays as it is."),
                io.Int.Input(
                    "corrections",
                    default=DEFAULT_CORRECTIONS,
                    min=0,
                    max=MOST_CORRECTIONS,
                    tooltip="How often a decoded picture is encoded, compared with its latent and decoded again. Each costs "
                    "a decode and an encode more; the first two are most of the gain. 0: none.",
                ),
            ],
            outputs=[
                io.Vae.Output(
                    tooltip="Encodes as before, and works in every node that takes a VAE, the host's own included."
                )
            ],
        )

    @classmethod
    def execute(cls, vae: Any, corrections: int) -> io.NodeOutput:
        check_picture_vae(vae, "vae")
        if not 0 <= corrections <= MOST_CORRECTIONS:
            raise ValueError(f"corrections is {corrections}, and must be 0 to {MOST_CORRECTIONS}.")
        return io.NodeOutput(CorrectedVAE(vae, corrections))
