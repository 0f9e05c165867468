"""Textual inversion: files as trainers write them, names as prompts have them, pictures as diffusers draws them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from ipa_cli.config import EmbeddingConfig, Settings
from ipa_cli.errors import IpaError
from ipa_cli.images.infotext import parse_parameters
from ipa_cli.images.metadata import read_settings, texts
from ipa_cli.models.location import ModelError
from ipa_cli.models.plan import DEMO, make_plan
from ipa_cli.models.prompts import embeddings
from tests.hubs import Hub, serving
from tests.models import test_sd15

STEPS, SIDE, SEED, GUIDANCE = 3, 64, 3, 5.0
WIDTH = 64  # of both text encoders of the demo


def rows(count: int, seed: int = 0, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def of_sdxl(count: int = 3) -> dict[str, torch.Tensor]:
    return {"clip_l": rows(count, 1), "clip_g": rows(count, 2)}


@pytest.fixture(scope="module")
def sdxl():
    return make_plan(Settings(ip_adapter="none"))


@pytest.fixture(scope="module")
def sd15():
    """A plan with one text encoder, 768 wide."""
    return make_plan(Settings(model="sd15", load_format="dummy", ip_adapter="none"))


def loaded(plan, *sources: str, prompt: str = "", folder: Path | None = None, syntax: str = "a1111"):
    settings = Settings(
        embedding=tuple(map(EmbeddingConfig, sources)),
        embedding_dir=None if folder is None else str(folder),
        prompt_syntax=syntax,
    )
    return embeddings.of_prompts(settings, plan, [prompt])


# --- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words", "count"),
    [
        ("toy.safetensors", {"emb_params": rows(2, width=768)}, ("embedding:toy", "toy"), 2),
        ("toy.safetensors", {"clip_l": rows(2, width=768)}, ("embedding:toy", "toy"), 2),
        ("toy.safetensors", {"<cat>": rows(1, width=768)[0]}, ("<cat>", "embedding:<cat>", "embedding:toy"), 1),
        ("learned_embeds.bin", {"<cat>": rows(1, width=768)[0]}, ("<cat>", "embedding:<cat>"), 1),
        (
            "toy.pt",
            {
                "string_to_token": {"*": 265},
                "string_to_param": {"*": torch.nn.Parameter(rows(8, width=768))},
                **{"name": "another", "step": 500, "sd_checkpoint": "abc", "sd_checkpoint_name": None},
            },
            ("embedding:toy", "toy"),
            8,
        ),
        (
            "toy.pt",
            {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": {"*": rows(1, width=768)}},
            ("embedding:toy", "toy"),
            1,
        ),
    ],
)
def test_files_of_sd15_are_read(tmp_path, sd15, name, content, words, count):
    path = tmp_path / name
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    (found,) = loaded(sd15, str(path))
    assert set(words) <= set(found.words)
    assert [tuple(vectors.shape) for vectors in found.vectors] == [(count, 768)]


@pytest.mark.parametrize("names", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
def test_files_of_sdxl_are_read(tmp_path, sdxl, names):
    tensors = dict(zip(names, of_sdxl().values(), strict=True))
    save_file(tensors, tmp_path / "toy.safetensors")
    (found,) = loaded(sdxl, str(tmp_path / "toy.safetensors"))
    assert all(torch.equal(one, tensors[name]) for one, name in zip(found.vectors, names, strict=True))


@pytest.mark.parametrize("steps", ["", "-steps-500"])
def test_the_two_files_that_diffusers_training_for_sdxl_writes_are_one_embedding(tmp_path, sdxl, steps):
    both = list(of_sdxl().values())
    files = [tmp_path / f"learned_embeds{number}{steps}.safetensors" for number in ("", "_2")]
    save_file({"<cat>": both[0]}, files[0])
    with pytest.raises(ModelError, match="for a model with one text encoder"):  # the second is missing
        loaded(sdxl, str(files[0]))
    save_file({"<cat>": both[1]}, files[1])
    (found,) = loaded(sdxl, str(files[0]))
    assert "<cat>" in found.words and all(map(torch.equal, found.vectors, both))


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.safetensors", {"clip_l": rows(1)}, "is an embedding for a model with one text encoder"),
        ("a.safetensors", {"emb_params": rows(1, width=768)}, "such as SD 1.5, and the model is SDXL"),
        (
            "a.safetensors",
            {"clip_l": rows(1), "clip_g": rows(1, width=1280)},
            "it is 1280 wide, and SDXL here takes 64",
        ),
        ("a.safetensors", {"clip_l": rows(1), "clip_g": rows(2)}, "is broken: 1 and 2 tokens"),
        ("a.safetensors", {"clip_l": rows(76), "clip_g": rows(76)}, "is no textual inversion: it holds (76, 64)"),
        ("a.safetensors", {"clip_l": rows(1) * torch.nan, "clip_g": rows(1)}, "has NaN or infinity in it"),
        ("a.safetensors", {"clip_l": torch.ones(1, 64, dtype=torch.int32), "clip_g": rows(1)}, "holds int32"),
        ("a.safetensors", {"a": rows(1), "b": rows(2)}, "is no textual inversion: it holds "),
        ("a.safetensors", {"a.lora_up.weight": rows(1)}, "is no textual inversion: it is a LoRA"),
        ("a.safetensors", {"decoder.conv_in.weight": torch.zeros(3 << 20)[:, None, None]}, "it is a VAE alone"),
        ("a.safetensors", b"", "is not a whole .safetensors file"),
        ("a.safetensors", save(of_sdxl())[:-40], "is not a whole .safetensors file"),
        ("a.pt", pickle.dumps(Evil()), "is not a pickle of bare tensors"),
        ("a.pt", {"string_to_param": {"*": Evil()}}, "is not a pickle of bare tensors"),
        ("a.pt", {"a": [rows(1)]}, "holds more than tensors"),
        (
            "a.pt",
            b"\x80\x03X",
            "not a pickle of bare tensors, and nothing else is opened: it is damaged",
        ),  # struct.error
        ("a.txt", b"x", "is no .safetensors file"),
        ("a.safetensors", None, "there is no embedding"),
    ],
)
def test_what_is_no_embedding_for_this_model_is_refused_in_a_line(tmp_path, sdxl, capfd, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    with pytest.raises(IpaError) as caught:
        loaded(sdxl, str(path))
    assert message in caught.value.message and "\n" not in caught.value.message and caught.value.hint
    assert "code ran" not in capfd.readouterr().out


def test_an_embedding_of_sdxl_is_refused_for_sd15_by_name(tmp_path, sd15):
    save_file(of_sdxl(), tmp_path / "toy.safetensors")
    with pytest.raises(ModelError, match=r"is an embedding for SDXL, and the model is SD 1\.5"):
        loaded(sd15, str(tmp_path / "toy.safetensors"))


def test_a_large_file_is_not_read(tmp_path, sdxl):
    with (tmp_path / "model.pt").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(IpaError, match="larger than"):
        loaded(sdxl, str(tmp_path / "model.pt"))


def test_a_repository_gives_its_only_file_or_the_one_named(sdxl):
    content = save(of_sdxl())
    hub = Hub(
        {"me/toy": {"toy.safetensors": content, "README.md": b"x"}, "me/two": dict.fromkeys(("a.pt", "b.pt"), b"x")}
    )
    with serving(hub):
        (found,) = loaded(sdxl, "me/toy")
        assert "toy" in found.words
        with pytest.raises(ModelError, match=r"me/two holds several files: a\.pt, b\.pt"):
            loaded(sdxl, "me/two")
        with pytest.raises(ModelError, match=r"me/toy has no tay\.safetensors; did you mean"):
            embeddings.of_prompts(Settings(embedding=(EmbeddingConfig("me/toy", "tay.safetensors"),)), sdxl, [""])


# --- names in prompts -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder as A1111 and ComfyUI have it, beside a file that prompts must not reach."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in (
        "in/EasyNegative.safetensors",
        "in/bad-hands-5.safetensors",
        "in/sub/deep.safetensors",
        "in/fox(2).safetensors",
        "out.safetensors",
    ):
        save_file(of_sdxl(), tmp_path / name)
    (tmp_path / "in" / "notes.txt").write_text("x")
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("syntax", "prompt", "words"),
    [
        ("a1111", "a fox, easynegative", {"EasyNegative"}),
        ("a1111", "(EasyNegative:1.2), (bad-hands-5)", {"EasyNegative", "bad-hands-5"}),
        ("a1111", "embedding:easynegative is not bad-hands-55", None),
        ("a1111", "(embedding:EasyNegative:1.2), embedding:bad-hands-5.safetensors.", None),
        ("a1111", "a fox", set()),
        ("a1111", r"a fox\(2\)", {"fox(2)"}),
        ("a1111", "easynegatives", set()),
        ("comfyui", "a fox, embedding:EasyNegative, easynegative", {"embedding:EasyNegative"}),
        ("comfyui", "(embedding:sub/deep:1.2)", {"embedding:sub/deep"}),
        ("literal", "EasyNegative embedding:EasyNegative", set()),
    ],
)
def test_prompts_name_files_of_the_folder(sdxl, folder, syntax, prompt, words):
    if prompt.startswith("embedding:easy"):
        with pytest.raises(ModelError, match="has no embedding 'easynegative'; did you mean 'EasyNegative'"):
            loaded(sdxl, prompt=prompt, folder=folder, syntax=syntax)
        return
    expected = {"embedding:EasyNegative", "embedding:bad-hands-5.safetensors"} if words is None else words
    found = loaded(sdxl, prompt=prompt, folder=folder, syntax=syntax)
    assert {word for one in found for word in one.words} == expected
    assert all(one.is_in([prompt], syntax) for one in found)


@pytest.mark.parametrize("name", ["../out", "..", "/etc/hostname", "sub/../../out", "..\\out", "gone", "notes.txt"])
def test_prompts_do_not_leave_the_folder(sdxl, folder, name):
    with pytest.raises(ModelError, match="has no embedding"):
        loaded(sdxl, prompt=f"a fox, embedding:{name}", folder=folder, syntax="comfyui")


def test_a_name_without_a_folder_says_how_to_give_one(sdxl, tmp_path):
    with pytest.raises(ModelError, match="a prompt has the embedding 'toy', and none is loaded") as caught:
        loaded(sdxl, prompt="embedding:toy")
    assert "--embedding" in caught.value.hint
    with pytest.raises(ModelError, match="there is no folder"):
        loaded(sdxl, prompt="a fox", folder=tmp_path / "gone")


def test_two_files_for_one_word_are_refused(sdxl, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_file(of_sdxl(), tmp_path / name / "toy.safetensors")
    with pytest.raises(ModelError, match="two embeddings stand for"):
        loaded(sdxl, f"{tmp_path}/a/toy.safetensors", f"{tmp_path}/b/toy.safetensors")


# --- pictures -------------------------------------------------------------------------------------------------


def ours(ipa, *flags: object) -> tuple[np.ndarray, str]:
    size = ("--width", SIDE, "--height", SIDE, "--steps", STEPS, "--warmup", 0, "--ip-adapter", "none")
    settings = ("--seed", SEED, "--guidance-scale", GUIDANCE, "--backend", "eager", "--device", "cpu")
    ran = ipa("generate", *size, *settings, *flags, "--json")
    (image,) = ran.data()["images"]
    with Image.open(image["path"]) as picture:
        return np.asarray(picture, dtype=int), ran.stderr


def theirs(pipeline, **prompts: str) -> np.ndarray:
    picture = pipeline(
        **prompts,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        height=SIDE,
        width=SIDE,
        generator=torch.Generator("cpu").manual_seed(SEED),
    )
    return np.asarray(picture.images[0], dtype=int)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("syntax", ["a1111", "comfyui", "literal"])
def test_a_picture_is_the_one_of_load_textual_inversion(ipa, world, count, syntax):
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(DEMO)
    pipeline.set_progress_bar_config(disable=True)
    tensors = of_sdxl(count)
    for name, part in (("clip_l", ""), ("clip_g", "_2")):
        own = {
            "text_encoder": getattr(pipeline, f"text_encoder{part}"),
            "tokenizer": getattr(pipeline, f"tokenizer{part}"),
        }
        pipeline.load_textual_inversion({"emb_params": tensors[name]}, token="<toy>", **own)
    save_file(tensors, world.cwd / "toy.safetensors")
    expected = theirs(pipeline, prompt="a large <toy> in the middle", negative_prompt="a small <toy>")
    given = ("--embedding", "toy.safetensors,token=<toy>", "--prompt-syntax", syntax)
    flags = ("--prompt", "a large <toy> in the middle", "--negative-prompt", "a small <toy>", *given)
    mine, told = ours(ipa, *flags)
    assert abs(mine - expected).max() <= 1
    assert f"<toy> in a prompt is the embedding toy.safetensors,token=<toy>, {count} tokens" in told
    plain, told = ours(ipa, "--prompt", "a large toy", *given)
    assert "the embedding toy.safetensors,token=<toy> is not used: <toy> is in no prompt" in told
    assert abs(plain - expected).max() > 1


@pytest.mark.slow
def test_sd15_draws_the_picture_of_load_textual_inversion(ipa, world, tmp_path):
    from diffusers import StableDiffusionPipeline

    model = test_sd15.build(tmp_path / "sd15")
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": rows(3)}, "name": "x"}, world.cwd / "toy.pt")
    pipeline.load_textual_inversion(str(world.cwd / "toy.pt"), token="<toy>")
    expected = theirs(pipeline, prompt="a <toy> star", negative_prompt="")
    mine, _ = ours(ipa, "--model", model, "--prompt", "a <toy> star", "--embedding", "toy.pt,token=<toy>")
    assert abs(mine - expected).max() <= 1


@pytest.mark.slow
def test_a_picture_records_its_embeddings_and_is_drawn_again(ipa, world):
    (world.cwd / "ti").mkdir()
    save_file(of_sdxl(), world.cwd / "ti" / "toy.safetensors")
    found = ("--embedding-dir", "ti")
    first, _ = ours(ipa, "--prompt", "a (toy:1.2) star", *found, "-o", "a.png")
    (recorded,) = read_settings(world.cwd / "a.png")["embeddings"]
    assert (recorded["word"], recorded["source"]) == ("toy", "ti/toy.safetensors")
    a1111 = parse_parameters(texts(world.cwd / "a.png")["parameters"])
    assert a1111["TI hashes"] == f"toy: {recorded['sha256'][:12]}"
    assert (ours(ipa, "--from", "a.png", *found, "-o", "b.png")[0] == first).all()
    _, told = ours(ipa, "--from", "a.png", "-o", "c.png")
    assert "toy is another embedding than when a.png was drawn, or none" in told
    save_file({name: -rows for name, rows in of_sdxl().items()}, world.cwd / "ti" / "toy.safetensors")
    other, told = ours(ipa, "--from", "a.png", *found, "-o", "d.png")
    assert (other != first).any() and "toy is another embedding than when a.png was drawn" in told


@pytest.mark.slow
@pytest.mark.parametrize("command", ["generate", "sweep-scale"])
def test_a_bad_embedding_is_refused_before_the_model_is_loaded(ipa, world, command):
    save_file({"emb_params": rows(1, width=768)}, world.cwd / "old.safetensors")
    scales = ("--scales", "0,1") if command == "sweep-scale" else ()
    ran = ipa(command, *scales, "--embedding", "old.safetensors", "--prompt", "old", "--json")
    assert ran.exit_code == 1 and "such as SD 1.5" in ran.error()["message"] and "loading" not in ran.stderr
