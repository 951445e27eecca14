"""RPiAE: an autoencoder whose latent is that of a vision model's tokens, brought to few channels by a variational bridge.

Gong et al., "RPiAE: A Representation-Pivoted Autoencoder" (arXiv 2603.19206); where the paper is silent, the authors' code is
taken as it is (PAPERS.md 5.2). Encoder: DINOv2 with registers. It takes and makes pictures of one size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn
from torch.nn import functional

from .dinov2 import PICTURE_DEVIATION, PICTURE_MEAN, build_network, published_name
from .rpiae_layout import BRIDGE_DECODER, BRIDGE_ENCODER, ENCODER, PIXEL_DECODER, RPiAEConfig, StoredRPiAE

PIXEL_DECODER_EPSILON = 1e-12  # of its norms


def build_encoder(config: RPiAEConfig) -> Any:
    """DINOv2 with registers of these sizes, weights fresh, its last norm without weight and bias."""
    names = ("width", "layers", "heads", "registers", "mlp_ratio", "patch", "positions")
    model = build_network(**{name: getattr(config, name) for name in names})
    model.layernorm = nn.LayerNorm(config.width, eps=model.config.layer_norm_eps, elementwise_affine=False)
    return model


class BridgeEncoder(nn.Module):
    """Tokens, (B, N, width), to the moments of the latent, (B, N, 2 · channels): attention and a skip, then a small MLP."""

    def __init__(self, config: RPiAEConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, config.bridge_heads, batch_first=True)
        self.skip_proj = nn.Linear(width, width)
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.proj2 = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Identity(), last)
        self.to_moments = nn.Linear(width, 2 * config.channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Moments of x'' = x' + MLP(norm(x')), x' = W x + b + attention(norm(x)): means, then logarithms of variances."""
        seen = self.norm1(tokens)
        hidden = self.skip_proj(tokens) + self.attn(seen, seen, seen, need_weights=False)[0]
        return self.to_moments(hidden + self.proj2(self.norm2(hidden)))


class BridgeDecoder(nn.Module):
    """A latent's cells, (B, N, channels), to tokens, (B, N, width)."""

    def __init__(self, config: RPiAEConfig) -> None:
        super().__init__()
        width = config.width
        self.in_proj = nn.Linear(config.channels, width)
        self.net = nn.Sequential(
            *(_transformer_layer(width, config.bridge_heads, 4 * width, 1e-5) for _ in range(config.bridge_layers))
        )
        self.out_proj = nn.Linear(width, width)

    def forward(self, cells: Tensor) -> Tensor:
        """The tokens of a latent's N cells, in rows from the top left; N is free, since there are no positions."""
        return self.out_proj(self.net(self.in_proj(cells)))


class PixelDecoder(nn.Module):
    """Tokens, (B, N, width), to patches of pixels, (B, N, 3 · patch²): the decoder of a masked autoencoder."""

    decoder_pos_embed: Tensor

    def __init__(self, config: RPiAEConfig) -> None:
        super().__init__()
        width = config.decoder_width
        self.decoder_embed = nn.Linear(config.width, width)
        self.trainable_cls_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = get_2d_sincos_pos_embed(width, config.cells, cls_token=True, extra_tokens=1, output_type="pt")
        self.register_buffer("decoder_pos_embed", positions[None].float())
        self.decoder_layers = nn.Sequential(
            *(
                _transformer_layer(width, config.decoder_heads, config.decoder_hidden, PIXEL_DECODER_EPSILON)
                for _ in range(config.decoder_layers)
            )
        )
        self.decoder_norm = nn.LayerNorm(width, eps=PIXEL_DECODER_EPSILON)
        self.decoder_pred = nn.Linear(width, 3 * config.decoder_patch**2)

    def forward(self, tokens: Tensor) -> Tensor:
        """The patches of N = cells² tokens, each (patch, patch, 3) flattened, normalised as the encoder's pictures are."""
        embedded = self.decoder_embed(tokens)
        first = self.trainable_cls_token.expand(len(tokens), -1, -1)
        hidden = torch.cat([first, embedded], 1) + self.decoder_pos_embed
        return self.decoder_pred(self.decoder_norm(self.decoder_layers(hidden)))[:, 1:]


def _transformer_layer(width: int, heads: int, hidden: int, epsilon: float) -> nn.TransformerEncoderLayer:
    """Norms come first, and nothing is dropped."""
    return nn.TransformerEncoderLayer(width, heads, hidden, 0.0, "gelu", epsilon, batch_first=True, norm_first=True)


