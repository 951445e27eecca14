"""eps-VAE decoders in the host: loading one, and decoding with it."""

from __future__ import annotations

import copy
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor, nn

from ..models.autoencoders.encoder_match import find_mismatch, read_marks
from ..models.autoencoders.epsilon_layout import EpsilonConfig, StoredEpsilonDecoder, read_epsilon_decoder
from ..models.autoencoders.epsilon_tiles import velocity_in_tiles
from ..models.autoencoders.kl_layout import describe_faults, find_faults
from ..models.session.record import observe, with_record
from .autoencoders import DTYPES, WEIGHT_FILES
from .host_layers import use_host_layers
from .tiled_vae import TILE_CELLS, TILE_TOOLTIP
from .vae_checks import check_latent_fits, encoder_of, encoding_vae, pixels_per_cell

if TYPE_CHECKING:  # diffusers takes seconds to import, and the host starts without it
    from ..models.autoencoders.epsilon import EpsilonDecoder

MOST_STEPS = 10
# The paper's decoders are best at one to three steps and worse beyond (section 4.3). It settles on three (table 5); of size M
# it gives 27.65 dB (table 2), and 26.45 with one step (table 3), at a third of the cost.
DEFAULT_STEPS = 3


class EpsilonNetwork(nn.Module):
    """What the host holds as the network of an eps-VAE: a decoder, with the steps and the seed that it decodes with."""

    def __init__(self, decoder: EpsilonDecoder, steps: int, seed: int) -> None:
        super().__init__()
        self.decoder = decoder
        use_host_layers(decoder)
        self.steps, self.seed, self.shows_progress = steps, seed, False

    def decode(self, latent: Tensor) -> Tensor:
        """A latent, (B, C, h, w), to pictures, (B, 3, H, W), about 0..1, at once."""
        progress = comfy.utils.ProgressBar(self.steps) if self.shows_progress else None

        def after(step: int) -> None:
            if progress is not None:
                progress.update_absolute(step)
            comfy.model_management.throw_exception_if_processing_interrupted()

        return self.decoder.decode(latent, self.seed, self.steps, on_step=after)

    def decode_tiled(
        self, latent: Tensor, tile_x: int = TILE_CELLS, tile_y: int = TILE_CELLS, overlap: int | None = None, **_: Any
    ) -> Tensor:
        """The same, in tiles. latent: where the network is; tile_x, tile_y: cells; overlap: is not needed."""
        device, side = latent.device, min(tile_x, tile_y) * self.decoder.config.ratio
        if overlap is not None:  # it was the host that asked
            logging.warning(
                "ReEdit: the eps-VAE decodes in tiles of %d×%d pixels, all of one noise: the picture is that of decoding it "
                "at once, and no overlap is needed.",
                side,
                side,
            )
        progress, done = comfy.utils.ProgressBar(self.steps), 0  # steps that are done

        def advance(tile: int, tiles: int) -> None:
            progress.update_absolute(done * tiles + tile, self.steps * tiles)
            comfy.model_management.throw_exception_if_processing_interrupted()

        def after(step: int) -> None:
            nonlocal done
            done = step

        velocity = partial(velocity_in_tiles, self.decoder, tile=side, device=device, advance=advance)
        # Maps are kept where the latent lies, and the device has no room for them.
        return self.decoder.decode(latent.cpu(), self.seed, self.steps, velocity, after)


