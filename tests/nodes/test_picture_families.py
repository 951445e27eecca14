"""What ReEdit Latent Conditioning gives to models of the real layouts: seen where it reaches the network."""

import comfy.latent_formats
import comfy.ldm.chroma.model
import comfy.ldm.lumina.model
import comfy.ldm.wan.model
import comfy.samplers
import nodes as host_nodes
import pytest
import torch
from comfy_extras.nodes_custom_sampler import RandomNoise
from comfy_extras.nodes_edit_model import ReferenceLatent
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from host_graph import counted_rows, guider, sampled
from random_families import FLUX, LAYOUTS, ON_META, PICTURE_LAYOUTS, layout_of, loaded, on_meta, random_vae
from reedit.nodes.emilie import ReEditLatentConditioning
from reedit.nodes.instruct import ReEditInstructGuider
from reedit.nodes.picture_conditioning import INPAINT, INSTRUCT, REFERENCE, picture_kind
from reedit.nodes.stochastic_sampler import stochastic_sampler

# --- which way a model takes a picture, which costs nothing to ask ---------------------------------------------------

KINDS = {
    "sd15_instruct": INSTRUCT,
    "sdxl_instruct": INSTRUCT,
    "cosxl_edit": INSTRUCT,
    "sd15_inpaint": INPAINT,
    "flux_fill": INPAINT,
    "flux_kontext": REFERENCE,
    "flux2": REFERENCE,
    "qwen_image_edit": REFERENCE,
}


def chroma():
    """With one block of each kind."""
    network = comfy.ldm.chroma.model.Chroma(
        **{name: value for name, value in FLUX.items() if name != "guidance_embed"} | {"vec_in_dim": None},
        **{"in_dim": 64, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5, "depth": 1, "depth_single_blocks": 1},
        **ON_META,
    )
    return {name.replace("_norm.weight", "_norm.scale"): shape for name, shape in layout_of(network).items()}


def wan():
    """Wan 2.1, image to video, with one block."""
    return layout_of(comfy.ldm.wan.model.WanModel(model_type="i2v", in_dim=36, num_layers=1, **ON_META))


def z_image(**omni):
    """With two blocks."""
    size = {"dim": 3840, "cap_feat_dim": 2560, "n_layers": 2, "n_heads": 30, "n_kv_heads": 30, "qk_norm": True}
    rest = {"ffn_dim_multiplier": 8 / 3, "z_image_modulation": True, "pad_tokens_multiple": 32}
    return layout_of(
        comfy.ldm.lumina.model.NextDiT(in_channels=16, axes_dims=[32, 48, 48], **size, **rest, **omni, **ON_META)
    )


def test_of_two_z_images_the_one_made_for_references_is_recognised():
    assert picture_kind(on_meta(z_image(siglip_feat_dim=1152))) == REFERENCE
    with pytest.raises(ValueError, match="model is a Lumina2, which takes no picture"):
        picture_kind(on_meta(z_image()))


@pytest.mark.parametrize("name", KINDS)
def test_a_model_is_recognised(name):
    assert picture_kind(on_meta(PICTURE_LAYOUTS[name]())) == KINDS[name]


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (LAYOUTS["sd15"], "model is a BaseModel, which takes no picture"),
        (LAYOUTS["sdxl"], "model is a SDXL, which takes no picture"),
        (LAYOUTS["sd3"], "model is a SD3, which takes no picture"),
        # It inherits from Flux what hands a reference to the network, whose forward does not read it.
        (chroma, "model is a Chroma, which takes no picture"),
        (
            PICTURE_LAYOUTS["flux_canny"],
            r"model is a Flux that takes a control picture \(edges, depth\), not one to edit",
        ),
        (wan, "model is a WAN21, which works on latents of videos"),
    ],
    ids=["sd15", "sdxl", "sd3", "chroma", "flux_canny", "wan"],
)
def test_other_models_are_refused_with_what_to_load(layout, words):
    with pytest.raises(ValueError, match=words + r".*Load an InstructPix2Pix model.*Flux Fill.*Flux Kontext"):
        picture_kind(on_meta(layout()))


# --- what reaches the network -----------------------------------------------------------------------------------------


