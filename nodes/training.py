"""Training of decoders inside the host."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui
from PIL import Image
from torch import Tensor

from ..models.autoencoders.epsilon_layout import read_epsilon_decoder
from ..models.autoencoders.kl_file import StoredAutoencoder, read_autoencoder
from ..models.autoencoders.kl_layout import read_config
from ..models.metrics.timeline_thumbnail import to_image
from ..models.training.epsilon import EpsilonSettings
from ..models.training.reed import KIND, REEDSettings
from ..models.training.settings import TrainingSettings
from .autoencoders import load_kl_vae
from .epsilon import load_epsilon_vae
from .session_files import inside, output_folder

if TYPE_CHECKING:
    from ..models.training.loop import Progress

RUNS = "reedit/training"  # in the host's output folder: a folder for each run, by its name
SUFFIX = ".safetensors"
PREVIEW = 1024  # pixels: the longer side of a sample grid that is shown while training runs

# --- widgets ----------------------------------------------------------------------------------------------------------

# The settings that most people set, in the order of their widgets; the others stand below.
SHOWN_REED = (
    "steps",
    "batch",
    "crop",
    "learning_rate",
    "first_passes",
    "last_passes",
    "anchor",
    "perceptual",
    "eight_bit",
    "gradient_passes",
    "checkpointing",
    "precision",
    "seed",
)
SHOWN_EPSILON = (
    "size",
    "steps",
    "batch",
    "crop",
    "learning_rate",
    "perceptual",
    "adversarial",
    "adversarial_start",
    "precision",
    "seed",
)
MOST = {"seed": 0xFFFFFFFFFFFFFFFF}  # of a setting that has no upper limit; a widget needs one
MOST_COUNT, MOST_WEIGHT = 1_000_000, 1000.0
FINENESS = {  # a widget's steps
    "crop": 16,
    "learning_rate": 1e-6,
    "average_decay": 1e-4,
    "discriminator_width": 8,
    "latent_scale": 1e-5,
    "latent_shift": 1e-5,
}


def widget(setting: Field[Any], advanced: bool) -> io.WidgetInput:
    """The widget of one of a training's settings, with the setting's own default, range and explanation."""
    name, limits = setting.name, setting.metadata
    common = {"optional": True, "advanced": advanced, "default": setting.default, "tooltip": limits["help"]}
    if isinstance(setting.default, bool):
        return io.Boolean.Input(name, **common)
    if isinstance(setting.default, str):
        return io.Combo.Input(name, options=list(limits["choices"]), **common)
    counted = isinstance(setting.default, int)
    most = MOST.get(name, MOST_COUNT if counted else MOST_WEIGHT) if limits["most"] is None else limits["most"]
    step = FINENESS.get(name, 1 if counted else 0.01)
    if counted:
        # Unasked, the host would give another seed to each run, and none could ever go on.
        fixed = False if name == "seed" else None
        return io.Int.Input(name, min=limits["least"], max=most, step=step, control_after_generate=fixed, **common)
    return io.Float.Input(name, min=float(limits["least"]), max=float(most), step=step, **common)


def widgets(settings: type[TrainingSettings], shown: tuple[str, ...]) -> list[io.WidgetInput]:
    """A widget for each setting: first those that are named, the rest below.

    Saved workflows know widgets by their places: a new setting has to be the last field of the class that is given here.
    """
    named = {one.name: one for one in fields(settings)}
    return [widget(named[name], name not in shown) for name in (*shown, *(name for name in named if name not in shown))]


def inputs(name: str, settings: type[TrainingSettings], shown: tuple[str, ...]) -> list[io.Input]:
    """What the training of a VAE's decoder is told: the VAE, the pictures, the name, by default `name`, and the settings."""
    return [
        io.Vae.Input("vae", tooltip="The VAE to start from: that of an image model. It is not changed."),
        *places_inputs(name),
        *widgets(settings, shown),
    ]


def places_inputs(name: str) -> list[io.Input]:
    """Where every training reads and writes. name: the default of the widget of that name."""
    return [
        io.String.Input(
            "pictures",
            default="my_pictures",
            tooltip="A folder in ComfyUI's input folder. All pictures in it and in its subfolders are used; those "
            "that cannot be read or are smaller than crop are left out, and the host's log names them.",
        ),
        io.String.Input(
            "name",
            default=name,
            tooltip="Of the file that is written into models/vae, and of the run's folder in output/reedit/training.",
        ),
    ]


