"""Trains the demo family's two UNets, each with its text encoder, on latents of the trained autoencoder.

`python -m tiny_sd.train_diffusion text_to_image` or `… instruct_pix2pix` in tests/, with the host's folder on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import logging

import comfy.cli_args

comfy.cli_args.args.cpu = True  # before the host looks for devices

import numpy as np
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.sd1_clip import SDTokenizer
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from .family import _KNOWN_TOKENS, _TOKEN_EMBEDDING, CONTEXT_DIM, MODEL_CHANNELS, TEXT_ENCODER_CONFIG, TinySD
from .language import EDIT_KINDS, caption, make_edit, vocabulary
from .train_autoencoder import AUTOENCODERS, DEMO, SCALE_FACTOR
from .train_autoencoder import build as build_autoencoder
from .training_loop import RUNS_FOLDER, WEIGHTS_FOLDER, train
from .world import draw, random_scene

SCENES, BATCH, LEARNING_RATE, MIN_SNR_GAMMA = 24_000, 32, 8e-4, 5.0
STEPS = {"text_to_image": 5400, "instruct_pix2pix": 5400}


class TorchOperations:
    """torch's own layers for the host's UNet: the host's leave their weights unset, since they expect a checkpoint."""

    Linear, Conv2d, GroupNorm, LayerNorm = nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm

    @staticmethod
    def conv_nd(dimensions: int, *arguments, **options) -> nn.Module:
        return nn.Conv2d(*arguments, **options)