def calls_of(family, positive, negative, latent):
    """((rows, channels, ...) input, ref_latents) of the network's one call in a step of the host's KSampler."""
    calls = []
    hook = family.model.model.diffusion_model.register_forward_pre_hook(
        lambda module, arguments, named: calls.append((arguments[0].clone(), named.get("ref_latents"))),
        with_kwargs=True,
    )
    try:
        (sampled,) = host_nodes.KSampler().sample(
            family.model, 1, 1, 2.0, "euler", "simple", positive, negative, latent
        )
    finally:
        hook.remove()
    (call,) = calls
    return *call, sampled["samples"]


def execute(family, latent, *mask_and_vae, **options):
    return ReEditLatentConditioning.execute(
        family.model, family.conditioning, family.conditioning, latent, *mask_and_vae, **options
    ).result


@pytest.mark.parametrize(
    # The scale is SDXL's. CosXL was trained on scaled latents; the others on what the encoder gives (PAPERS.md 4.3).
    ("name", "scale"),
    [("sd15_instruct", 1.0), ("sdxl_instruct", 1.0), ("cosxl_edit", 0.13025)],
)
def test_instruct_pix2pix_reads_the_latent_in_its_familys_scale(name, scale, tiny_vae, scenes):
    latent = {"samples": tiny_vae.encode(scenes[:2])}
    with loaded(name) as family:
        ours, references, _ = calls_of(family, *execute(family, latent))
        conditioning = family.conditioning
        theirs = InstructPixToPixConditioning.execute(conditioning, conditioning, scenes[:2], tiny_vae).result
        reached, _, _ = calls_of(family, *theirs[:2], latent)
    picture = ours[:, family.latent_channels :]
    assert references is None and picture.shape[0] == 4  # two pictures, with the prompt and without
    torch.testing.assert_close(picture, (scale * latent["samples"]).repeat(2, 1, 1, 1))
    assert torch.equal(ours, reached)


INPAINT_FAMILIES = {"sd15_inpaint": 1, "flux_fill": 64}  # and how many channels of a mask the network reads


@pytest.fixture(scope="module", params=INPAINT_FAMILIES)
def inpainting(request):
    """An inpainting model, and a VAE of its channels with the ratio that its family has."""
    with loaded(request.param) as family:
        yield family, random_vae(family.latent_channels)


@pytest.fixture
def pixels():
    return torch.rand(2, 64, 64, 3)


@pytest.fixture
def mask():
    """Hard on the left; on the right it fades out, so that rounding matters."""
    mask = torch.zeros(1, 64, 64)
    mask[:, 11:42, 19:40] = 1.0
    mask[:, 11:42, 40:50] = torch.linspace(0.95, 0.05, 10)
    return mask


def assert_same_but_for_the_masked_latent(ours, theirs):
    for one, other in zip(ours[:2], theirs[:2], strict=True):
        (_, options), (_, other_options) = one[0], other[0]
        assert options.keys() == other_options.keys()
        assert torch.equal(options["concat_mask"], other_options["concat_mask"])
        assert options["concat_latent_image"].shape == other_options["concat_latent_image"].shape
    assert torch.equal(ours[2]["samples"], theirs[2]["samples"])
    assert ours[2].keys() - {"reedit"} == theirs[2].keys()
    if "noise_mask" in theirs[2]:
        assert torch.equal(ours[2]["noise_mask"], theirs[2]["noise_mask"])


@pytest.mark.parametrize("noise_mask", [True, False])
def test_inpainting_is_conditioned_as_by_the_hosts_node_but_for_the_masked_latent(inpainting, pixels, mask, noise_mask):
    family, vae = inpainting
    latent = {"samples": vae.encode(pixels)}
    host_node = host_nodes.InpaintModelConditioning()
    for given in (mask, torch.cat([mask, 1 - mask]), mask[:, ::2, ::2]):
        ours = execute(family, latent, given, vae, noise_mask=noise_mask)
        theirs = host_node.encode(family.conditioning, family.conditioning, pixels, vae, given, noise_mask)
        assert_same_but_for_the_masked_latent(ours, theirs)