class RPiAE(nn.Module):
    """Encoder, bridge and pixel decoder. Pictures are in 0..1; a latent is (B, channels, cells, cells)."""

    picture_mean: Tensor
    picture_deviation: Tensor

    def __init__(self, config: RPiAEConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.encoder: Any = build_encoder(config)
        self.bridge_encoder, self.bridge_decoder = BridgeEncoder(config), BridgeDecoder(config)
        self.pixel_decoder = PixelDecoder(config)
        for name, values in (("picture_mean", PICTURE_MEAN), ("picture_deviation", PICTURE_DEVIATION)):
            # No file has them, so they are numbers even where the rest is built without any.
            self.register_buffer(name, torch.tensor(values, device="cpu").view(1, 3, 1, 1), persistent=False)

    # --- pictures and latents -----------------------------------------------------------------------------------------

    def encode(self, picture: Tensor) -> Tensor:
        """Pictures, (B, 3, H, W), to the mean of their latents. Other sizes than the encoder's are resampled, bicubic.

        Raises ValueError where a picture is not square: it would come back squeezed.
        """
        mean, _ = self.moments(self.tokens(picture))
        return mean

    def decode(self, latent: Tensor) -> Tensor:
        """A latent to pictures, (B, 3, side, side) with side = `config.picture_side`, about 0..1 and not clamped.

        Raises ValueError where the latent is of another shape.
        """
        return self.draw(self.tokens_of(latent))

    # --- their parts --------------------------------------------------------------------------------------------------

    def tokens(self, picture: Tensor, encoder: Any = None) -> Tensor:
        """The encoder's tokens of the picture's patches, (B, cells², width): the pivot's representation.

        encoder: another one of its kind, that is asked in its place.
        """
        height, width = picture.shape[-2:]
        if height != width:
            raise ValueError(
                f"The picture is {width}×{height}, and an RPiAE takes square ones: it would be squeezed. Crop or pad it."
            )
        side = self.config.side
        if height != side:
            picture = functional.interpolate(picture, (side, side), mode="bicubic", align_corners=False)
        normal = (picture - self.picture_mean) / self.picture_deviation
        return (encoder or self.encoder)(normal).last_hidden_state[:, 1 + self.config.registers :]

    def moments(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the logarithm of the variance of the latent, both (B, channels, cells, cells)."""
        mean, log_variance = _as_map(self.bridge_encoder(tokens)).chunk(2, 1)
        return mean, log_variance.clamp(-30, 20)

    def tokens_of(self, latent: Tensor) -> Tensor:
        """What the bridge makes of a latent: tokens as the encoder's, (B, cells², width)."""
        self.config.check_latent(latent.shape)
        return self.bridge_decoder(latent.flatten(2).mT)

    def draw(self, tokens: Tensor) -> Tensor:
        """The picture of tokens, (B, 3, side, side)."""
        cells, patch = self.config.cells, self.config.decoder_patch
        patches = self.pixel_decoder(tokens).view(-1, cells, cells, patch, patch, 3)
        side = self.config.picture_side
        normal = patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, side, side)
        return normal * self.picture_deviation + self.picture_mean

    # --- its file -----------------------------------------------------------------------------------------------------

    def published_tensors(self) -> dict[str, Tensor]:
        """All that is in a file, under the published names."""
        published: dict[str, Tensor] = {}
        for name, tensor in self.state_dict().items():
            names = published_names(name)
            published |= zip(names, tensor.chunk(len(names)), strict=True)
        return published


def _as_map(tokens: Tensor) -> Tensor:
    """(B, N, C) to (B, C, √N, √N)."""
    side = math.isqrt(tokens.shape[1])
    return tokens.mT.unflatten(-1, (side, side))


def load_rpiae(stored: StoredRPiAE) -> RPiAE:
    """The autoencoder of a file, in the precision of its tensors."""
    with torch.device("meta"):
        network = RPiAE(stored.config)
    own = network.state_dict()
    tensors = {name: _own_tensor(name, stored.tensors) for name in own}
    network.load_state_dict(tensors, assign=True)
    return network.requires_grad_(False).eval()


# --- names ------------------------------------------------------------------------------------------------------------

# Ours, which are torch's, and the published ones, in a layer of the pixel decoder.
_LAYER_NAMES = {
    "self_attn.out_proj": "attention.output.dense",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}
_PARTS = {
    "encoder.": ENCODER,
    "bridge_encoder.": BRIDGE_ENCODER,
    "bridge_decoder.": BRIDGE_DECODER,
    "pixel_decoder.": PIXEL_DECODER,
}
_JOINED = "self_attn.in_proj_"  # torch keeps query, key and value in one tensor


def published_names(name: str) -> list[str]:
    """The names under which the published checkpoint keeps a tensor of the module: three where torch joins three."""
    part = next(part for part in _PARTS if name.startswith(part))
    rest = name.removeprefix(part)
    if part == "encoder.":
        rest, _ = published_name(rest)
    if part == "pixel_decoder." and rest.startswith("decoder_layers."):
        if _JOINED in rest:
            block, kind = rest.split(_JOINED)
            return [f"{PIXEL_DECODER}{block}attention.attention.{one}.{kind}" for one in ("query", "key", "value")]
        for own, published in _LAYER_NAMES.items():
            rest = rest.replace(f".{own}.", f".{published}.")
    return [_PARTS[part] + rest]


def _own_tensor(name: str, published: Mapping[str, Tensor]) -> Tensor:
    parts = [published[one] for one in published_names(name)]
    return torch.cat(parts) if len(parts) > 1 else parts[0]
