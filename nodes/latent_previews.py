"""Quick pictures of latents, made by the host's own previewers: rough, but without a VAE and at almost no cost."""

from __future__ import annotations

from typing import Any

import comfy.utils
import folder_paths
import latent_preview
import numpy as np
import torch
from comfy.sd import VAE
from comfy.taesd.taesd import TAESD
from torch import Tensor

from ..models.cells import check_samples


class QuickDecoder:
    """Pictures of a model's latents: by TAESD if its weights are in models/vae_approx, else by a linear map to colours.

    The host chooses its previewer by its setting --preview-method, which is off by default and about sampling; this one is
    there whenever a node asks for it. ValueError if the host knows neither for this model.
    """

    def __init__(self, model: Any) -> None:
        self.latent_format = model.get_model_object("latent_format")
        self.device = model.load_device
        self.previewer = self._find_previewer()

    def _find_previewer(self) -> latent_preview.LatentPreviewer:
        name = self.latent_format.taesd_decoder_name
        files = folder_paths.get_filename_list("vae_approx") if name else []
        file = next((file for file in files if file.startswith(name)), None)
        if file is not None:
            return self._load_taesd(folder_paths.get_full_path_or_raise("vae_approx", file))
        if self.latent_format.latent_rgb_factors is None:
            raise ValueError(
                "model has latents of a kind that the host has no quick preview for. Connect vae: the VAE that belongs to it."
            )
        return latent_preview.Latent2RGBPreviewer(
            self.latent_format.latent_rgb_factors,
            self.latent_format.latent_rgb_factors_bias,
            self.latent_format.latent_rgb_factors_reshape,
        )

    def _load_taesd(self, path: str) -> latent_preview.LatentPreviewer:
        if self.latent_format.taesd_decoder_name in latent_preview.VIDEO_TAES:
            decoder = VAE(comfy.utils.load_torch_file(path))
            decoder.first_stage_model.show_progress_bar = False
            return latent_preview.TAEHVPreviewerImpl(decoder)
        channels = self.latent_format.latent_channels
        return latent_preview.TAESDPreviewerImpl(TAESD(None, path, latent_channels=channels).to(self.device))

    def check(self, samples: Tensor) -> None:
        """Raise ValueError for a latent that is not one of this model's."""
        check_samples(samples)
        if samples.shape[1] != self.latent_format.latent_channels:
            raise ValueError(
                f"samples has {samples.shape[1]} channels, but this model works on latents of "
                f"{self.latent_format.latent_channels}. Connect the model that made the latent, or its VAE to vae."
            )

    def decode(self, samples: Tensor) -> Tensor:
        """A latent as (B, H, W, 3) in 0..1, of a video the first frame. One pixel or more for each cell."""
        frames = samples[:, :, :1] if samples.ndim == 5 else samples[:, :, None]
        if self.latent_format.latent_dimensions != 3:
            frames = frames[:, :, 0]
        scaled = self.latent_format.process_in(frames.float().to(self.device))
        images = [self.previewer.decode_latent_to_preview(scaled[index : index + 1]) for index in range(len(scaled))]
        return torch.stack([torch.from_numpy(np.asarray(image, np.float32) / 255) for image in images])