def test_the_latents_noise_mask_is_the_mask_where_none_is_connected(inpainting, pixels, mask):
    family, vae = inpainting
    latent = {"samples": vae.encode(pixels)}
    connected = execute(family, latent, mask, vae)
    (masked,) = host_nodes.SetLatentNoiseMask().set_mask(latent, mask)
    own = execute(family, masked, None, vae)
    for key in ("concat_mask", "concat_latent_image"):
        assert torch.equal(own[0][0][1][key], connected[0][0][1][key])
    other = execute(family, masked, 1 - mask, vae)
    assert torch.equal(other[2]["noise_mask"], 1 - mask[:, None])


def test_mask_and_masked_latent_reach_the_inpainting_network(inpainting, pixels, mask):
    family, vae = inpainting
    latent = {"samples": vae.encode(pixels)}
    plus, minus, passed = execute(family, latent, mask, vae)
    ours, _, _ = calls_of(family, plus, minus, passed)
    channels = family.latent_channels
    scaled = family.model.model.process_latent_in(plus[0][1]["concat_latent_image"])
    if family.name == "flux_fill":  # the picture, then the mask, each of whose channels is one pixel of the cells
        picture, read_mask = ours[:, channels : 2 * channels], ours[:, 2 * channels :]
        expected = torch.nn.functional.pixel_unshuffle(mask[:, None], 8)
    else:  # the mask, a value for each cell, then the picture
        read_mask, picture = ours[:, channels : channels + 1], ours[:, channels + 1 :]
        expected = torch.nn.functional.interpolate(mask[:, None], (8, 8), mode="bilinear").round()
    assert read_mask.shape[1] == INPAINT_FAMILIES[family.name]
    torch.testing.assert_close(read_mask, expected.expand(4, -1, -1, -1))
    torch.testing.assert_close(picture, scaled.repeat(2, 1, 1, 1))
    # What the mask does not touch is the latent itself; in what it covers nothing of the picture is left.
    process = family.model.model.process_latent_in
    torch.testing.assert_close(picture[:2, :, 6:], process(latent["samples"])[:, :, 6:])
    assert torch.equal(picture[0, :, 2:5, 3:5], picture[1, :, 2:5, 3:5])
    # The host's own masked latent arrives in the same channels.
    host_node = host_nodes.InpaintModelConditioning()
    theirs = host_node.encode(family.conditioning, family.conditioning, pixels, vae, mask)
    reached, _, _ = calls_of(family, *theirs)
    assert torch.equal(reached[:, :channels], ours[:, :channels])
    assert reached.shape == ours.shape


def test_an_inpainting_model_says_what_to_connect(inpainting, pixels, mask):
    family, vae = inpainting
    latent = {"samples": vae.encode(pixels)}
    with pytest.raises(ValueError, match=r"inpainting model, and there is no mask. Connect mask, or set a noise mask"):
        execute(family, latent, None, vae)
    with pytest.raises(ValueError, match=r"inpainting model, which is shown grey .* Connect vae"):
        execute(family, latent, mask)
    with pytest.raises(ValueError, match="this VAE decodes latents of 5"):
        execute(family, latent, mask, random_vae(5))


REFERENCE_SCALE = {  # a family's latent as its network reads it
    "flux_kontext": lambda z: (z - 0.1159) * 0.3611,  # as its own program prints
    "flux2": lambda z: z,
    "qwen_image_edit": lambda z: (
        (z - torch.tensor(QWEN.latents_mean.flatten().tolist()).view(1, 16, 1, 1, 1))
        / torch.tensor(QWEN.latents_std.flatten().tolist()).view(1, 16, 1, 1, 1)
    ),
}
QWEN = comfy.latent_formats.Wan21()


@pytest.fixture(
    scope="module",
    params=["flux_kontext", "flux2", pytest.param("qwen_image_edit", marks=pytest.mark.slow)],
)
def reference_family(request):
    with loaded(request.param) as family:
        yield family


def reference_samples(family, batch=1):
    """A latent in the layout that the family's VAE gives."""
    extra = (1,) if family.name == "qwen_image_edit" else ()
    return torch.randn(batch, family.latent_channels, *extra, 8, 8)


def test_a_reference_reaches_the_network_scaled_and_matters(reference_family):
    family = reference_family
    latent = {"samples": reference_samples(family)}
    _, references, sampled = calls_of(family, *execute(family, latent))
    (reference,) = references
    torch.testing.assert_close(
        reference, REFERENCE_SCALE[family.name](latent["samples"]).expand_as(reference), rtol=1e-4, atol=1e-5
    )
    _, without, alone = calls_of(family, family.conditioning, family.conditioning, latent)
    assert without is None
    assert (sampled - alone).norm() > 1e-3 * alone.norm()


