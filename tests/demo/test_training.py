"""What the shipped model was trained with computes what the pipeline does."""

import pytest


def test_training_reads_captions_as_the_tokenizer_does(pipe):
    import torch

    from training import captions
    from training.pools import tokenise

    content = captions.sample_content(64, torch.Generator().manual_seed(0))
    texts = [*captions.captions(content, 0), ""]
    told = pipe.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    assert torch.equal(tokenise(texts), told)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Untrained networks as training holds them, and plain diffusers on the folder that training writes of them."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    from training import architecture

    folder = tmp_path_factory.mktemp("fresh")
    models = architecture.parts(seed=5)
    torch.manual_seed(6)
    for parameter in models["unet"].conv_out.parameters():  # else too small to compare
        parameter.data.normal_(std=0.1)
    architecture.save(models, folder)
    for model in models.values():
        model.float()
    pipe = StableDiffusionXLPipeline.from_pretrained(str(folder))
    pipe.load_ip_adapter(
        str(folder), subfolder="ip_adapter", weight_name="ip-adapter.safetensors", image_encoder_folder="image_encoder"
    )
    return models, pipe


@pytest.mark.slow
def test_training_sees_words_sizes_and_noise_as_the_pipeline_does(fresh):
    import torch

    from training import architecture, denoising, plan, pools

    models, pipe = fresh
    text = "two large red stars"
    told = pools.encode_text(models["text_encoder"], models["text_encoder_2"], pools.tokenise([text, ""]))
    seen = pipe.encode_prompt(text, device="cpu", do_classifier_free_guidance=True, negative_prompt="")
    for mine, (right, blank) in zip(told, (seen[:2], seen[2:]), strict=True):
        torch.testing.assert_close(mine, torch.cat([right, blank]), rtol=1e-4, atol=1e-4)
    assert not pipe.encode_prompt(text, device="cpu", do_classifier_free_guidance=True)[
        1
    ].any()  # zeros, as in training
    levels = denoising.noise_levels("cpu")
    torch.testing.assert_close(levels, pipe.scheduler.alphas_cumprod, rtol=1e-4, atol=1e-6)
    size = pipe._get_add_time_ids((192, 320), (0, 0), (192, 320), torch.float32, architecture.POOLED)
    pool = pools.drawn_pool(4, 192, 320, plan.SMOKE, torch.Generator().manual_seed(0), None)
    encoders, generator = (models["text_encoder"], models["text_encoder_2"]), torch.Generator()
    batches = pools.Batches(*encoders, [pool] * (plan.USUAL + 1), plan.SMOKE, generator)
    assert torch.equal(batches.at(0, torch.arange(1))[3], size)
    assert pool.latents.shape == (4, 4, 24, 40)


def test_a_network_that_is_right_in_training_samples_the_picture_itself(fresh):
    import torch

    from training import denoising

    _, pipe = fresh
    generator = torch.Generator().manual_seed(1)
    picture, noise = torch.randn(2, 1, 4, 8, 8, generator=generator)
    levels = denoising.noise_levels("cpu")

    class Right:
        """Tells what `denoising_loss` asks for, knowing the picture."""

        def __call__(self, sample, timestep, context, added_cond_kwargs):
            alpha = levels[timestep.long()].view(-1, 1, 1, 1)
            noise = (sample - alpha.sqrt() * picture) / (1 - alpha).sqrt()
            return type("Output", (), {"sample": alpha.sqrt() * noise - (1 - alpha).sqrt() * picture})

    for timestep in (10, 500, 990):
        given = picture, noise, torch.tensor([timestep]), levels, None, None, None
        assert denoising.denoising_loss(Right(), *given).item() < 1e-4
    scheduler = pipe.scheduler
    scheduler.set_timesteps(20)
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        told = Right()(scheduler.scale_model_input(latents, timestep), timestep[None], None, {}).sample
        latents = scheduler.step(told, timestep, latents).prev_sample
    torch.testing.assert_close(latents, picture, rtol=1e-3, atol=1e-3)


