"""The files of the pages, and the routes that are there for them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from ipa_cli.config import FIELDS, Settings
from ipa_cli.config.modes import MODES
from ipa_cli.serve.command_line import command_line
from ipa_cli.serve.routes.page import FILES, PATHS, STATIC
from tests.serve.test_jobs import ended, png


def test_every_static_file_is_served_and_each_says_what_a_browser_may_load(client):
    assert {path.name for path in STATIC.iterdir()} == set(FILES.values())
    for path in PATHS:
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' blob: data:;")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert client.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("path", ["/static/", "/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd"])
def test_nothing_but_the_static_files_is_served(client, path):
    assert client.get(path).status_code == 404


def test_pages_need_no_token_and_all_else_does(guarded):
    with guarded.client() as client:
        assert {client.get(path).status_code for path in PATHS} == {200}
        others = ["/openapi.json", "/static/", "/static/style.css/", "/docs/", "/%2e/v1/jobs/x", "/v1/jobs/x"]
        assert {client.get(path).status_code for path in others} == {401}
        assert client.post("/v1/pictures/settings", content=b"").status_code == 401


@pytest.mark.slow
def test_the_settings_in_a_picture_are_read(client):
    body = {"prompt": "a red star", "seed": 5, "steps": 2, "scale": 0.3, "width": 64, "height": 64, "ip_mode": "style"}
    job = ended(client, client.post("/v1/jobs", json=body).json()["data"])
    picture = client.get(job["pictures"][0]["url"]).content
    read = client.post("/v1/pictures/settings", content=picture).json()["data"]
    assert {name: read["settings"][name] for name in body} == body
    assert (read["model"], read["left_out"]) == ("demo", [])
    assert "device" not in read["settings"]


@pytest.mark.parametrize(("data", "said"), [(b"", "not a readable picture"), (png("teal"), "no settings in it")])
def test_a_picture_without_settings_has_none_with_the_reason(client, data, said):
    read = client.post("/v1/pictures/settings", content=data).json()["data"]
    assert read["settings"] is None and said in read["why"]


def test_the_facts_have_the_defaults_that_a_request_gets(client):
    facts = client.get("/readyz").json()["data"]
    assert (facts["adapters"], facts["reference"]) == (1, True)
    assert (facts["defaults"]["steps"], facts["defaults"]["ip_mode"], facts["defaults"]["seed"]) == (25, "full", None)


def test_the_schema_says_what_values_may_be(client):
    fields = client.get("/openapi.json").json()["components"]["schemas"]["Body"]["properties"]
    assert fields["ip_mode"]["enum"] == [*MODES, None]
    assert (fields["steps"]["minimum"], fields["steps"]["maximum"]) == (1, 1000)
    assert (fields["width"]["minimum"], fields["width"]["multipleOf"]) == (64, 8)
    assert "euler" in fields["scheduler"]["examples"] and "karras" in fields["schedule"]["examples"]


def test_the_command_of_a_picture_has_what_is_not_the_default():
    settings = Settings(
        prompt="@home it's 3 o'clock",
        image=("my cat.png", "-b.png"),
        scale=2.0,
        guidance_scale=4.5,
        compile=False,
        vae_tiling=True,
        negative_prompt="-",
        num_images=4,
        batch_size=2,
    )
    assert shlex.split(command_line(settings, 7)) == [
        *("ipa", "generate", "--prompt", "@@home it's 3 o'clock", "--negative-prompt=-"),
        *("--image", "my cat.png", "--image=-b.png", "--scale", "2", "--guidance-scale", "4.5", "--seed", "7"),
        *("--no-compile", "--vae-tiling"),
    ]
    assert command_line(Settings(model=str(Path.home() / "sdxl")), 1) == "ipa generate --seed 1 --model '~/sdxl'"
    assert FIELDS["seed"].default is None