class EpsilonVAE(comfy.sd.VAE):
    """The host's VAE object of an eps-VAE decoder: it encodes with base_vae, which is not changed, and decodes by denoising.

    What the host's nodes ask of a VAE's latents and pictures is the base's answer; its memory management has the decoder.
    """

    def __init__(
        self, base_vae: Any, decoder: EpsilonDecoder, steps: int, seed: int, dtype: torch.dtype | None = None
    ) -> None:
        self.__dict__.update(vars(base_vae))  # the host's own constructor builds the networks that it knows
        self.base_vae = base_vae
        management = comfy.model_management
        self.vae_dtype = dtype or management.vae_dtype(self.device, [torch.bfloat16, torch.float32])
        self.first_stage_model = EpsilonNetwork(decoder, steps, seed).eval().to(self.vae_dtype)
        management.archive_model_dtypes(self.first_stage_model)
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            self.first_stage_model, load_device=self.device, offload_device=management.vae_offload_device()
        )
        self.size = None
        self.model_size()
        self.process_output = lambda image: image.clamp_(0, 1)
        self.handles_tiling = True  # the host's own tiles would each have a noise, and colours, of their own
        self.memory_used_decode = lambda shape, dtype: memory_used(decoder.config, shape, dtype)

    def decode(self, samples_in: Tensor, vae_options: Any = None) -> Tensor:
        """A latent to pictures, (B, H, W, 3) in 0..1. vae_options: of other VAEs' networks, and not used."""
        self.config.check_latent(samples_in.shape)  # the host would take a video's first frame
        return super().decode(samples_in)

    def decode_tiled(self, samples: Tensor, *sizes: Any, **named: Any) -> Tensor:
        self.config.check_latent(samples.shape)
        return super().decode_tiled(samples, *sizes, **named)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        return self.base_vae.encode(pixel_samples)

    def encode_tiled(self, *pixels: Any, **sizes: Any) -> Tensor:
        return self.base_vae.encode_tiled(*pixels, **sizes)

    def get_sd(self) -> dict[str, Tensor]:
        """The base's tensors: a checkpoint that is saved with this VAE can be loaded."""
        logging.warning(
            "ReEdit: the tensors of an eps-VAE were asked for, and those of its base VAE were given: files of VAEs and "
            "checkpoints have no place for its decoder, which stays in its own file."
        )
        return self.base_vae.get_sd()

    @property
    def config(self) -> EpsilonConfig:
        return self.first_stage_model.decoder.config

    def with_settings(self, steps: int, seed: int) -> EpsilonVAE:
        """A copy that decodes otherwise and shows its progress. Decoder and memory management are this one's."""
        other = copy.copy(self)
        other.first_stage_model = copy.copy(self.first_stage_model)  # of a module, this copies no part
        other.first_stage_model.steps, other.first_stage_model.seed = steps, seed
        other.first_stage_model.shows_progress = True
        return other


def memory_used(config: EpsilonConfig, shape: tuple[int, ...], dtype: torch.dtype) -> float:
    """Bytes that decoding one latent of this shape takes besides the weights.

    Measured: at most, 11 to 14 values a pixel for each of `width` in the sizes tiny to L, of one and two blocks a level, and
    17 in XL, of four: a block more is a skip more.
    """
    pixels = shape[-2] * shape[-1] * config.ratio**2
    return (13 + config.blocks) * config.width * pixels * comfy.model_management.dtype_size(dtype)


# --- loading ----------------------------------------------------------------------------------------------------------


def load_epsilon_vae(
    path: Path, base_vae: Any, steps: int = DEFAULT_STEPS, seed: int = 0, dtype: torch.dtype | None = None
) -> EpsilonVAE:
    """Load an eps-VAE decoder from a safetensors file. base_vae makes the latents; it is not changed.

    steps: 1 to 10. dtype: in which the decoder computes; None is the host's choice by the device. Raises ValueError, naming
    the file and the fault, before anything is built from a file that is not what it should be or does not go with base_vae.
    """
    check_steps(steps)
    base_vae = encoding_vae(base_vae)
    stored = read_epsilon_decoder(path)
    try:
        check_base_fits(stored, base_vae)
        decoder = build_decoder(stored)
    except ValueError as error:
        raise ValueError(f"{path.name} cannot be used as an eps-VAE decoder: {error}") from error
    return EpsilonVAE(base_vae, decoder, steps, seed, dtype)


def check_base_fits(stored: StoredEpsilonDecoder, base_vae: Any) -> None:
    """Raise ValueError if a decoder is not for this VAE's latents: by their shape, and by the marks of the encoder."""
    encoder, config = encoder_of(base_vae), stored.config
    advice = "Connect as base_vae the VAE that this decoder was trained for."
    channels, ratio = base_vae.latent_channels, pixels_per_cell(base_vae)
    if (channels, ratio) != (config.latent_channels, config.ratio):
        raise ValueError(
            f"it takes latents of {config.latent_channels} channels at a ratio of {config.ratio}, and base_vae makes them of "
            f"{channels} at a ratio of {ratio}. {advice}"
        )
    marks = read_marks(stored.metadata)
    mismatch = find_mismatch(marks, encoder) if marks is not None else None
    if mismatch:
        raise ValueError(f"it was trained with another encoder than that of base_vae: {mismatch}. {advice}")


def build_decoder(stored: StoredEpsilonDecoder) -> EpsilonDecoder:
    """The decoder of a file. Raises ValueError where its tensors are not those of its sizes, saying which."""
    from ..models.autoencoders.epsilon import EpsilonDecoder

    with torch.device("meta"):  # the weights come from the file
        decoder = EpsilonDecoder(stored.config)
    expected = decoder.unet.state_dict()
    faults = find_faults(stored.tensors, expected)
    faults += [f"{name} is in no decoder of these sizes" for name in sorted(stored.tensors.keys() - expected.keys())]
    if faults:
        raise ValueError(f"{describe_faults(faults)}. Get the file again.")
    decoder.requires_grad_(False)
    decoder.unet.load_state_dict(stored.tensors, assign=True)
    return decoder


