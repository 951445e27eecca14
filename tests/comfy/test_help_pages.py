"""The help pages in web/docs: each says all that its node has, and nothing that it has not, and shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from reedit.nodes import NODES

PAGES = Path(__file__).parents[2] / "web" / "docs"
PICTURES = PAGES / "pictures"
MOST_BYTES = 60_000  # all pictures stand in the registry's archive, which has to stay small
REED_VAE, EPSILON_VAE, AIDI, EMILIE, RPIAE = "2504.18989", "2410.04081", "2309.04907", "2309.00613", "2603.19206"
# The paper whose method a node is. Sessions, timelines and meters are of no paper.
PAPERS = {
    "ReEditLoadREEDVAE": REED_VAE,
    "ReEditTrainREED": REED_VAE,
    "ReEditRoundTripTest": REED_VAE,
    "ReEditLoadEpsilonVAE": EPSILON_VAE,
    "ReEditEpsilonDecode": EPSILON_VAE,
    "ReEditTrainEpsilonVAE": EPSILON_VAE,
    "ReEditInvert": AIDI,
    "ReEditInversionSampler": AIDI,
    "ReEditInversionReport": AIDI,
    "ReEditPromptWords": AIDI,
    "ReEditBlendedGuider": AIDI,
    "ReEditGuidanceMask": AIDI,
    "ReEditAttentionMask": AIDI,
    "ReEditStochasticSampler": AIDI,
    "ReEditCorrectDecoding": AIDI,  # its fixed-point iteration, on a VAE
    "ReEditLatentConditioning": EMILIE,
    "ReEditInstruction": EMILIE,
    "ReEditInstructGuider": EMILIE,
    "ReEditGradientMask": EMILIE,
    "ReEditPrintedUpdate": EMILIE,
    "ReEditLoadRPiAE": RPIAE,
    "ReEditTrainRPiAE": RPIAE,
    "ReEditSemanticDrift": RPIAE,
    "ReEditLoadDINOv2": RPIAE,  # what an RPiAE is trained from
    "ReEditAlign": "2605.08250",  # VAE-LFA, beside the five
}

every_node = pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)


def page_of(node) -> str:
    return (PAGES / f"{node.__name__}.md").read_text(encoding="utf-8")


def sections(page: str) -> dict[str, str]:
    """{heading: text} of the second level, what stands before the first heading under ""."""
    first, *rest = re.split(r"^## +", page, flags=re.MULTILINE)
    return {"": first, **dict(part.split("\n", 1) for part in rest)}


def names_in_list(section: str) -> set[str]:
    """What is bold in a section's lists, whose items are a line each."""
    items = "\n".join(re.findall(r"^ *- .*", section, flags=re.MULTILINE))
    return set(re.findall(r"\*\*(.+?)\*\*", items))


def names_of(node) -> tuple[set[str], set[str]]:
    """A node's inputs and outputs as the page shows them: an output without a name goes by its type."""
    schema = node.define_schema()
    return {item.id for item in schema.inputs}, {
        item.display_name or item.id or item.io_type for item in schema.outputs
    }


def test_every_page_is_of_a_node():
    assert {page.stem for page in PAGES.glob("*.md")} == {node.__name__ for node in NODES}


@every_node
def test_the_page_names_every_input_and_output(node):
    said = sections(page_of(node))
    inputs, outputs = names_of(node)
    assert inputs - names_in_list(said["Inputs"]) == set()
    assert outputs - names_in_list(said["Outputs"]) == set()


@every_node
def test_the_page_names_nothing_that_the_node_has_not(node):
    said = sections(page_of(node))
    inputs, outputs = names_of(node)
    # An output may be explained by an input, and the other way round.
    assert names_in_list(said["Inputs"]) | names_in_list(said["Outputs"]) <= inputs | outputs


@every_node
def test_the_page_says_what_the_node_does_and_when_it_fails(node):
    said = sections(page_of(node))
    title, _, rest = said[""].partition("\n")
    assert title == f"# {node.define_schema().display_name}"
    assert rest.strip()[:1].isalpha()
    assert items_of(said["When it fails"])


def items_of(section: str) -> list[str]:
    """The items of a section's lists."""
    return re.findall(r"^- .{20,}", section, flags=re.MULTILINE)


@every_node
def test_the_page_shows_the_node(node):
    (text,) = re.findall(rf"^!\[(.+)\]\(pictures/{node.__name__}\.jpg\)$", page_of(node), flags=re.MULTILINE)
    assert len(text) > 20  # it says what is to be seen
    file = PICTURES / f"{node.__name__}.jpg"
    assert file.stat().st_size <= MOST_BYTES
    with Image.open(file) as picture:
        assert picture.format == "JPEG" and 200 <= picture.width <= 700


@every_node
def test_the_page_names_the_paper(node):
    if paper := PAPERS.get(node.__name__):
        assert f"arXiv {paper}" in page_of(node)


def test_no_picture_lies_there_that_no_page_uses():
    used = {
        name for page in PAGES.glob("*.md") for name in re.findall(r"\]\(pictures/(.+?)\)", page.read_text("utf-8"))
    }
    assert {file.name for file in PICTURES.iterdir()} == used