def plain_attention(_, q, k, v, heads, mask=None, **options):
    """Attention as two matrix products: on a CPU its backward pass is several times faster than the fused one."""
    batch, tokens, width = q.shape
    q, k, v = (part.view(batch, -1, heads, width // heads).transpose(1, 2) for part in (q, k, v))
    weights = (q @ k.transpose(-1, -2) * (width // heads) ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).reshape(batch, tokens, width)


class TextAndUNet(nn.Module):
    """What is trained together: the text encoder (transformers' CLIP, over the world's tokens only) and the UNet."""

    def __init__(self, known_tokens: int, in_channels: int) -> None:
        super().__init__()
        config = {**TEXT_ENCODER_CONFIG, "vocab_size": known_tokens + 1, "bos_token_id": 0, "eos_token_id": 1}
        self.text = CLIPTextModel(CLIPTextConfig(**config | {"pad_token_id": 1}, attn_implementation="eager"))
        self.unet = UNetModel(
            image_size=32,
            in_channels=in_channels,
            out_channels=4,
            model_channels=MODEL_CHANNELS,
            num_res_blocks=[1, 1],
            channel_mult=(1, 2),
            transformer_depth=[1, 1],
            transformer_depth_middle=1,
            transformer_depth_output=[1, 1, 1, 1],
            use_spatial_transformer=True,
            context_dim=CONTEXT_DIM,
            legacy=False,
            operations=TorchOperations,
            **TinySD.unet_extra_config,
        )
        nn.init.zeros_(self.unet.out[-1].weight)
        if in_channels > 4:  # these channels hold unscaled latents
            self.unet.input_blocks[0][0].weight.data[:, 4:] *= SCALE_FACTOR

    def forward(self, tokens: torch.Tensor, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        context = self.text(input_ids=tokens).last_hidden_state
        return self.unet(x, timestep, context, transformer_options={"optimized_attention_override": plain_attention})


class WorldTokens:
    """The host's tokenizer, with the tokens of the world numbered from 0 and one more number for all others."""

    def __init__(self) -> None:
        self.tokenizer = SDTokenizer()
        ids = {token for row in self.tokenizer.tokenize_with_weights(" ".join(vocabulary())) for token, _ in row}
        special = [TEXT_ENCODER_CONFIG["bos_token_id"], TEXT_ENCODER_CONFIG["eos_token_id"]]
        self.known = special + sorted(ids - set(special))
        self._number = {token: number for number, token in enumerate(self.known)}

    def __call__(self, text: str) -> list[int]:
        (row,) = self.tokenizer.tokenize_with_weights(text)
        return [self._number.get(token, len(self.known)) for token, _ in row]


@torch.no_grad()
def encode(pictures: np.ndarray, autoencoder: nn.Module) -> torch.Tensor:
    """(n, 64, 64, 3) in 0..1 to (n, 4, 16, 16) latents as ComfyUI stores them (not scaled)."""
    latents = []
    for chunk in np.array_split(pictures, max(1, len(pictures) // 64)):
        batch = torch.from_numpy(chunk).movedim(-1, 1) * 2 - 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents.append(autoencoder.encode(batch).latent_dist.mode().float())
    return torch.cat(latents).contiguous()


def load_autoencoder() -> nn.Module:
    autoencoder = build_autoencoder(AUTOENCODERS[DEMO])
    weights = load_file(WEIGHTS_FOLDER / f"tiny_sd_{DEMO}.safetensors")
    autoencoder.load_state_dict({key: value.float() for key, value in weights.items()})
    return autoencoder.eval()


def make_data(name: str, words: WorldTokens, count: int) -> dict[str, torch.Tensor]:
    """Latents and tokens: `target`, `tokens`, and for instruct_pix2pix the latent before the edit as `image`."""
    autoencoder = load_autoencoder()
    parts: dict[str, list[torch.Tensor]] = {}
    for first in range(0, count, 1000):
        texts, targets, images = [], [], []
        for seed in range(first, min(first + 1000, count)):
            generator = np.random.default_rng(seed)
            scene = random_scene(generator)
            if name == "instruct_pix2pix":
                edit = make_edit(generator, scene, EDIT_KINDS[seed % len(EDIT_KINDS)])
                texts.append(edit.instruction)
                images.append(draw(scene))
                targets.append(draw(edit.after))
            else:
                texts.append(caption(scene))
                targets.append(draw(scene))
        parts.setdefault("tokens", []).append(torch.tensor([words(text) for text in texts]))
        parts.setdefault("target", []).append(encode(np.stack(targets), autoencoder))
        if images:
            parts.setdefault("image", []).append(encode(np.stack(images), autoencoder))
    return {key: torch.cat(value) for key, value in parts.items()}


def save_checkpoint(name: str, model: TextAndUNet, words: WorldTokens) -> None:
    """One file in the layout of an SD 1.5 checkpoint (without a VAE), float16."""
    rows = model.text.get_input_embeddings().weight.data
    rows[-1] = rows[:-1].mean(0)  # a token that was never seen means nothing in particular
    weights = {f"model.diffusion_model.{key}": value for key, value in model.unet.state_dict().items()}
    for key, value in model.text.state_dict().items():
        if "position_ids" not in key:
            weights[f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    weights = {key: value.half().contiguous() for key, value in weights.items()}
    assert weights[_TOKEN_EMBEDDING].shape[0] == len(words.known) + 1
    weights[_KNOWN_TOKENS] = torch.tensor(words.known, dtype=torch.int32)
    save_file(weights, WEIGHTS_FOLDER / f"tiny_sd_{name}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=STEPS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(options.threads)
    words = WorldTokens()
    data_file = RUNS_FOLDER / f"{options.name}_data.safetensors"
    if not data_file.exists():
        save_file(make_data(options.name, words, SCENES), data_file)
    data = load_file(data_file)
    torch.manual_seed(0)
    model = TextAndUNet(len(words.known), 8 if options.name == "instruct_pix2pix" else 4)
    empty = torch.tensor(words(""))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # SD 1.5's schedule
    alphas = torch.cumprod(1 - betas, 0).float()

    def loss_of_step(step: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(step)
        index = torch.randint(SCENES, (BATCH,), generator=generator)
        clean, tokens = data["target"][index] * SCALE_FACTOR, data["tokens"][index].clone()
        noise = torch.randn(clean.shape, generator=generator)
        timestep = torch.randint(1000, (BATCH,), generator=generator)
        alpha = alphas[timestep].view(-1, 1, 1, 1)
        x = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        chance = torch.rand(BATCH, generator=generator)
        if "image" in data:  # text dropped in 5 %, picture in 5 %, both in 5 %, as InstructPix2Pix was trained
            tokens[chance < 0.10] = empty
            keep_image = ((chance < 0.05) | (chance >= 0.15)).float().view(-1, 1, 1, 1)
            x = torch.cat([x, data["image"][index] * keep_image], 1)
        else:
            tokens[chance < 0.10] = empty
        with torch.autocast("cpu", dtype=torch.bfloat16):
            predicted = model(tokens, x, timestep).float()
        sigma = ((1 - alpha) / alpha).sqrt()
        weight = (MIN_SNR_GAMMA * sigma**2).clamp(max=1)  # Min-SNR (arXiv 2303.09556), for a prediction of the noise
        error = (predicted - noise).square()
        return {"loss": (error * weight).mean(), "mse": error.mean()}

    trained = train(options.name, model, loss_of_step, STEPS[options.name], LEARNING_RATE)
    save_checkpoint(options.name, trained, words)


if __name__ == "__main__":
    main()