def test_the_adapter_is_trained_as_diffusers_runs_it(fresh):
    import torch

    from training import styling

    models, pipe = fresh
    generator = torch.Generator().manual_seed(2)
    sample, hidden = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 77, 128, generator=generator)
    pooled = torch.randn(2, 128, generator=generator)
    embeds = torch.randn(2, models["image_encoder"].config.projection_dim, generator=generator)
    added = {"text_embeds": pooled, "time_ids": torch.full((2, 6), 64.0)}
    unet, adapter, timestep = models["unet"], models["adapter"], torch.tensor([500, 500])
    kept = dict(unet.attn_processors)
    with torch.no_grad():
        without = unet(sample, timestep, hidden, added_cond_kwargs=added).sample
        unet.set_attn_processor(styling.with_images(kept, adapter))
        mine = unet(sample, timestep, (hidden, adapter(embeds), torch.full((2,), 0.7)), added_cond_kwargs=added).sample
        unet.set_attn_processor(kept)
        pipe.set_ip_adapter_scale(0.7)
        theirs = pipe.unet(
            sample, timestep, hidden, added_cond_kwargs=added | {"image_embeds": [embeds[:, None]]}
        ).sample
    torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    assert (mine - without).abs().max() > 0.02


def test_colours_move_to_the_references_as_the_scale_rises(pipe):
    import torch

    from training import captions, evaluate, measure, scenes, styles, textures

    generator = torch.Generator().manual_seed(31)
    style = styles.sample_styles(6, generator, held_out=True)
    content = captions.sample_content(6, generator)
    shown = scenes.reference(content, style, torch.zeros(6, dtype=torch.long), 128, generator, textures.TEXTURE_UNIT)
    seen = evaluate.embeds(pipe, shown)
    prompts = ["a large circle in the middle", "two squares", "a star"] * 2
    far = []
    for scale in (0.0, 0.5, 1.0):
        with torch.no_grad():
            made = evaluate.generate(pipe, prompts, seen, scale, 3.0, 10, seed=31, size=(128, 128))
        apart = measure.colour_histogram(made, 4).sqrt() - measure.colour_histogram(shown, 4).sqrt()
        far.append(apart.norm(dim=1).mean().item())
    assert far[0] > far[1] + 0.02 > far[2] + 0.04, far


def test_the_judge_is_shown_pictures_with_a_shape_and_without_also_as_the_autoencoder_draws_them(pipe, monkeypatch):
    import torch

    from training import captions, judging, measure, plan

    monkeypatch.setattr(judging, "EMPTY_SHARE", 0.5)
    generator = torch.Generator().manual_seed(3)
    pool, labels = judging.labelled(12, pipe.vae, plan.SMOKE, generator, None)
    empty = labels[:, 0] == measure.EMPTY
    assert pool.shape == (12, 3, measure.SIDE, measure.SIDE) and 0 < empty.sum() < 12
    assert (labels[empty, 1:] == captions.NONE).all() and (labels[~empty, 1] >= 0).all()
    pictures = pool[:4].float() / 255
    changed = judging.augmented(pictures, generator)
    mirrored = torch.minimum(*((changed - one).abs().mean((1, 2, 3)) for one in (pictures, pictures.flip(3))))
    assert changed.shape == pictures.shape and (mirrored > 0).all() and (mirrored < 0.1).all()
    drawn = judging.judged_pictures(2, generator, held_out=True)[0]
    monkeypatch.setattr(judging, "ERROR", 0.0)
    assert (judging.decoded(drawn, pipe.vae, generator) - drawn).abs().mean() < 0.05


def test_a_ground_shows_the_three_largest_colours_of_a_photograph_by_area_and_keeps_clear_of_shapes():
    import torch

    from training import picture_style, styles, textures
    from training.chance import Chance
    from training.fields import unknown

    palette = torch.tensor([[0.1, 0.2, 0.6], [0.9, 0.5, 0.1], [0.95, 0.95, 0.9]])
    rows = torch.tensor([0] * 32 + [1] * 20 + [2] * 12)  # half, a third, a fifth
    shown = palette[rows].T[None, :, :, None].expand(8, 3, 64, 64)
    generator = torch.Generator().manual_seed(0)
    style = picture_style.style_of(shown, unknown(Chance(8, generator)), generator)
    assert (style.backdrop == styles.PATCHES).all() and (style.ground - palette[0]).abs().max() < 0.02
    drawn = textures.grounds(style, 128, 128).permute(0, 2, 3, 1).reshape(-1, 3)
    near = torch.cdist(drawn, palette).argmin(1)
    share = torch.bincount(near, minlength=3) / len(near)
    assert share[0] > share[1] > 0.1 and share[2] > 0.08, share
    far = torch.zeros(8, 128, 128)
    beside = textures.grounds(style, 128, 128, far=far)
    assert (beside - palette[0][:, None, None]).abs().max() < 0.02
