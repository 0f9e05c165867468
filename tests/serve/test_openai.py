"""OpenAI's API, asked by their own package, against a real server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
from PIL import Image

from tests.serve.server import serving

pytestmark = pytest.mark.slow

FAST = {"steps": 4, "seed": 3}


@pytest.fixture
def api(server) -> Iterator[openai.OpenAI]:
    with connected(server) as client:
        yield client


def connected(server, key="none", **options):
    http = httpx2.Client(trust_env=False, timeout=300)
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, http_client=http, **{"max_retries": 0, **options})


def sha256(text):
    return hashlib.sha256(base64.b64decode(text)).hexdigest()


def png(colour, size=(64, 64), mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def drawn(ipa, *flags):
    return [one["sha256"] for one in ipa("generate", *flags, "--output", "x.png", "--json").data()["images"]]


def test_generations_are_the_very_files_that_generate_writes(api, ipa):
    answer = api.images.generate(prompt="a red star", n=2, size="128x192", extra_body={"ipa": {**FAST, "scale": 0.5}})
    flags = ("--prompt", "a red star", "-n", 2, "--size", "128x192", "--steps", 4, "--seed", 3, "--scale", 0.5)
    assert [sha256(one.b64_json) for one in answer.data] == drawn(ipa, *flags)
    assert (answer.size, answer.output_format, answer.background) == ("128x192", "png", "opaque")
    assert answer.usage.total_tokens == 0 and abs(answer.created - time.time()) < 600
    assert answer.ipa["seeds"] == [3, 4] and answer.ipa["warnings"] == []


def test_an_address_leads_to_the_picture_in_the_format_asked_for(api, client):
    answer = api.images.generate(
        prompt="a star",
        response_format="url",
        output_format="jpeg",
        output_compression=50,
        extra_body={"ipa": FAST},
    )
    got = client.get(answer.data[0].url)
    assert got.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(got.content)).size == (256, 256)
    assert hashlib.sha256(got.content).hexdigest() == answer.ipa["sha256"][0]


def test_edits_follow_their_images_and_generations_those_in_ipa(api, ipa):
    Path("cat.png").write_bytes(png("teal"))
    Path("dog.png").write_bytes(png("gold"))
    flags = ("--prompt", "a star", "-i", "cat.png", "-i", "dog.png", "--image-weight", 1, "--image-weight", 0.5)
    expected = drawn(ipa, *flags, "--steps", 4, "--seed", 3)
    with Path("cat.png").open("rb") as cat, Path("dog.png").open("rb") as dog:
        own = {**FAST, "image_weight": [1, 0.5]}
        edited = api.images.edit(image=[cat, dog], prompt="a star", extra_body={"ipa": own})
    pictures = {name: base64.b64encode(Path(name).read_bytes()).decode() for name in ("cat.png", "dog.png")}
    generated = api.images.generate(
        prompt="a star", extra_body={"ipa": {**own, "image": list(pictures), "files": pictures}}
    )
    assert [sha256(edited.data[0].b64_json)] == [sha256(generated.data[0].b64_json)] == expected


def test_a_mask_lets_the_reference_act_where_it_is_opaque(api, ipa):
    mask = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    mask.paste((90, 20, 20, 255), (0, 0, 128, 256))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    Path("cat.png").write_bytes(png("teal"))
    Path("half.png").write_bytes(png(0, (256, 256), "L"))
    half = Image.open("half.png")
    half.paste(255, (0, 0, 128, 256))
    half.save("half.png")
    files = {"image": ("cat.png", png("teal")), "prompt": "a star", "extra_body": {"ipa": '{"steps": 4, "seed": 3}'}}
    transparent = api.images.edit(mask=("m.png", buffer.getvalue()), **files)
    grey = api.images.edit(mask=("m.png", Path("half.png").read_bytes()), **files)
    pixels = [Image.open(io.BytesIO(base64.b64decode(one.data[0].b64_json))).tobytes() for one in (transparent, grey)]
    flags = ("--prompt", "a star", "-i", "cat.png", "--mask", "half.png", "--steps", 4, "--seed", 3, "-o", "here.png")
    assert ipa("generate", *flags).exit_code == 0
    assert pixels == [Image.open("here.png").tobytes()] * 2
    assert "drawn anew everywhere" in transparent.ipa["warnings"][0]


def test_two_uploads_of_one_name_stay_apart(api):
    same = [("image.png", png(colour)) for colour in ("teal", "gold")]
    first, second = (
        api.images.edit(image=images, prompt="a star", extra_body={"ipa": FAST}) for images in (same, same[::-1])
    )
    weighted = api.images.edit(
        image=same, mask=("image.png", png("white", (256, 256))), prompt="a star", extra_body={"ipa": FAST}
    )
    assert first.data[0].b64_json != second.data[0].b64_json and weighted.data


def test_a_stream_ends_with_each_picture(api):
    whole = api.images.generate(prompt="a star", n=2, extra_body={"ipa": FAST})
    stream = list(api.images.generate(prompt="a star", n=2, stream=True, partial_images=2, extra_body={"ipa": FAST}))
    assert [one.type for one in stream] == ["image_generation.completed"] * 2
    assert [one.b64_json for one in stream] == [one.b64_json for one in whole.data]
    assert "partial" in stream[0].ipa["warnings"][0]
    (edited,) = api.images.edit(image=png("teal"), prompt="a star", stream=True, extra_body={"ipa": FAST})
    assert (edited.type, edited.size) == ("image_edit.completed", "256x256")


def test_an_asynchronous_client_draws_side_by_side(server):
    async def draw():
        http = httpx2.AsyncClient(trust_env=False, timeout=300)
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=http) as api:
            bodies = [{"ipa": {"steps": 2, "seed": seed}} for seed in range(3)]
            return await asyncio.gather(*(api.images.generate(prompt="a star", extra_body=body) for body in bodies))

    answers = asyncio.run(draw())
    assert [one.ipa["seeds"] for one in answers] == [[0], [1], [2]]
    assert len({one.data[0].b64_json for one in answers}) == 3


def test_there_is_one_model_which_the_names_of_openai_mean_too(api):
    (only,) = api.models.list().data
    assert api.models.retrieve(only.id) == only and only.id == "demo"
    named = api.images.generate(prompt="a star", model="demo", extra_body={"ipa": FAST})
    usual = api.images.generate(prompt="a star", model="dall-e-3", quality="hd", extra_body={"ipa": FAST, "what": 1})
    assert usual.data == named.data and named.ipa["warnings"] == []
    assert [said.split()[0] for said in usual.ipa["warnings"]] == ["dall-e-3", "quality", "unknown"]
    for ask in (api.models.retrieve, lambda name: api.images.generate(prompt="a star", model=name)):
        with pytest.raises(openai.NotFoundError) as caught:
            ask("flux/dev")
        assert caught.value.code == "model_not_found" and "flux/dev" in caught.value.message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"size": "big"}, "not a picture size"),
        ({"size": "4096x4096"}, "at most 4194304"),
        ({"size": "100x100"}, "multiple of 8"),
        ({"n": 17}, "at most 16"),
        ({"n": 0}, "n: "),
        ({"output_format": "gif"}, "gif"),
        ({"output_compression": 50}, "lossless"),
        ({"background": "transparent"}, "transparent"),
        ({"extra_body": {"svg": {}}}, "svg"),
        ({"extra_body": {"seed": 1}}, "seed is no field"),
        ({"extra_body": {"ipa": {"seeds": 1}}}, "ipa.seeds"),
        ({"extra_body": {"ipa": {"prompt": "x"}}}, "prompt is given twice"),
        ({"extra_body": {"ipa": {"format": "png"}}}, "format"),
        ({"extra_body": {"ipa": {"image": ["/etc/passwd"]}}}, "base64"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_that_says_why(api, body, said):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        api.images.generate(prompt="a star", **body)
    assert said in caught.value.message and caught.value.type in ("UsageError", "IpaError")


def test_forms_that_cannot_be_drawn_are_errors_that_say_why(api, client):
    def refused(said, **body):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            api.images.edit(**{"prompt": "a star", "image": png("teal"), **body})
        assert said in caught.value.message

    refused("not a picture", image=b"hello")
    refused("dark everywhere", mask=png("black", (256, 256)))
    refused("nested too deep", extra_body={"ipa": {"adapter": [{"scale": 1}]}})
    refused("not JSON", extra_body={"ipa": "{"})
    assert client.post("/v1/images/edits", files={"other": b"x"}).status_code == 422
    assert client.post("/v1/images/edits", json={"prompt": "a star"}).status_code == 415
    assert client.post("/v1/images/edits", files={"image": b"x"}).json()["error"]["message"] == "prompt: Field required"


def test_a_full_queue_a_wrong_key_and_a_large_body_are_the_errors_that_clients_know(world):
    Path("token").write_text("0123456789abcdef")
    flags = ["--token-file", "token", "--max-queue", 1, "--max-upload", "20kB"]
    with serving(world.environ, world.cwd, flags) as server:
        server.wait_until_ready("0123456789abcdef")
        with connected(server) as stranger, pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        with connected(server, "0123456789abcdef") as api:
            with pytest.raises(openai.APIStatusError) as caught:
                api.images.generate(prompt="a" * 30_000)
            assert caught.value.status_code == 413
            with server.client("0123456789abcdef") as client:
                first = client.post("/v1/jobs", json={"steps": 150}).json()["data"]
                while client.get(f"/v1/jobs/{first['id']}").json()["data"]["status"] == "queued":
                    time.sleep(0.01)
                second = client.post("/v1/jobs", json={"steps": 150}).json()["data"]
                with pytest.raises(openai.RateLimitError, match="waiting already"):
                    api.images.generate(prompt="a star", extra_body={"ipa": FAST})
                end = threading.Timer(0.3, lambda: [client.delete(f"/v1/jobs/{job['id']}") for job in (first, second)])
                end.start()
                patient = api.with_options(max_retries=5)
                assert patient.images.generate(prompt="a star", extra_body={"ipa": FAST}).data
                end.join()


def test_a_page_of_an_allowed_site_may_ask_with_its_token_and_read_the_answer(world):
    Path("token").write_text("0123456789abcdef")
    site = "https://tool.example"
    with serving(world.environ, world.cwd, ["--token-file", "token", "--allow-origin", site]) as server:
        server.wait_until_ready("0123456789abcdef")
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
        with server.client("0123456789abcdef") as client:
            before = client.options("/v1/images/generations", headers={"Origin": site, **asks, "Authorization": ""})
            assert before.status_code == 200 and before.headers["access-control-allow-origin"] == site
            assert "authorization" in before.headers["access-control-allow-headers"].lower()
            assert client.get("/v1/models", headers={"Origin": site}).headers["access-control-allow-origin"] == site
            other = client.options("/v1/images/generations", headers={"Origin": "https://evil.example", **asks})
            assert other.status_code == 400 and "access-control-allow-origin" not in other.headers
            assert client.get("/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_the_engine(api, server, client, stream):
    def cancelled():
        figures = client.get("/metrics").text
        return next((line for line in figures.splitlines() if 'ipa_jobs_total{status="cancelled"}' in line), "")

    before = cancelled()
    with pytest.raises((openai.APITimeoutError, httpx2.TimeoutException)):
        answer = api.with_options(timeout=1).images.generate(
            prompt="a star", stream=stream, size="1024x1024", extra_body={"ipa": {"steps": 150}}
        )
        if stream:
            time.sleep(0.5)
            answer.close()
            raise httpx2.ReadTimeout("")
    began = time.monotonic()
    while cancelled() == before:
        assert time.monotonic() - began < 60
        time.sleep(0.05)
