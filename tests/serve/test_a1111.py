"""The API of A1111's web UI, asked by the package `webuiapi`, against a real server."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import webuiapi
from PIL import Image

from ipa_cli.images.infotext import parse_parameters
from tests.serve.server import TOKEN, serving

pytestmark = pytest.mark.slow

SMALL = {"width": 128, "height": 128, "steps": 4}
ADAPTER = {"module": "ip-adapter_clip_sdxl_plus_vith", "model": "ip-adapter [0123abcd]"}


def connected(server, **options):
    """Its client; `trust_env` as for a user without a proxy."""
    address = urlsplit(server.url)
    api = webuiapi.WebUIApi(host=address.hostname, port=address.port, sampler="Euler a", **options)
    api.session.trust_env = False
    return api


@pytest.fixture(scope="module")
def api(server):
    return connected(server)


def sha256(answer):
    return [hashlib.sha256(base64.b64decode(one)).hexdigest() for one in answer.json["images"]]


def drawn(ipa, *flags):
    return [one["sha256"] for one in ipa("generate", *flags, "--output", "x.png", "--json").data()["images"]]


def refused(api, status=422, **body):
    with pytest.raises(RuntimeError) as caught:
        api.txt2img(**{**SMALL, **body})
    assert caught.value.args[0] == status, caught.value
    return caught.value.args[1]


def test_txt2img_gives_the_very_files_that_generate_writes(api, ipa):
    answer = api.txt2img(prompt="a (red:1.2) star", negative_prompt="blur", seed=7, cfg_scale=3, n_iter=2, **SMALL)
    flags = ("--prompt", "a (red:1.2) star", "--negative-prompt", "blur", "--seed", 7, "--guidance-scale", 3, "-n", 2)
    assert sha256(answer) == drawn(ipa, *flags, "--size", "128x128", "--steps", 4, "--scheduler", "euler-a")
    assert answer.image.size == (128, 128) and answer.parameters["prompt"] == "a (red:1.2) star"
    info = answer.info
    assert (info["seed"], info["all_seeds"], info["sampler_name"]) == (7, [7, 8], "Euler a")
    assert info["ipa"]["warnings"] == [] and info["sd_model_name"] == "demo"
    read = parse_parameters(info["infotexts"][1])
    assert (read["Seed"], read["Steps"], read["CFG scale"], read["Size-1"]) == ("8", "4", "3", "128")
    assert api.png_info(answer.image).info == info["infotexts"][0]


def test_a_batch_shares_the_calls_of_the_unet_and_a_random_seed_is_told(api, ipa):
    answer = api.txt2img(prompt="a star", batch_size=2, seed=-1, **SMALL)
    seed = answer.info["seed"]
    assert answer.info["all_seeds"] == [seed, seed + 1] and answer.info["batch_size"] == 2
    flags = ("--prompt", "a star", "--size", "128x128", "--steps", 4, "--scheduler", "euler-a", "--guidance-scale", 7)
    assert sha256(answer) == drawn(ipa, *flags, "--seed", seed, "-n", 2, "--batch-size", 2)


def test_a_unit_of_controlnet_is_a_reference(api, ipa):
    reference = Image.new("RGB", (64, 64), "teal")
    unit = webuiapi.ControlNetUnit(image=reference, weight=0.5, guidance_end=0.5, **ADAPTER)
    answer = api.txt2img(prompt="a star", seed=7, controlnet_units=[unit], **SMALL)
    data = base64.b64decode(webuiapi.raw_b64_img(reference))
    name = f"picture {hashlib.sha256(data).hexdigest()[:12]}"
    Path(name).write_bytes(data)
    flags = ("--prompt", "a star", "--size", "128x128", "--steps", 4, "--scheduler", "euler-a", "--guidance-scale", 7)
    assert sha256(answer) == drawn(ipa, *flags, "--seed", 7, "-i", name, "--scale", 0.5, "--ip-end", 0.5)
    off = webuiapi.ControlNetUnit(image=reference, enabled=False)
    assert sha256(api.txt2img(prompt="a star", seed=7, controlnet_units=[off], **SMALL)) != sha256(answer)


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ({"module": "canny"}, "'canny' is not offered"),
        ({"module": "ip-adapter_face_id_plus"}, "face_id"),
        ({"model": "ip-adapter-plus_sdxl_vit-h [a]"}, "loaded: ip-adapter"),
        ({"control_mode": 2}, "ControlNet is more important"),
        ({"mask": Image.new("L", (64, 64))}, "mask is not offered"),
        ({"image": None}, "no image"),
        ({"weight": 11}, "scale"),
        ({"guidance_start": 0.6, "guidance_end": 0.5}, "from 0.6 to 0.5"),
        ({"resize_mode": "Squeeze"}, "resize mode"),
    ],
)
def test_a_unit_that_is_no_reference_is_refused_by_name(api, unit, said):
    given = webuiapi.ControlNetUnit(**{"image": Image.new("RGB", (64, 64)), **ADAPTER, **unit})
    assert said in refused(api, controlnet_units=[given])


def test_units_beyond_the_adapters_and_other_scripts_are_refused(api):
    unit = webuiapi.ControlNetUnit(image=Image.new("RGB", (64, 64)), **ADAPTER)
    assert "every adapter has a unit" in refused(api, controlnet_units=[unit, unit], alwayson_scripts={})
    assert "no script 'ADetailer'" in refused(api, alwayson_scripts={"ADetailer": {"args": [True, {"ad_model": "x"}]}})
    answer = api.txt2img(alwayson_scripts={"ADetailer": {"args": [False]}}, **SMALL)
    assert answer.info["ipa"]["warnings"] == ["the script ADetailer has no effect"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"}, "no upscaler 'R-ESRGAN 4x+'"),
        ({"enable_hr": True, "hr_sampler_name": "Euler"}, "hr_sampler_name"),
        ({"enable_hr": True, "hr_prompt": "a fox"}, "hr_prompt"),
        ({"enable_hr": True, "hr_scale": 5}, "from 1 to 4"),
        ({"enable_hr": True, "hr_scale": 1.5, "denoising_strength": 0}, "strength of 0"),
        ({"enable_hr": True, "width": 2048, "height": 2048}, "pixels a picture"),
        ({"enable_hr": "maybe"}, "enable_hr"),
        ({"tiling": True}, "tiling"),
        ({"restore_faces": True}, "restore_faces"),
        ({"styles": ["mine"]}, "styles"),
        ({"subseed_strength": 0.5}, "subseed_strength"),
        ({"script_name": "x/y/z plot"}, "script_name"),
        ({"s_churn": 1}, "s_churn"),
        ({"sampler_name": "Nothing"}, "Nothing"),
        ({"scheduler": "Nothing"}, "Nothing"),
        ({"width": 100}, "multiple of 8"),
        ({"steps": 151}, "at most 150"),
        ({"n_iter": 17}, "at most 16"),
        ({"batch_size": 0}, "batch_size"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 2}}, "CLIP_stop_at_last_layers"),
        ({"override_settings": {"samples_format": "gif"}}, "gif"),
        ({"override_settings": {"jpeg_quality": "x"}}, "jpeg_quality"),
        ({"alwayson_scripts": {"ADetailer": {"args": 1}}}, "no script 'ADetailer'"),
    ],
)
def test_what_would_change_the_picture_and_is_not_offered_is_refused(api, body, said):
    assert said in refused(api, **body)


def test_another_model_is_not_found_and_its_own_is(api):
    assert "no model 'sd_xl" in refused(api, 404, override_settings={"sd_model_checkpoint": "sd_xl.safetensors [abc]"})
    settings = {"sd_model_checkpoint": "demo", "samples_format": "jpg", "jpeg_quality": 50, "what": 1}
    answer = api.txt2img(seed=1, override_settings=settings, save_images=True, **SMALL)
    assert answer.image.format == "JPEG"
    said = answer.info["ipa"]["warnings"]
    assert [one.split(":")[0] for one in said] == ["unknown options have no effect", "nothing is saved on the server"]
    api.util_set_model("demo")
    assert api.util_get_current_model() == "demo"


def test_samplers_go_by_their_names_there_with_their_schedules_and_eta(api, ipa):
    common = {"prompt": "a star", "seed": 7, **SMALL}
    flags = ("--prompt", "a star", "--seed", 7, "--size", "128x128", "--steps", 4, "--guidance-scale", 7)
    together = api.txt2img(sampler_name="DPM++ 2M Karras", **common)
    apart = api.txt2img(sampler_name="DPM++ 2M", scheduler="karras", **common)
    assert sha256(apart) == drawn(ipa, *flags, "--sampler", "dpm++", "--schedule", "karras")
    assert sha256(together) == sha256(apart) and apart.info["sampler_name"] == "DPM++ 2M"
    noisy = api.txt2img(sampler_name="DDIM", **common)  # this client sends eta 1
    assert sha256(noisy) == drawn(ipa, *flags, "--sampler", "ddim", "--eta", 1)
    assert "eta" in refused(api, sampler_name="Euler a", eta=0.5)
    assert {"Karras", "Exponential"} <= {one["label"] for one in api.get_schedulers()}


def test_hires_fix_is_a_second_pass(api, ipa):
    common = {"prompt": "a star", "seed": 7, "enable_hr": True, "denoising_strength": 0.6, **SMALL}
    flags = ("--prompt", "a star", "--seed", 7, "--size", "128x128", "--steps", 4, "--scheduler", "euler-a")
    flags = (*flags, "--guidance-scale", 7, "--hires-strength", 0.6)
    by_scale = api.txt2img(hr_scale=1.5, hr_upscaler="Latent (bicubic)", hr_second_pass_steps=3, **common)
    assert by_scale.image.size == (192, 192) and by_scale.info["denoising_strength"] == 0.6
    ours = drawn(ipa, *flags, "--hires", 1.5, "--hires-upscaler", "latent-bicubic", "--hires-steps", 3)
    assert sha256(by_scale) == ours
    by_size = api.txt2img(hr_resize_x=160, hr_upscaler="Lanczos", hr_sampler_name="Use same sampler", **common)
    assert sha256(by_size) == drawn(ipa, *flags, "--hires", "160x160", "--hires-upscaler", "lanczos")
    begun = {"enable_hr": True, "init_images": [webuiapi.raw_b64_img(Image.new("RGB", (128, 128)))]}
    for path, body, said in (
        ("img2img", begun, "is for txt2img"),
        ("txt2img", {"enable_hr": True, "hr_cfg": 3}, "hr_cfg"),
    ):
        answer = api.session.post(f"{api.baseurl}/{path}", json={**SMALL, **body})
        assert answer.status_code == 422 and said in answer.text


def test_img2img_begins_with_a_picture_and_redraws_where_the_mask_is_white(api, ipa):
    picture, mask = Image.new("RGB", (128, 128), "teal"), Image.new("L", (128, 128))
    mask.paste(255, (0, 0, 64, 128))
    names = []
    for kind, one in (("picture", picture), ("mask", mask)):
        data = base64.b64decode(webuiapi.raw_b64_img(one))
        names.append(f"{kind} {hashlib.sha256(data).hexdigest()[:12]}")
        Path(names[-1]).write_bytes(data)
    flags = ("--prompt", "a star", "--seed", 7, "--size", "128x128", "--steps", 4, "--scheduler", "euler-a")
    flags = (*flags, "--guidance-scale", 7, "--strength", 0.75, "--init-image", names[0])
    common = {"images": [picture], "prompt": "a star", "seed": 7, **SMALL}
    begun = api.img2img(**common)
    assert sha256(begun) == drawn(ipa, *flags) and begun.info["denoising_strength"] == 0.75
    assert begun.info["ipa"]["warnings"] == []
    area = api.img2img(mask_image=mask, inpainting_fill=1, inpaint_full_res=False, **common)
    assert sha256(area) == drawn(ipa, *flags, "--inpaint-mask", names[1], "--mask-blur", 4)
    for body, said in (
        ({"mask_image": mask, "inpaint_full_res": False}, "inpainting_fill 0"),
        ({"mask_image": mask, "inpainting_fill": 1}, "inpaint_full_res True"),
        ({"initial_noise_multiplier": 0.5}, "initial_noise_multiplier"),
        ({"images": []}, "0 pictures"),
        ({"denoising_strength": 2}, "strength"),
    ):
        with pytest.raises(RuntimeError, match=said):
            api.img2img(**{**common, **body})


def test_options_that_json_cannot_say_are_no_failure_of_the_server(client):
    body = b'{"prompt": "x", "width": 64, "height": 64, "steps": 1, "override_settings": {"other": NaN}}'
    answer = client.post("/sdapi/v1/txt2img", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text


def test_pictures_can_be_left_out_of_the_answer(api):
    answer = api.txt2img(send_images=False, **SMALL)
    assert answer.images == [] and len(answer.info["ipa"]["sha256"]) == 1


def test_what_clients_ask_for_at_start_is_there(server, api):
    assert connected(server).util_get_sampler_names() == api.util_get_sampler_names()
    assert {"Euler", "Euler a", "DPM++ 2M", "UniPC"} <= set(api.util_get_sampler_names())
    assert api.get_schedulers()[0]["name"] == "automatic"
    assert api.util_get_model_names() == ["demo"]
    assert api.get_upscalers()[0]["name"] == "None"
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    for nothing in (
        *(api.get_loras, api.get_sd_vae, api.get_hypernetworks, api.get_face_restorers, api.get_realesrgan_models),
        *(api.get_prompt_styles, api.get_latent_upscale_modes),
    ):
        assert nothing() == []
    assert api.get_cmd_flags()["api"] is True and api.get_memory()["ram"]["total"] > 0
    assert api.refresh_checkpoints() is None
    assert api.set_options({"sd_model_checkpoint": "demo", "samples_format": "jpg"})["warnings"]
    assert api.has_controlnet and api.controlnet_version() == 3
    assert api.controlnet_model_list() == ["ip-adapter"] and ADAPTER["module"] in api.controlnet_module_list()
    assert api.custom_get("controlnet/control_types")["control_types"]["IP-Adapter"]["default_model"] == "ip-adapter"
    api.util_wait_for_ready(0.01)


def test_progress_is_that_of_the_client_itself_who_alone_can_interrupt(server, api):
    other = connected(server)
    other.session.headers["X-Client-Id"] = "other"
    failed = []

    def draw():
        try:
            api.txt2img(prompt="a star", steps=150, width=256, height=256)
        except RuntimeError as error:
            failed.append(error.args)

    thread = threading.Thread(target=draw)
    thread.start()
    while (seen := api.get_progress())["state"]["sampling_step"] < 2:
        assert thread.is_alive(), failed
        time.sleep(0.01)
    assert 0 < seen["progress"] < 1 and seen["eta_relative"] > 0
    assert seen["state"]["job_count"] == 1 and seen["state"]["sampling_steps"] == 150
    assert other.get_progress()["state"]["job_count"] == 0
    other.interrupt()
    assert api.get_progress()["state"]["interrupted"] is False
    assert api.skip() == {}
    thread.join()
    assert failed and failed[0][0] == 499 and "cancelled" in failed[0][1]
    assert api.get_progress()["progress"] == 0


def test_a_client_that_hangs_up_frees_the_engine(server, api, client):
    import requests

    with pytest.raises(requests.Timeout):
        api.session.post(f"{api.baseurl}/txt2img", json={"steps": 150, "width": 1024, "height": 1024}, timeout=1)
    began = time.monotonic()
    while api.get_progress()["state"]["job_count"]:
        assert time.monotonic() - began < 60
        time.sleep(0.05)
    assert client.get("/readyz").json()["data"]["queue"] == 0


def test_several_adapters_take_a_unit_each_by_name_or_by_order(world, ipa):
    for name, colour in (("one.png", "teal"), ("two.png", "gold")):
        Image.new("RGB", (64, 64), colour).save(name)
    flags = ["--adapter", "own", "--adapter", "own"]
    with serving(world.environ, world.cwd, flags) as server:
        server.wait_until_ready()
        api = connected(server)
        first, second = (
            webuiapi.ControlNetUnit(image=Image.open(name), weight=weight, module="ip-adapter-auto")
            for name, weight in (("one.png", 0.8), ("two.png", 0.3))
        )
        both = api.txt2img(prompt="a star", seed=1, controlnet_units=[first, second], **SMALL)
        one = api.txt2img(prompt="a star", seed=1, controlnet_units=[first], alwayson_scripts={}, **SMALL)
    pictures = [webuiapi.raw_b64_img(Image.open(name)) for name in ("one.png", "two.png")]
    names = [f"picture {hashlib.sha256(base64.b64decode(one)).hexdigest()[:12]}" for one in pictures]
    for name, data in zip(names, pictures, strict=True):
        Path(name).write_bytes(base64.b64decode(data))
    given = [
        f"own,image={name},scale={scale},start=0,end=1,fit=pad" for name, scale in zip(names, (0.8, 0.3), strict=True)
    ]
    common = ("--prompt", "a star", "--size", "128x128", "--steps", 4, "--scheduler", "euler-a", "--guidance-scale", 7)
    assert sha256(both) == drawn(ipa, *common, "--seed", 1, "--adapter", given[0], "--adapter", given[1])
    assert sha256(one) != sha256(both)


def test_a_password_is_the_token(guarded):
    api = connected(guarded, username="any", password=TOKEN)
    assert api.get_options()["sd_model_checkpoint"] == "demo"
    with pytest.raises(RuntimeError) as caught:
        connected(guarded).txt2img()
    assert caught.value.args[0] == 401
