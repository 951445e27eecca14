"""How the host recognises the demo family: two entries for its list of models, and a text encoder of matching width.

The classes are Stable Diffusion 1.5 in small: the same blocks, tensor names and noise schedule, other widths, and latents
of ratio 4. So stock CheckpointLoaderSimple, CLIPTextEncode and KSampler take them as they take SD 1.5.
"""

from __future__ import annotations

import torch
from comfy import latent_formats, model_base, sd1_clip, supported_models, supported_models_base

CONTEXT_DIM = 64
MODEL_CHANNELS = 64
TEXT_ENCODER_CONFIG = {
    "architectures": ["CLIPTextModel"],
    "hidden_act": "quick_gelu",
    "hidden_size": CONTEXT_DIM,
    "intermediate_size": 4 * CONTEXT_DIM,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 77,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
    "vocab_size": 49408,
}
_TOKEN_EMBEDDING = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
# A checkpoint holds embedding rows only for the tokens of its world; this tensor says which. The last row is for all others.
_KNOWN_TOKENS = "cond_stage_model.known_tokens"


class TinyLatentFormat(latent_formats.SD15):
    """SD 1.5's scale, at ratio 4. Without a preview decoder: the one for SD 1.5 would show nonsense."""

    spacial_downscale_ratio = 4

    def __init__(self) -> None:
        super().__init__()
        self.taesd_decoder_name = None
        self.latent_rgb_factors = None


class TinyTextEncoder(sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006 (the host's own signature)
        # The host fills the configuration in place, so it gets a copy.
        config = dict(TEXT_ENCODER_CONFIG)
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=config,
            return_projected_pooled=False,
            model_options=model_options,
        )


class TinyTextModel(sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}):  # noqa: B006 (the host's own signature)
        super().__init__(device=device, dtype=dtype, model_options=model_options, clip_model=TinyTextEncoder)


class TinyTokenizer(sd1_clip.SD1Tokenizer):
    """The host's tokenizer; only the width of textual-inversion embeddings differs."""

    def __init__(self, embedding_directory=None, tokenizer_data={}):  # noqa: B006 (the host's own signature)
        def narrow(embedding_directory=None, tokenizer_data={}):  # noqa: B006
            return sd1_clip.SDTokenizer(
                embedding_directory=embedding_directory, embedding_size=CONTEXT_DIM, tokenizer_data=tokenizer_data
            )

        super().__init__(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data, tokenizer=narrow)


def expand_token_embedding(rows: torch.Tensor, known_tokens: torch.Tensor) -> torch.Tensor:
    """(known + 1, width) rows to the tokenizer's whole vocabulary; tokens outside the world share the last row."""
    table = rows[-1:].repeat(TEXT_ENCODER_CONFIG["vocab_size"], 1)
    table[known_tokens.long()] = rows[:-1]
    return table


class TinySD(supported_models.SD15):
    """Text to image."""

    unet_config = {
        "context_dim": CONTEXT_DIM,
        "model_channels": MODEL_CHANNELS,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "in_channels": 4,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": 64}
    latent_format = TinyLatentFormat

    def process_clip_state_dict(self, state_dict):
        state_dict = dict(state_dict)
        known_tokens = state_dict.pop(_KNOWN_TOKENS)
        state_dict[_TOKEN_EMBEDDING] = expand_token_embedding(state_dict[_TOKEN_EMBEDDING], known_tokens)
        return super().process_clip_state_dict(state_dict)

    def clip_target(self, state_dict={}):  # noqa: B006 (the host's own signature)
        return supported_models_base.ClipTarget(TinyTokenizer, TinyTextModel)


class TinyInstructPix2Pix(TinySD):
    """Instruction edits: four more input channels hold the picture's latent, unscaled, as in SD 1.5's InstructPix2Pix."""

    unet_config = {**TinySD.unet_config, "in_channels": 8}

    def get_model(self, state_dict, prefix="", device=None):
        return model_base.SD15_instructpix2pix(self, device=device)


def register() -> None:
    """Add the family to the host's list, once."""
    for entry in (TinySD, TinyInstructPix2Pix):
        if all(known.__name__ != entry.__name__ for known in supported_models.models):
            supported_models.models.append(entry)
