"""What a request may say: nothing in it names a file of the server."""

from __future__ import annotations

import base64
import hashlib
import io

import pytest
from PIL import Image

from ipa_cli.config import Settings
from ipa_cli.config.adapter_options import parse
from ipa_cli.config.presets import SPEED
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.models import schedulers
from ipa_cli.models.plan import make_plan
from ipa_cli.result import NullReporter
from ipa_cli.serve import answers, body, drawing
from ipa_cli.serve.asked import Asked
from ipa_cli.serve.limits import Limits


def made(asked, settings=None):
    settings = settings or Settings()
    return drawing.make(asked, settings, make_plan(settings), Limits(), NullReporter(), allow_fetch=False)[1]


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def secret(world):
    """A picture on the server's disk."""
    path = world.cwd / "secret.png"
    path.write_bytes(png("red"))
    return str(path)


def test_a_name_that_stands_for_nothing_is_not_looked_for_on_disk(secret):
    with pytest.raises(UsageError, match="stands for no file"):
        made(Asked({"prompt": "x", "image": [secret]}, members={secret: []}))


def test_a_picture_without_a_name_cannot_be_made_to_stand_for_a_file_on_disk(secret):
    sent = png("teal")
    name = f"picture {hashlib.sha256(sent).hexdigest()[:12]}"
    request = made(Asked({"prompt": "x", "image": [base64.b64encode(sent).decode()]}, members={name: [secret]}))
    assert request.digests == {hashlib.sha256(sent).hexdigest()}


def test_a_mask_cannot_make_the_servers_own_reference_stand_for_another_file(secret, world):
    (world.cwd / "own.png").write_bytes(png("blue"))
    asked = Asked({"prompt": "x", "mask": ["own.png"]}, {secret: png("white")}, members={"own.png": [secret]})
    request = made(asked, Settings(image=("own.png",)))
    assert request.digests == {hashlib.sha256(png("blue")).hexdigest()}


def test_a_negative_image_comes_with_the_request_and_not_from_the_servers_disk(secret):
    with pytest.raises(UsageError, match="not base64"):
        made(Asked({"prompt": "x", "negative_image": secret}))
    adapters = Settings(adapter=(parse("own", "--adapter"),))
    with pytest.raises(UsageError, match="not base64"):
        made(
            Asked({"prompt": "x", "adapter": [{"image": ["a"], "negative_image": secret}]}, {"a": png("red")}), adapters
        )
    mapping = {"image": ["a"], "negative_image": "b", "combine": "average", "mode": "ease-in", "sharpening": 0.5}
    (prompt,) = made(
        Asked({"prompt": "x", "adapter": [mapping]}, {"a": png("red"), "b": png("teal")}), adapters
    ).image_prompts
    assert prompt.negative is not None and prompt.negative.sha256 == hashlib.sha256(png("teal")).hexdigest()
    assert (prompt.combine, prompt.mode, prompt.sharpening) == ("average", "ease-in", 0.5)


def test_a_request_with_a_picture_of_each_reference_has_as_many(world):
    asked = Asked(
        {"prompt": "x", "image": ["a", "b"], "image_per_picture": True, "num_images": 2, "seed": 5},
        {"a": png("red"), "b": png("teal")},
    )
    request = made(asked)
    assert request.seeds == (5, 6, 5, 6) and [one.source for one in request.of_picture(2).references] == ["b"]
    many = Asked({**asked.values, "num_images": 9}, asked.files)
    with pytest.raises(UsageError, match="18 pictures: this server draws at most 16"):
        made(many)


def test_both_prompts_have_to_fit_into_a_jpeg():
    values = {"prompt": "a star " * 1200, "negative_prompt": "a moon " * 1200}
    assert made(Asked(values)).prompt == values["prompt"]
    with pytest.raises(UsageError, match="too long for a JPEG"):
        made(Asked(values, format="JPEG"))


def test_what_a_request_keeps_in_memory_is_limited(world, monkeypatch):
    with pytest.raises(UsageError, match="name has more than 4096"):
        made(Asked({"prompt": "x"}, {"n" * 4097: png("red")}))
    colours = {colour: png(colour) for colour in ("red", "green", "blue")}
    monkeypatch.setattr("ipa_cli.serve.asked.PIXELS", 130)
    assert made(Asked({"prompt": "x", "image": ["red", "green", "red"]}, colours)).digests
    with pytest.raises(UsageError, match="million pixels"):
        made(Asked({"prompt": "x", "image": [*colours]}, colours))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"adapter": [{"embeds": []}]}, "embeddings"),
        ({"adapter": [{"embeds": {}}]}, "embeddings"),
        ({"adapter": [{"init_image": []}]}, "unknown key|mappings for"),
        ({"adapter": [{"image": {}}]}, "not text"),
    ],
)
def test_values_of_another_type_are_refused(world, values, said):
    with pytest.raises(UsageError, match=said):
        made(Asked({"prompt": "x", **values}))


def test_a_request_names_a_preset_in_place_of_the_servers():
    fast, exact = SPEED["fast"]["step_cache"], SPEED["exact"]["step_cache"]
    started = Settings(preset="fast", step_cache=fast)
    assert str(made(Asked({"prompt": "x"}), started).step_cache) == fast
    assert str(made(Asked({"prompt": "x", "preset": "exact"}), started).step_cache) == exact
    assert str(made(Asked({"prompt": "x", "preset": "fast"})).step_cache) == fast
    assert str(made(Asked({"prompt": "x", "preset": "fast", "step_cache": "deep:2"})).step_cache) == "deep:2"


def test_a_setting_may_be_sent_by_its_second_name(world):
    wanted = body.asked(body.validated(body.Body, {"prompt": "x", "sampler": "DPM++ 2M Karras", "steps": 4}))
    assert made(wanted).sampling.scheduler == "dpm++"
    both = body.asked(body.validated(body.Body, {"prompt": "x", "sampler": "lcm", "scheduler": "tcd"}))
    with pytest.raises(UsageError, match="scheduler is given twice"):
        made(both)


def test_a_sampler_whose_package_is_missing_is_refused_before_it_waits(world, monkeypatch):
    monkeypatch.setattr(schedulers, "find_spec", lambda _: None)
    with pytest.raises(IpaError, match="the sampler 'dpm\\+\\+-sde' needs torchsde") as refused:
        made(Asked({"prompt": "x", "scheduler": "dpm++-sde"}))
    assert refused.value.hint == "pip install torchsde" and answers.foreseen(refused.value).status_code == 422