def outputs(trained: str, shown: str) -> list[io.Output]:
    """What every training node gives. trained, shown: of its VAE and of a row of its samples."""
    return [
        io.Vae.Output(tooltip=f"The trained VAE. {trained}"),
        io.Image.Output(
            display_name="samples",
            tooltip=f"Pictures that were not trained on, a row each: the original, and what it is {shown}.",
        ),
        io.String.Output(display_name="log", tooltip="The figures, a line for each time they were taken."),
        io.String.Output(display_name="file", tooltip="The file's name, as the VAE loaders list it."),
    ]


# --- what it starts from, and where it goes ---------------------------------------------------------------------------


def base_of(vae: Any) -> StoredAutoencoder:
    """The tensors of a host VAE object, copied, so that they can be trained. ValueError if it is no KL autoencoder."""
    vae.throw_exception_if_invalid()
    kind = type(vae.first_stage_model).__name__
    advice = "Connect the VAE of an image model like SD1.5, SD2, SDXL, SD3 or Flux."
    if vae.latent_dim != 2:
        raise ValueError(f"vae ({kind}) is the VAE of a model of videos or sounds, which cannot be trained. {advice}")
    with torch.inference_mode(False):
        base = StoredAutoencoder({name: tensor.cpu().clone() for name, tensor in vae.get_sd().items()})
        try:
            read_config(base.in_ldm_layout())
        except ValueError as error:
            raise ValueError(f"vae ({kind}) cannot be trained: {error} {advice}") from error
    return base


def named_inside(folder: str | Path, name: str, socket: str) -> Path:
    """`inside`, with the name of the input in its error."""
    try:
        return inside(folder, name)
    except ValueError as error:
        raise ValueError(f"{socket}: {error}") from error


@dataclass(frozen=True)
class Places:
    """Where a training reads and writes. file: the output's name as loaders list it."""

    pictures: Path
    output: Path
    run: Path
    file: str


def places_of(pictures: str, name: str) -> Places:
    """The places that the widgets name. Raises ValueError where one is outside the host's folders."""
    folder = named_inside(folder_paths.get_input_directory(), pictures.strip().rstrip("/\\"), "pictures")
    bare, vae_folder = name.strip().removesuffix(SUFFIX), folder_paths.get_folder_paths("vae")[0]
    named_inside(vae_folder, bare, "name")
    output = named_inside(vae_folder, f"{bare}{SUFFIX}", "name")
    run = named_inside(output_folder(), f"{RUNS}/{bare}", "name")
    return Places(folder, output, run, output.relative_to(Path(vae_folder).resolve()).as_posix())


def refuse_to_replace(path: Path) -> ValueError:
    return ValueError(f"name: {path} is there already, and is no file that this node wrote. Give another name.")


def check_reed_output(path: Path, base: StoredAutoencoder) -> None:
    """Raise ValueError if a file is there that this training must not replace: any but another one of its own."""
    if not path.exists():
        return
    try:
        there = read_autoencoder(path)
        ours = json.loads(there.metadata.get("reedit", "{}")).get("kind") == KIND
    except (ValueError, AttributeError):
        ours = False
    if not ours:
        raise refuse_to_replace(path)
    decoder, given = there.in_ldm_layout(), base.in_ldm_layout()
    names = [name for name in given if name.startswith("decoder.")]
    if all(name in decoder and torch.equal(decoder[name].to(given[name].dtype), given[name]) for name in names):
        raise ValueError(f"name: {path} is the file of the VAE that is connected as vae. Give another name.")


def check_epsilon_output(path: Path) -> None:
    """Raise ValueError if a file is there that is no eps-VAE decoder."""
    if path.exists():
        try:
            read_epsilon_decoder(path)
        except ValueError as error:
            raise refuse_to_replace(path) from error


# --- running it -------------------------------------------------------------------------------------------------------


def show_progress(steps: int) -> Callable[[Progress], None]:
    """What tells the host of every step, shows it each new sample grid, and stops where it wants to stop."""
    bar = comfy.utils.ProgressBar(steps)

    def show(progress: Progress) -> None:
        grid = progress.grid
        preview = None if grid is None else ("JPEG", to_image(grid.movedim(0, -1)), PREVIEW)
        bar.update_absolute(progress.step, progress.steps, preview)
        # The bar looks for an interrupt only as often as it is drawn.
        comfy.model_management.throw_exception_if_processing_interrupted()

    return show


