"""Trains the demo's eps-VAE decoders and those that they are compared with, each pair at the same cost.

`python -m tiny_sd.train_epsilon [ARM …]` in tests/. A run that was stopped goes on. Weights and logs go to weights/.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the pack's models, which need no host
from models.autoencoders.epsilon import EpsilonDecoder
from models.autoencoders.epsilon_layout import StoredEpsilonDecoder, read_epsilon_decoder
from models.autoencoders.epsilon_network import EpsilonNetwork
from models.training.epsilon import EpsilonSettings
from models.training.reed import REEDTask
from models.training.start import load_base, marks_entry
from models.training.train_epsilon import train_epsilon

from .deterministic_decoder import DeterministicTask
from .differences import write_difference
from .train_autoencoder import DEMO as DEMO_AUTOENCODER
from .train_autoencoder import RATIO_8 as AUTOENCODER_RATIO_8
from .train_autoencoder import file_of
from .train_reed import ARMS as REED_ARMS
from .train_reed import PICTURES, draw_pictures, report, train_task
from .training_loop import RUNS_FOLDER, WEIGHTS_FOLDER, chosen_names

# LPIPS's weights cannot be had here, and MS-SSIM takes twice the time of all else: neither kind of decoder has it. At a
# weight of 0.01 the adversary drew stripes into an earlier decoder. Times: decoding in 1 to 3 steps is at 0.77 and more,
# where the paper's own distribution has few.
SHARED = EpsilonSettings(
    steps=3000,
    batch=8,
    crop=64,
    precision="bfloat16",
    learning_rate=1.5e-3,
    warm_up=50,
    average_decay=0.995,
    perceptual=0.0,
    adversarial=0.002,
    adversarial_start=1500,
    time_mean=2.0,
    time_deviation=1.5,
    preconditioned=True,
    discriminator_width=16,
    discriminator_rate=0.5,
    penalty=0.3,  # 10 holds it at knowing nothing: pictures of 64 px want far less (StyleGAN2-ADA goes by the side)
    decay=True,
    held_out=32,
    validate_every=250,
    save_every=50,
)


@dataclass(frozen=True)
class Arm:
    """One decoder: over which autoencoder, of which size (an eps-VAE's), and its file in weights/.

    whole: the file holds the autoencoder's encoder too. small: it is kept in 8 bits, since only the benchmark reads it.
    """

    base: Path
    output: str
    settings: EpsilonSettings
    deterministic: bool = False
    whole: bool = False
    small: bool = False

    @property
    def log(self) -> Path:
        return (WEIGHTS_FOLDER / self.output).with_suffix(".jsonl")


LONGER = replace(SHARED, steps=6000, adversarial_start=3000)  # the latent tells less, so there is more to learn
RATIO_4, RATIO_8 = file_of(DEMO_AUTOENCODER), file_of(AUTOENCODER_RATIO_8)
ARMS = {
    "epsilon": Arm(RATIO_4, "tiny_sd_epsilon_decoder.safetensors", replace(SHARED, size="tiny")),
    "epsilon_ratio_8": Arm(
        RATIO_8, "epsilon/epsilon_ratio_8.safetensors", replace(LONGER, size="tiny, 4 levels"), small=True
    ),
    "deterministic": Arm(RATIO_4, "epsilon/deterministic_ratio_4.safetensors", SHARED, deterministic=True),
    "deterministic_ratio_8": Arm(
        RATIO_8, "epsilon/autoencoder_ratio_8.safetensors", LONGER, deterministic=True, whole=True, small=True
    ),
}
# The demo's eps-VAE decoder, trained on by REED's first-step loss through one step from one noise.
REED = "epsilon_reed"
REED_SETTINGS = replace(REED_ARMS["latent"], steps=400)


def train_arm(name: str) -> None:
    arm = ARMS[name]
    kept, run = WEIGHTS_FOLDER / arm.output, RUNS_FOLDER / name
    kept.parent.mkdir(exist_ok=True)
    output = run.with_suffix(".safetensors") if arm.small else kept
    if arm.deterministic:
        stored, network = load_base(arm.base)
        task = DeterministicTask(network, arm.settings)
        rows = train_task(task, arm.settings, run, {"base": stored.fingerprint()})
        about = {"kind": "deterministic decoder", "settings": asdict(arm.settings), "figures": rows[-1]}
        metadata = {"reedit": json.dumps(about)} | marks_entry(stored.in_ldm_layout())
        trained = stored.with_decoder(task.trained_tensors())
        (trained if arm.whole else trained.decoder_only()).save(output, metadata)
    else:
        train_epsilon(arm.base, PICTURES, output, arm.settings, run, partial(report, run), cpu=True)
    if arm.small:
        write_difference(output, None, kept)
    shutil.copyfile(run / "log.jsonl", arm.log)


def train_with_reed() -> None:
    arm, run = ARMS["epsilon"], RUNS_FOLDER / REED
    output, decoder_file = WEIGHTS_FOLDER / "epsilon" / f"{REED}.safetensors", RUNS_FOLDER / f"{REED}.safetensors"
    stored, encoder = load_base(arm.base)
    start_file = WEIGHTS_FOLDER / arm.output
    start = read_epsilon_decoder(start_file)
    decoder = EpsilonDecoder(start.config)
    decoder.unet.load_state_dict({name: tensor.float() for name, tensor in start.tensors.items()})
    task = REEDTask(EpsilonNetwork(encoder, decoder), REED_SETTINGS)
    rows = train_task(task, REED_SETTINGS, run, {"base": stored.fingerprint()})
    about = {"settings": asdict(REED_SETTINGS), "figures": rows[-1]}
    tensors = {name: tensor.half() for name, tensor in task.trained_tensors().items()}
    StoredEpsilonDecoder(start.config, tensors, about, start.metadata).save(decoder_file)
    write_difference(decoder_file, start_file, output)
    shutil.copyfile(run / "log.jsonl", output.with_suffix(".jsonl"))


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = chosen_names(__doc__, [*ARMS, REED])
    draw_pictures()
    for name in chosen:
        if name == REED:
            train_with_reed()
        else:
            train_arm(name)


if __name__ == "__main__":
    main()