def check_steps(steps: int) -> None:
    """Raise ValueError for a number of steps that no decoder is used with."""
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"steps is {steps}, and must be 1 to {MOST_STEPS}. 1 to 3 are best.")


def _steps_input() -> io.Int.Input:
    return io.Int.Input(
        "steps",
        default=DEFAULT_STEPS,
        min=1,
        max=MOST_STEPS,
        tooltip="Steps of denoising; each costs as much. In the paper 1 to 3 are best, and more make the picture worse.",
    )


def _seed_input() -> io.Int.Input:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=0xFFFFFFFFFFFFFFFF,
        # A session keeps its noise, so that what changes in the picture is the edit.
        control_after_generate=io.ControlAfterGenerate.fixed,
        tooltip="Of the noise that the picture is made from. The same seed gives the same noise on every device, and to "
        "every picture of a batch.",
    )


class ReEditLoadEpsilonVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = [name for name in folder_paths.get_filename_list("vae") if name.lower().endswith(WEIGHT_FILES)]
        return io.Schema(
            node_id="ReEditLoadEpsilonVAE",
            display_name="Load eps-VAE",
            category="ReEdit/autoencoders",
            description="Loads an eps-VAE decoder, which makes a latent a picture by denoising in one to three steps, and "
            "puts it on the VAE whose latents it was trained for.",
            search_aliases=["load vae", "vae loader", "epsilon vae", "diffusion decoder"],
            inputs=[
                io.Combo.Input(
                    "decoder_name",
                    options=files,
                    tooltip="A safetensors file in the host's folder models/vae, with an eps-VAE decoder in it.",
                ),
                io.Vae.Input("base_vae", tooltip="The VAE that the decoder was trained for. It makes the latents."),
                _steps_input(),
                _seed_input(),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="auto",
                    optional=True,
                    tooltip="The precision in which the decoder computes. auto: what the host chooses for the device.",
                ),
            ],
            outputs=[
                io.Vae.Output(
                    tooltip="Encodes as base_vae does, and works in every node that takes a VAE, the host's own included."
                )
            ],
        )

    @classmethod
    def execute(cls, decoder_name: str, base_vae: Any, steps: int, seed: int, dtype: str = "auto") -> io.NodeOutput:
        path = Path(folder_paths.get_full_path_or_raise("vae", decoder_name))
        return io.NodeOutput(load_epsilon_vae(path, base_vae, steps, seed, DTYPES[dtype]))


# --- decoding ---------------------------------------------------------------------------------------------------------


class ReEditEpsilonDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditEpsilonDecode",
            display_name="ReEdit eps-VAE Decode",
            category="ReEdit/autoencoders",
            description="Decodes a latent for looking at with an eps-VAE, with steps and a seed of your choice, and passes "
            "the latent on.",
            search_aliases=["vae decode", "epsilon vae", "latent passthrough"],
            inputs=[
                io.Latent.Input("samples", tooltip="The latent to look at."),
                io.Vae.Input("vae", tooltip="A VAE from Load eps-VAE. Its own steps and seed are not used here."),
                _steps_input(),
                _seed_input(),
                io.Int.Input("tile_size", default=0, min=0, max=8192, step=64, optional=True, tooltip=TILE_TOOLTIP),
            ],
            outputs=[
                io.Image.Output(tooltip="The picture."),
                io.Latent.Output(tooltip="The latent, as it came in, with its record brought up to date."),
            ],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any, steps: int, seed: int, tile_size: int = 0) -> io.NodeOutput:
        if not isinstance(vae, EpsilonVAE):
            raise ValueError("vae has no eps-VAE decoder. Connect one from Load eps-VAE, or decode with ReEdit Decode.")
        check_steps(steps)
        latent = samples["samples"]
        check_latent_fits(latent, vae)
        record = observe(samples)
        chosen, tile = vae.with_settings(steps, seed), max(1, tile_size // pixels_per_cell(vae))
        whole = not tile_size or max(latent.shape[-2:]) <= tile
        picture = chosen.decode(latent) if whole else chosen.decode_tiled(latent, tile_x=tile, tile_y=tile)
        return io.NodeOutput(picture, with_record(samples, record))
