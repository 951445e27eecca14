"""Writes workflows/*.json from edit_chain.py and *_workflow(s).py. Run it after changing a node or a graph:

`python tests/comfy/author_workflows.py` with the environment's Python and COMFYUI_PATH set (it asks a real host what its
nodes look like).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chain_builder import BOXES, DRAWN_FOR, MODELS
from edit_chain import our_chain
from epsilon_workflows import EPSILON_DECODE_NOTE, TRAIN_EPSILON_NOTE, epsilon_decode, train_epsilon
from flagship_workflow import MANY_TOOLS_NOTE, many_tools_one_latent
from guidance_workflows import attention_mask, prompt_edit
from instruct_workflows import instruct_chain, multi_mask_instruct
from inversion_workflow import invert_and_reconstruct
from live_server import LiveServer
from reed_workflows import REED_ROUND_TRIP_NOTE, TRAIN_REED_NOTE, reed_round_trip, train_reed
from rpiae_workflows import (
    RPIAE_NOTE,
    SEMANTIC_DRIFT_NOTE,
    TRAIN_RPIAE_NOTE,
    rpiae,
    semantic_drift,
    train_rpiae,
)
from session_workflows import continue_tomorrow, paint_and_merge, undo_and_branch
from workflow_writer import WorkflowWriter

ROOT = Path(__file__).parents[2]
NOTES = {
    "mixed_edit_chain": f"""## Ten edits, three kinds of tool, one latent

Blue groups are **instruction edits**, green ones **masked repaints**, yellow ones **painting by hand** on the decoded
picture. The latent runs through all of them; pixels are encoded once at the start, and once for each time somebody paints.

- Put your picture into *the picture to edit*.
{DRAWN_FOR}
{BOXES}
- At the end: the picture, every step side by side, and what moved where nothing should have.
""",
    "undo_and_branch": f"""## Undo, branch, save

Two edits, then *ReEdit Checkout* goes back by one, and another second edit is made from there. Nothing is lost: the timeline
shows both branches, and the whole session is saved as one file in ComfyUI's output folder.

- *edit* in Checkout takes `back 1`, a number, a label, or `source`.
- The template *continue_tomorrow* opens the saved file and goes on with the other branch.
{DRAWN_FOR}
{BOXES}
""",
    "continue_tomorrow": """## Continue a saved session

Run the template *undo_and_branch* first: it saves the session that is opened here. *ReEdit Checkout* goes to the branch with
the white cross, by its label, and a third edit is made there. The latent is bit for bit the one that was saved.
""",
    "invert_and_reconstruct": """## Invert a picture, and see how exact it is

*ReEdit Invert* finds the noise from which the model makes exactly this picture; its report says in words and as a plot
whether it converged. Sampling from that noise, with the sigmas beside it, brings the picture back.

- Say what your picture shows in *what the picture shows*. Guidance stays at 1, both ways.
- All three take their steps from *BasicScheduler*.
- Group 2 is for graphs that you already have: only the sampler is exchanged. Group 3 is the same without us.
- *drift* shows the figures: the latent change, and the PSNR against the source as the VAE decodes it.
""",
    "prompt_edit": """## Edit by prompt: change a word, and only that changes

Put your picture into *the picture to edit*, at the size that your model likes. In *the two prompts* write what it shows, and
then the same with the change. Run: nothing else has to be set.

- *mask* shows where the model sees the words that changed. Outside of it the latent stays as it is, bit for bit.
- Not changed enough: raise *cfg* in *ReEdit Blended Guider*. A rim of the old is left: lower *low* and *high*.
- The old fades and nothing comes: raise *inject*. An edit that needs another outline wants less of it.
- Group 4 tries the same with some new noise inside the mask; change its seed for another try.
""",
    "attention_mask": """## A mask from words

*ReEdit Attention Mask* looks where in the picture the model sees some words of a prompt; nothing is sampled for that. The
mask goes to any node: here *Grow Mask* and *Set Latent Noise Mask*, and ComfyUI's own sampler repaints what was found.

- *prompt* says what your picture shows; *words* are those of its words that you want found.
- *what it is to show* is the whole prompt again, with the change. Nothing came: another seed in *KSampler*.
""",
    "instruct_chain": f"""## Instruction after instruction, on the latent

Each edit starts from the latent that the one before it made; nothing is encoded in between. Outside of a mask it stays bit
for bit.

- Write your instructions (to bypass a group, choose so in its menu), and move the boxes under *what all edits share*.
{BOXES}
- *text_scale* and *image_scale* are InstructPix2Pix's own: raise the first where too little changes, the second where too
  much.
- Groups 1 and 4 have no mask: the model finds the place by itself. In group 4 *ReEdit Align* is told it afterwards, and takes
  back what changed elsewhere.
