"""The drift of one step in a few sentences."""

from __future__ import annotations

import math

from ..session.record import SOURCE
from .drift import PartDrift, StepDrift


def describe(drift: StepDrift, number: int) -> str:
    """What was measured of a step, a line for each part, and below it what was not, with the reason."""
    step = "The source" if number == SOURCE else f"Step {number}"
    against = drift.compared_with if drift.compared_with.startswith("step") else f"the {drift.compared_with}"
    lines = [f"{step}, compared with {against}."]
    for name, part in (("Outside of what was edited", drift.outside), ("Inside", drift.inside)):
        if part is not None:
            lines.append(f"{name} ({100 * part.share:.1f} % of the picture): {_describe_part(part)}.")
    if drift.latent_change_outside is not None:
        change = drift.latent_change_outside
        exact = "no cell of the latent changed" if change == 0 else f"the latent changed by up to {change:.3g}"
        lines.append(f"Where nothing was edited, {exact}.")
    if drift.lpips is not None:
        lines.append(f"LPIPS of the whole picture: {drift.lpips:.4f}.")
    lines += [f"Not measured: {name}. {reason}" for name, reason in drift.not_measured.items()]
    return "\n".join(lines)


def _describe_part(part: PartDrift) -> str:
    words = []
    if part.psnr is not None:
        words.append("identical" if math.isinf(part.psnr) else f"PSNR {part.psnr:.2f} dB")
    words += [
        f"{name} {value:.4f}" for name, value in (("SSIM", part.ssim), ("MS-SSIM", part.ms_ssim)) if value is not None
    ]
    if part.colour_shift is not None:
        red, green, blue = part.colour_shift
        words.append(f"colours moved by {red:+.2f} red, {green:+.2f} green, {blue:+.2f} blue (of 255)")
    return ", ".join(words)