def train_in_host(
    title: str, train: Callable[..., list[dict[str, Any]]], base: Any, places: Places, settings: Any
) -> list[dict[str, Any]]:
    """A training where the host runs nodes: in inference mode, its models in the graphics card's memory.

    title: of the node, for messages. train: `train_reed`, or another that is called as it is.
    """
    comfy.model_management.unload_all_models()
    cpu = comfy.model_management.get_torch_device().type == "cpu"
    show, run = show_progress(settings.steps), places.run
    try:
        with torch.inference_mode(False), torch.enable_grad():
            return train(base, places.pictures, places.output, settings, run, on_step=show, cpu=cpu)
    except comfy.model_management.InterruptProcessingException:
        logging.warning("%s was stopped; run it again as it is to go on. Its state is in %s", title, run)
        raise
    except ValueError as error:
        if str(run) not in str(error):
            raise
        raise ValueError(f"{error} (The folder is called what name says: another name is another run.)") from error
    finally:
        comfy.model_management.soft_empty_cache()


def log_of(rows: list[dict[str, Any]]) -> str:
    """A run's figures, a line for each row."""
    return "\n".join("  ".join(f"{name} {value:.6g}" for name, value in row.items()) for row in rows)


def last_samples(run: Path, step: int) -> Tensor:
    """The sample grid that a run wrote after `step`, (1, H, W, 3) in 0..1."""
    with Image.open(run / "samples" / f"{step:07}.png") as grid:
        return torch.from_numpy(np.array(grid.convert("RGB"), np.float32))[None] / 255


def outcome(
    node: type[io.ComfyNode], trained: Any, rows: list[dict[str, Any]], places: Places, steps: int
) -> io.NodeOutput:
    """What a training node gives, and what it shows on itself."""
    grid, log = last_samples(places.run, steps), log_of(rows)
    shown: Mapping[str, Any] = {**ui.PreviewImage(grid, cls=node).as_dict(), "text": (log,)}
    return io.NodeOutput(trained, grid, log, places.file, ui=shown)


class ReEditTrainREED(io.ComfyNode):
    settings: ClassVar[type[REEDSettings]] = REEDSettings

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditTrainREED",
            display_name="ReEdit Train REED",
            category="ReEdit/training",
            description="Trains the decoder of your VAE, on your pictures, to survive being encoded and decoded many times. "
            "The latents stay what they are, so the new VAE takes the old one's place in every graph. A run that was "
            "stopped goes on when it is run again.",
            search_aliases=["train vae", "reed-vae", "finetune decoder"],
            inputs=inputs("reed", cls.settings, SHOWN_REED),
            outputs=outputs("Load REED-VAE and ComfyUI's own Load VAE load its file.", "after passes 1, 5, 15 and 25"),
            is_output_node=True,
        )

    @classmethod
    def execute(cls, vae: Any, pictures: str, name: str, **settings: Any) -> io.NodeOutput:
        # Diffusers takes seconds to import, for which the host's start would have to wait.
        from ..models.training.train_reed import train_reed

        base, chosen, places = base_of(vae), cls.settings(**settings), places_of(pictures, name)
        check_reed_output(places.output, base)
        rows = train_in_host("ReEdit Train REED", train_reed, base, places, chosen)
        trained = load_kl_vae(places.output, dtype=vae.vae_dtype)
        trained.memory_used_encode = vae.memory_used_encode  # by it the host splits batches, which can change last bits
        return outcome(cls, trained, rows, places, chosen.steps)


class ReEditTrainEpsilonVAE(io.ComfyNode):
    settings: ClassVar[type[EpsilonSettings]] = EpsilonSettings

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReEditTrainEpsilonVAE",
            display_name="ReEdit Train eps-VAE",
            category="ReEdit/training",
            description="Trains a new decoder for the latents of your VAE, on your pictures: one that makes a picture by "
            "denoising in one to three steps (eps-VAE). The encoder and the latents stay what they are. A run that was "
            "stopped goes on when it is run again.",
            search_aliases=["train vae", "epsilon vae", "diffusion decoder"],
            inputs=inputs("epsilon", cls.settings, SHOWN_EPSILON),
            outputs=outputs("Load eps-VAE loads its file.", "decoded in one step and in three"),
            is_output_node=True,
        )

    @classmethod
    def execute(cls, vae: Any, pictures: str, name: str, **settings: Any) -> io.NodeOutput:
        # Diffusers takes seconds to import, for which the host's start would have to wait.
        from ..models.training.train_epsilon import train_epsilon

        base, chosen, places = base_of(vae), cls.settings(**settings), places_of(pictures, name)
        check_epsilon_output(places.output)
        rows = train_in_host("ReEdit Train eps-VAE", train_epsilon, base, places, chosen)
        return outcome(cls, load_epsilon_vae(places.output, vae), rows, places, chosen.steps)