def test_a_reference_is_given_as_by_the_hosts_node(reference_family):
    family = reference_family
    latent = {"samples": reference_samples(family)}
    plus, minus, _ = execute(family, latent)
    (theirs,) = ReferenceLatent.execute(family.conditioning, latent).result
    for ours in (plus, minus):
        assert ours[0][1].keys() == theirs[0][1].keys()
        assert ours[0][1]["reference_latents"][0] is theirs[0][1]["reference_latents"][0]
    assert torch.equal(calls_of(family, plus, minus, latent)[2], calls_of(family, theirs, theirs, latent)[2])


def test_a_batch_of_references_and_a_further_picture(reference_family):
    family = reference_family
    latent = {"samples": reference_samples(family, 2)}
    further = {"samples": reference_samples(family)}
    (conditioning,) = ReferenceLatent.execute(family.conditioning, further).result
    plus, minus, passed = ReEditLatentConditioning.execute(family.model, conditioning, conditioning, latent).result
    _, references, _ = calls_of(family, plus, minus, passed)
    scaled = REFERENCE_SCALE[family.name]
    for reference, expected in zip(references, (latent, further), strict=True):
        wanted = scaled(expected["samples"]).expand_as(latent["samples"])
        torch.testing.assert_close(reference, torch.cat([wanted, wanted]), rtol=1e-4, atol=1e-5)


def simple(family, steps):
    return comfy.samplers.calculate_sigmas(family.model.get_model_object("model_sampling"), "simple", steps)


def test_the_instruct_guider_at_scale_one_is_the_hosts_guider_with_a_reference(reference_family):
    """As distilled models are used: nothing but the instruction is computed."""
    family = reference_family
    latent = {"samples": reference_samples(family)}
    ones = {"text_scale": 1.0, "image_scale": 1.0}
    guide = ReEditInstructGuider.execute(family.model, family.conditioning, family.conditioning, latent, **ones)[0]
    (theirs,) = ReferenceLatent.execute(family.conditioning, latent).result
    noise, sigmas = RandomNoise.execute(1)[0], simple(family, 2)
    with counted_rows(family.model) as rows:
        ours = sampled(guide, sigmas, latent, noise)
    assert rows == [1, 1]
    torch.testing.assert_close(ours, sampled(guider(family.model, theirs), sigmas, latent, noise))


def test_the_instruct_guider_holds_an_edit_with_a_reference_inside_its_mask(reference_family):
    """Three-way: the branch without the picture has fewer tokens, and so a call of its own."""
    family = reference_family
    latent, mask = {"samples": reference_samples(family)}, torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1.0
    given = {"text_scale": 2.0, "image_scale": 1.5, "mask": mask}
    guide = ReEditInstructGuider.execute(family.model, family.conditioning, family.conditioning, latent, **given)[0]
    with counted_rows(family.model) as rows:
        result = sampled(guide, simple(family, 1), latent, RandomNoise.execute(1)[0], stochastic_sampler(0.5, 1))
    assert sorted(rows) == [1, 2]
    assert torch.equal(result[..., :4], latent["samples"][..., :4])
    assert bool((result[..., 4:] != latent["samples"][..., 4:]).any())


def test_the_instruct_guider_refuses_an_inpainting_model(inpainting, pixels):
    family, vae = inpainting
    latent = {"samples": vae.encode(pixels)}
    with pytest.raises(ValueError, match="model is an inpainting model, which takes no instruction"):
        ReEditInstructGuider.execute(family.model, family.conditioning, family.conditioning, latent)


def test_a_latent_of_another_family_is_refused(reference_family):
    family = reference_family
    samples = reference_samples(family)
    with pytest.raises(
        ValueError, match=f"samples has 4 channels, but this model works on latents of {samples.shape[1]}"
    ):
        execute(family, {"samples": samples[:, :4]})
    other = samples[:, :, 0] if samples.ndim == 5 else samples[:, :, None]
    with pytest.raises(ValueError, match=f"samples has {other.ndim} dimensions.* works on latents of {samples.ndim}"):
        execute(family, {"samples": other})
