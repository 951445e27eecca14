"""Reading, and replacing, a model's attention to its prompt while the host's fast kernels go on computing it.

UNets: an attn2 patch says that the next attention is one to the prompt. Diffusion transformers attend to text and image at
once: there the queries of image tokens and the keys of text tokens are taken from what is handed to the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_base
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor
from torch.nn import functional

from ..models.diffusion.attention_maps import RunningMap, queries_per_side, word_attention
from ..models.diffusion.prompt_tokens import WORDS, PromptTokens
from .branch_latents import with_own_latents

KEY = "reedit_attention"
OVERRIDE = "optimized_attention_override"
JOINT = (comfy.model_base.SD3, comfy.model_base.Flux)  # text before image, in one attention


@dataclass(frozen=True)
class Site:
    """One attention of image queries to text keys. grid: of the queries. text, image: their places among the tokens."""

    grid: tuple[int, int]
    text: slice
    image: slice


class AttentionCapture:
    """What is read of a model's attention in one run of a guider. Branches are numbered as the host's cond_or_uncond does.

    maps: the branches to read, and where to. replacing: (from, to), branches of which the second attends as the first does.
    latents: of branches that see another noisy latent than the sampler's.
    """

    def __init__(self, model: Any, cells: int | None = None):
        self.model = model
        self.cells = cells
        self.maps: dict[int, RunningMap] = {}
        self.replacing: tuple[int, int] | None = None
        self.latents: dict[int, Tensor] = {}
        self.tokens: dict[Any, PromptTokens] = {}  # by the host's uuid of a conditioning
        self.empty: dict[Any, int] = {}  # by the same: how many empty tokens the model puts before it (Flux 2 does)
        self.grids: set[tuple[int, int]] = set()  # seen, whether read or not
        self.was_replaced = False
        self._places: dict[tuple[Any, ...], tuple[Tensor, Tensor, Tensor]] = {}
        self._cross: tuple[tuple[int, int], int, int] | None = None
        self._joint: tuple[tuple[int, int], int] | None = None
        self._wanted = (0, 0)

    def install(self, model_options: dict[str, Any]) -> None:
        """Put the hooks into a run's own options, after those that are there. The model is not touched."""
        options = model_options.setdefault("transformer_options", {})
        patches = options.setdefault("patches", {})
        patches["attn2_patch"] = [*patches.get("attn2_patch", []), self._before_cross_attention]
        options[OVERRIDE] = self._chained(options.get(OVERRIDE))
        add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self._apply_model, options)

    def know(self, conditioning: list[dict[str, Any]]) -> None:
        """Remember which tokens the entries of a processed conditioning mean."""
        for entry in conditioning:
            handed = entry["model_conds"].get("c_crossattn")
            if handed is None:
                continue
            own = entry["cross_attn"].shape[1]
            empty = self.empty[entry["uuid"]] = max(0, handed.cond.shape[1] - own)
            if WORDS in entry:
                self.tokens[entry["uuid"]] = _lengthened(entry[WORDS], own, empty)

    @property
    def _busy(self) -> bool:
        return bool(self.maps) or self.replacing is not None

    def _apply_model(
        self,
        execute: Callable[..., Tensor],
        x: Tensor,
        t: Tensor,
        c_concat: Any,
        c_crossattn: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        options = args[1] if len(args) > 1 else kwargs["transformer_options"]
        x = with_own_latents(x, options["cond_or_uncond"], self.latents)
        self._cross = self._joint = None
        self._wanted = queries_per_side(x.shape[-2], x.shape[-1], self.cells)
        if isinstance(self.model, JOINT) and c_crossattn is not None:
            patch = self.model.diffusion_model.patch_size
            rows, columns = (-(-side // patch) for side in x.shape[-2:])
            self._joint = ((rows, columns), c_crossattn.shape[1])
        return execute(x, t, c_concat, c_crossattn, *args, **kwargs)

    def _before_cross_attention(
        self, queries: Tensor, keys: Tensor, values: Tensor, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self._busy:
            rows, columns = options["activations_shape"][-2:]
            self._cross = ((rows, columns), queries.shape[1], keys.shape[1])
        return queries, keys, values

    def _chained(self, before: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        def override(
            kernel: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any
        ) -> Tensor:
            if self._busy:
                q, k = self._look(q, k, heads, kwargs)
            if before is not None:
                return before(kernel, q, k, v, heads, *args, **kwargs)
            return kernel(q, k, v, heads, *args, **kwargs)

        return override

    def _look(self, q: Tensor, k: Tensor, heads: int, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        split = kwargs.get("skip_reshape", False)  # whether the heads have a dimension of their own: (B, heads, N, D)
        tokens = 2 if split else 1
        site = self._site(q.shape[tokens], k.shape[tokens])
        if site is None:
            return q, k
        options = kwargs["transformer_options"]
        branches = options["cond_or_uncond"]
        known = [self.tokens.get(uuid) for uuid in options["uuids"]]
        if q.shape[0] % len(branches):  # another patch has changed the batch
            return q, k
        if self.replacing is not None and all(branches.count(branch) == 1 for branch in self.replacing):
            q, k = self._replaced(q, k, site, tokens, options)
        self.grids.add(site.grid)
        if self._joint is None and site.grid != self._wanted:
            return q, k
        images = [part.narrow(tokens, *_extent(site.image)) for part in q.chunk(len(branches))]
        texts = [part.narrow(tokens, *_extent(site.text)) for part in k.chunk(len(branches))]
        for branch, meant, image, text in zip(branches, known, images, texts, strict=True):
            if branch in self.maps and meant is not None:
                query, key = _per_head(image, heads, split), _per_head(text, heads, split)
                weights = _repeated(meant.weights, len(query), key.shape[2])
                self.maps[branch].add(word_attention(query, key, weights), site.grid)
        return q, k

    def _site(self, queries: int, keys: int) -> Site | None:
        """What this attention is: to the prompt, or None."""
        if self._cross is not None:
            grid, expected_queries, expected_keys = self._cross
            if (queries, keys) == (expected_queries, expected_keys):
                self._cross = None
                return Site(grid, slice(0, keys), slice(0, queries))
        if self._joint is not None:
            grid, text = self._joint
            count = grid[0] * grid[1]
            if queries == keys and queries >= text + count:  # reference pictures may follow
                return Site(grid, slice(0, text), slice(text, text + count))
        return None

    def _replaced(
        self, q: Tensor, k: Tensor, site: Site, tokens: int, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys in which one branch's image attends to its prompt as another's does (Prompt-to-Prompt)."""
        assert self.replacing is not None
        branches, uuids = options["cond_or_uncond"], options["uuids"]
        source, target = (branches.index(branch) for branch in self.replacing)
        q, k = q.clone(), k.clone()
        images = [part.narrow(tokens, *_extent(site.image)) for part in q.chunk(len(branches))]
        texts = [part.narrow(tokens, *_extent(site.text)) for part in k.chunk(len(branches))]
        meant = self.tokens.get(uuids[target])
        if meant is None or meant.from_source is None:
            images[target].copy_(images[source])
        else:
            there, has_source, keeps = self._places_of(meant.from_source, uuids[source], texts[target], tokens)
            said = texts[source].gather(tokens, there.expand_as(texts[target]))
            texts[target].copy_(torch.where(has_source, said, texts[target]))
            images[target].copy_(torch.where(keeps, images[source], images[target]))
        self.was_replaced = True
        return q, k

    def _places_of(self, from_source: Tensor, source: Any, text: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where the source says each of a text's tokens, whether it does, and for each picture whether it says any.

        The same for every layer and step, so it is made once: small operations weigh on small models.
        """
        key = (id(from_source), source, len(text), text.shape[tokens], tokens)
        if key not in self._places:
            columns = _repeated(from_source, len(text), text.shape[tokens]).to(text.device)
            columns = columns.view((*columns.shape, 1) if tokens == 1 else (len(columns), 1, columns.shape[1], 1))
            has_source = columns >= 0
            there = columns.clamp(min=0) + self.empty.get(source, 0)
            # Of a batch with a prompt for each picture, some may have nothing that takes another's place.
            self._places[key] = there, has_source, has_source.any(dim=tokens, keepdim=True)
        return self._places[key]


def can_be_read(model: Any) -> bool:
    """Whether the attention to the prompt can be found in a model: UNets with cross-attention, SD3 and Flux."""
    return isinstance(model.diffusion_model, UNetModel) or isinstance(model, JOINT)


def _extent(place: slice) -> tuple[int, int]:
    """Where it begins and how long it is."""
    return place.start, place.stop - place.start


def _per_head(values: Tensor, heads: int, split: bool) -> Tensor:
    """(B, heads, N, D) of the layouts that the host's kernels take."""
    return values if split else values.unflatten(-1, (heads, -1)).transpose(1, 2)


def _repeated(values: Tensor, batch: int, columns: int) -> Tensor:
    """(T,) or (B, T) for a batch of so many, and for a prompt that the host repeated to the length of a longer one."""
    values = values if values.ndim == 2 else values[None]
    if batch % len(values) or columns % values.shape[1]:
        raise ValueError(
            f"The model attends to {columns} tokens for {batch} pictures, but ReEdit Prompt Words marked "
            f"{tuple(values.shape)}. Connect its conditionings to the guider directly, with nothing in between."
        )
    return values.repeat(batch // len(values), columns // values.shape[1])


def _lengthened(meant: PromptTokens, own: int, empty: int) -> PromptTokens:
    """The tokens' marks for a conditioning of `own` tokens before which the model puts `empty` ones.

    Where others were appended to those that are marked (Conditioning Concat), they are not meant, and nor are empty ones.
    """
    margins = (empty, max(0, own - meant.weights.shape[-1]))
    if not any(margins):
        return meant
    weights = functional.pad(meant.weights, margins)
    from_source = None if meant.from_source is None else functional.pad(meant.from_source, margins, value=-1)
    return PromptTokens(weights, meant.words, from_source)
