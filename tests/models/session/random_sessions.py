"""Random sessions for hypothesis, and how their latents are compared."""

import torch
from hypothesis import strategies as st


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """torch.equal takes -0.0 for 0.0; this does not."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


@st.composite
def latent_trees(draw):
    """A random tree of edits over latents of any rank, batch, channels and dtype: (latents by number, parents)."""
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
    shape = [draw(st.integers(1, 3)), draw(st.integers(1, 5))]
    if draw(st.booleans()):
        shape.append(draw(st.integers(1, 3)))  # a video's frames
    shape += [draw(st.integers(1, 6)), draw(st.integers(1, 6))]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    latents, parents = [torch.randn(shape, generator=generator).to(dtype)], [0]
    for _ in range(draw(st.integers(0, 6))):
        parents.append(draw(st.integers(0, len(latents) - 1)))
        after = latents[parents[-1]].clone()
        kind = draw(st.sampled_from(["cells", "all", "nothing", "repeat", "resize"]))
        if kind == "cells":
            after[torch.rand(after.shape, generator=generator) < 0.2] = draw(st.sampled_from([-0.0, 0.0, 1.5]))
        elif kind == "all":
            after = torch.randn(after.shape, generator=generator).to(dtype)
        elif kind == "repeat":
            after = after.repeat(2, *[1] * (after.ndim - 1))
        elif kind == "resize":
            after = after.repeat_interleave(2, -1)
        latents.append(after)
    return latents, parents
