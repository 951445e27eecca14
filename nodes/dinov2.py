"""DINOv2 of any size, with registers or without, as the vision model that the host's nodes take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor, nn

from ..models.autoencoders.dinov2 import PICTURE_DEVIATION, PICTURE_MEAN, StoredDINOv2, load_dinov2, read_dinov2
from .autoencoders import WEIGHT_FILES
from .host_layers import use_host_layers


class DINOv2Network(nn.Module):
    """A DINOv2 that answers as the host's vision models do. Its registers, of which nobody outside knows, are left out."""

    def __init__(self, stored: StoredDINOv2) -> None:
        super().__init__()
        self.network, self.registers = load_dinov2(stored), stored.registers
        use_host_layers(self.network)

    def forward(self, pixel_values: Tensor, intermediate_output: int) -> tuple[Tensor, Tensor, Tensor, None]:
        """The last tokens, those of layer `intermediate_output`, and the class token: (B, 1 + patches, C) and (B, C)."""
        answer = self.network(pixel_values.to(self.network.dtype), output_hidden_states=True)
        last, between = answer.last_hidden_state, answer.hidden_states[intermediate_output]
        return self._without_registers(last), self._without_registers(between), last[:, 0], None

    def _without_registers(self, tokens: Tensor) -> Tensor:
        kept = [number for number in range(tokens.shape[1]) if not 1 <= number <= self.registers]
        return tokens[:, kept]


class DINOv2Vision(comfy.clip_vision.ClipVisionModel):
    """The host's vision model object of a DINOv2. image_size: the side, in pixels, that pictures are scaled to.

    path: of its file.
    """

    def __init__(self, stored: StoredDINOv2, path: Path, image_size: int) -> None:
        # In place of the host's constructor, which builds the networks that it knows.
        management = comfy.model_management
        self.path, self.image_size = path, image_size
        self.image_mean, self.image_std = list(PICTURE_MEAN), list(PICTURE_DEVIATION)
        self.model_type, self.return_all_hidden_states = "dinov2", False
        self.config = {"image_size": image_size, "patch_size": stored.patch, "model_type": self.model_type}
        self.load_device = management.text_encoder_device()
        # On a processor the host keeps half of the precision and computes in all of it, which transformers does not do.
        slow = management.is_device_cpu(self.load_device)
        self.dtype = torch.float32 if slow else management.text_encoder_dtype(self.load_device)
        self.model = DINOv2Network(stored).eval().to(self.dtype)
        self.patcher = comfy.model_patcher.CoreModelPatcher(
            self.model, load_device=self.load_device, offload_device=management.text_encoder_offload_device()
        )


def load_vision(path: Path, image_size: int = 0) -> DINOv2Vision:
    """The DINOv2 in a file. image_size: in pixels; 0 is the size that its positions were made for.

    Raises ValueError that names the file or the input, and what is wrong with it.
    """
    stored = read_dinov2(path)
    size = image_size or stored.positions * stored.patch
    if size % stored.patch or size < stored.patch:
        below = max(1, size // stored.patch) * stored.patch
        raise ValueError(
            f"image_size is {size}, and {path.name} sees patches of {stored.patch} pixels: give a multiple, {below} or "
            f"{below + stored.patch}, or 0."
        )
    return DINOv2Vision(stored, path, size)


class ReEditLoadDINOv2(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = folder_paths.get_filename_list("clip_vision")
        return io.Schema(
            node_id="ReEditLoadDINOv2",
            display_name="Load DINOv2",
            category="ReEdit/drift",
            description="Loads a DINOv2 of any size, with registers or without: for ReEdit Semantic Drift, to train an RPiAE "
            "from, and for every node that takes a vision model. The host's own loader knows the sizes L and g without "
            "registers.",
            search_aliases=["clip vision", "vision model", "dino"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=[name for name in names if name.lower().endswith(WEIGHT_FILES)],
                    tooltip="A safetensors file in the host's folder models/clip_vision, as transformers has it: "
                    "model.safetensors of facebook/dinov2-base or facebook/dinov2-with-registers-base, say.",
                ),
                io.Int.Input(
                    "image_size",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="The side, in pixels, that pictures are scaled to: a multiple of its patches. More sees finer "
                    "and takes longer. 0: the size that it was trained at last.",
                ),
            ],
            outputs=[
                io.ClipVision.Output(tooltip="For ReEdit Semantic Drift, ReEdit Train RPiAE, and the host's own nodes.")
            ],
        )

    @classmethod
    def execute(cls, model_name: str, image_size: int = 0) -> io.NodeOutput:
        return io.NodeOutput(
            load_vision(Path(folder_paths.get_full_path_or_raise("clip_vision", model_name)), image_size)
        )


def patch_tokens(vision: Any, pixels: Tensor) -> Tensor:
    """The tokens of the patches of pictures, (B, H, W, 3) in 0..1, by a host vision model: (B, patches, C).

    The picture is scaled to a square whatever its shape: so all of it is seen. Raises ValueError for a model whose tokens
    are no square of patches.
    """
    patch = vision.config.get("patch_size")
    side = int(vision.image_size) // int(patch) if patch else 0
    # Of SigLIP 2 NaFlex, which takes pictures of any shape, the host says that the side is -1.
    tokens = vision.encode_image(pixels, crop=False)["last_hidden_state"] if side > 0 else None
    if tokens is None or side**2 > tokens.shape[1]:
        kind = getattr(vision, "model_type", type(vision).__name__)
        raise ValueError(
            f"encoder ({kind}) gives tokens that are no square of patches. Connect a DINOv2 from Load DINOv2 or Load CLIP "
            "Vision."
        )
    return tokens[:, tokens.shape[1] - side**2 :]