- The last group shows what the update that EMILIE's paper prints makes of instruction 2 on the source, taken literally.
""",
    "multi_mask_instruct": f"""## Several instructions in one run, each in its own mask

*ReEdit Instruction* gives each instruction a mask and scales of its own; chain as many as you like. *ReEdit Instruct Guider*
carries all of them out in one sampling run, in about half the time of one run each.

- Move the boxes under *what all edits share*, and write your instructions.
{BOXES}
- Where one edit builds on another, use *instruct_chain* instead: there each sees what the one before it made.
""",
    "reed_round_trip": REED_ROUND_TRIP_NOTE,
    "train_reed": TRAIN_REED_NOTE,
    "epsilon_decode": EPSILON_DECODE_NOTE,
    "train_epsilon": TRAIN_EPSILON_NOTE,
    "semantic_drift": SEMANTIC_DRIFT_NOTE,
    "rpiae": RPIAE_NOTE,
    "train_rpiae": TRAIN_RPIAE_NOTE,
    "many_tools_one_latent": MANY_TOOLS_NOTE,
    "paint_and_merge": f"""## Paint, and go on from the latent

*ReEdit Merge Pixels* takes a mask of what was painted, or finds it, and encodes only a window around it. Every cell but those
and the ring beside them stays as it is, bit for bit.

- Group 1 paints a white plate with nodes, in a mask. Group 2 holds ComfyUI's *Painter*: run once, paint on the picture, run
  again; what was painted is found.
- Group 3 lets a model repaint the corner in which the plate lies.
{DRAWN_FOR}
{BOXES}
""",
}


def pack_version() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    match = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    assert match is not None
    return match[1]


def saved(name: str, graph: Callable[..., WorkflowWriter], kinds: tuple[str, ...]) -> Callable[[dict[str, Any]], Any]:
    """What writes one workflow, given the host's description of its nodes. kinds: the models that it loads."""
    models = {kind: MODELS[kind] for kind in kinds}

    def write(object_info: dict[str, Any]) -> dict[str, Any]:
        writer = graph({kind: entry["name"] for kind, entry in models.items()}, models)
        writer.note(NOTES[name], (-980, -420), (900, 300))
        to_be_had = [entry for entry in models.values() if "url" in entry]
        return writer.as_saved(object_info, pack_version(), to_be_had)

    return write


WORKFLOWS = {
    "mixed_edit_chain": saved("mixed_edit_chain", our_chain, ("instruct", "repaint", "vae")),
    "undo_and_branch": saved("undo_and_branch", undo_and_branch, ("instruct", "repaint", "vae")),
    "invert_and_reconstruct": saved("invert_and_reconstruct", invert_and_reconstruct, ("repaint", "vae")),
    "prompt_edit": saved("prompt_edit", prompt_edit, ("repaint", "vae")),
    "attention_mask": saved("attention_mask", attention_mask, ("repaint", "vae")),
    "instruct_chain": saved("instruct_chain", instruct_chain, ("instruct", "vae")),
    "multi_mask_instruct": saved("multi_mask_instruct", multi_mask_instruct, ("instruct", "vae")),
    "continue_tomorrow": saved("continue_tomorrow", continue_tomorrow, ("instruct", "vae")),
    "reed_round_trip": saved("reed_round_trip", reed_round_trip, ("vae", "reed")),
    "train_reed": saved("train_reed", train_reed, ("vae",)),
    "epsilon_decode": saved("epsilon_decode", epsilon_decode, ("vae", "epsilon")),
    "train_epsilon": saved("train_epsilon", train_epsilon, ("vae",)),
    "semantic_drift": saved("semantic_drift", semantic_drift, ("instruct", "vae", "dinov2")),
    "rpiae": saved("rpiae", rpiae, ("rpiae",)),
    "train_rpiae": saved("train_rpiae", train_rpiae, ("dinov2",)),
    "many_tools_one_latent": saved(
        "many_tools_one_latent", many_tools_one_latent, ("instruct", "repaint", "vae", "dinov2", "reed", "epsilon")
    ),
    "paint_and_merge": saved("paint_and_merge", paint_and_merge, ("repaint", "vae")),
}


def as_text(workflow: dict[str, Any]) -> str:
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    host, base_directory = Path(os.environ["COMFYUI_PATH"]), ROOT / "build" / "comfy"
    with tempfile.TemporaryDirectory() as scratch, LiveServer(host, base_directory, Path(scratch)) as server:
        object_info = server.get("/object_info")
    for name, build in WORKFLOWS.items():
        (ROOT / "workflows" / f"{name}.json").write_text(as_text(build(object_info)), encoding="utf-8")


if __name__ == "__main__":
    main()
