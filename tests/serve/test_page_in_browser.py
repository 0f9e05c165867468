"""The page in a real browser: Chromium, driven by Playwright, against a real server."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipa_cli.config.requests import PLAIN_SETTINGS
from tests.serve.server import TOKEN, Server, serving
from tests.serve.test_jobs import png

pytestmark = pytest.mark.slow
DROP = """([target, name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  for (const event of ["dragover", "drop"]) {
    document.querySelector(target).dispatchEvent(
      new DragEvent(event, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""
# The pixels of the picture that is shown; its bytes are what `downloaded` gives, for the page may not fetch a blob.
SHOWN = """() => {
  const picture = document.getElementById("picture");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.toDataURL();
}"""


@contextmanager
def opened(browser: Any, url: str, width: int = 1440, expected: str = "", **options: Any) -> Iterator[Any]:
    """A page in a tab of its own; fails when it logs anything but what is `expected`, or asks another server."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    messages: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(url)
    try:
        yield tab
        assert [text for text in messages if not expected or not re.search(expected, text)] == []
        origin = "/".join(url.split("/")[:3])
        assert [one for one in asked if not one.startswith((f"{origin}/", f"blob:{origin}/", "data:"))] == []
    finally:
        context.close()


@pytest.fixture
def tab(browser, server: Server) -> Iterator[Any]:
    """The page of the shared server, set to draw small pictures of two steps."""
    with opened(browser, server.url, permissions=["clipboard-read", "clipboard-write"]) as one:
        small(one)
        yield one


def small(tab: Any) -> None:
    tab.locator("#draw:enabled").wait_for()
    tab.locator("#size").select_option("other")
    for name, value in {"width": 64, "height": 64, "steps": 2, "guidance_scale": 1}.items():
        tab.locator(f"#{name}").fill(str(value))


def draw(tab: Any, count: int = 1) -> None:
    """Draw, and wait until the history has `count` pictures."""
    tab.get_by_role("button", name="Draw", exact=True).click()
    drawn(tab, count)


def drawn(tab: Any, count: int) -> None:
    until(lambda: tab.evaluate(f"document.querySelectorAll('#history button').length === {count}"))
    tab.locator("#progress").wait_for(state="hidden")


def move(tab: Any, scale: float, rest: bool = True) -> None:
    """Move the slider as a hand does: input while it moves, change when it is released."""
    events = ["input", "change"] if rest else ["input"]
    tab.locator("#scale").evaluate(
        "(slider, [scale, events]) => { slider.value = scale;"
        " for (const one of events) slider.dispatchEvent(new Event(one, { bubbles: true })); }",
        [scale, events],
    )


def drop(tab: Any, target: str, name: str, data: bytes, kind: str = "image/png") -> None:
    tab.evaluate(DROP, [target, name, kind, base64.b64encode(data).decode()])


def drag(tab: Any, target: str, path: Path) -> None:
    """Drop what is on disk, as from a file manager."""
    box = tab.locator(target).bounding_box()
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    session = tab.context.new_cdp_session(tab)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        session.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


def downloaded(tab: Any) -> bytes:
    """The file of the picture that is shown."""
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Download").click()
    assert re.fullmatch(r"ipa-\d+\.png", download.value.suggested_filename)
    return Path(download.value.path()).read_bytes()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def cancelled(server: Server) -> float:
    """How many jobs the server has cancelled."""
    with server.client() as client:
        found = re.search(r'^ipa_jobs_total\{status="cancelled"\} (\S+)', client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0


def test_a_reference_is_dropped_and_the_slider_redraws_with_the_same_seed(tab):
    drop(tab, "#stage", "cat.png", png("teal"))
    tab.get_by_text("cat.png").wait_for()
    tab.locator("#prompt").fill("a red star")
    draw(tab)
    first, seed = tab.evaluate(SHOWN), tab.locator("#seed").input_value()
    assert tab.locator("#picture").get_attribute("alt") == "a red star"
    assert tab.locator("#picture").evaluate("(image) => image.naturalWidth") == 64
    move(tab, 1.3)
    drawn(tab, 2)
    assert tab.evaluate(SHOWN) != first
    assert tab.locator("#seed").input_value() == seed
    assert f"seed {seed}" in tab.locator("#status").inner_text()
    assert tab.locator("#history button").first.get_attribute("aria-label").startswith(f"scale 1.3, seed {seed}")
    draw(tab, 3)
    assert tab.locator("#seed").input_value() != seed
    tab.get_by_role("button", name="Lock").click()
    kept = tab.locator("#seed").input_value()
    draw(tab, 4)
    assert tab.locator("#seed").input_value() == kept


def test_the_picture_changes_while_the_slider_moves_and_only_the_last_one_is_kept(tab):
    draw(tab)
    sources = tab.evaluate(
        """async () => {
          const [slider, sources] = [document.getElementById("scale"), new Set()];
          for (let scale = 0; sources.size < 3; scale = (scale + 0.1) % 1.5) {
            slider.value = scale;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
            await new Promise((resolve) => setTimeout(resolve, 60));
            sources.add(document.getElementById("picture").src);
          }
          return [...sources];
        }"""
    )
    assert len(sources) == 3
    assert tab.locator("#history button").count() == 1
    move(tab, 1.2)
    drawn(tab, 2)
    assert tab.locator("#history button").first.get_attribute("aria-label").startswith("scale 1.2,")


def test_a_part_of_the_steps_is_drawn_while_the_slider_moves_and_all_of_them_once_it_rests(tab):
    tab.locator("#steps").fill("4")
    draw(tab)
    tab.locator("#preview").select_option("0.5")
    sent = []
    tab.on("request", lambda request: sent.append(request.post_data_json) if request.method == "POST" else None)
    move(tab, 0.2)
    drawn(tab, 2)
    assert [body["steps"] for body in sent] == [2, 4]
    assert "--steps 4" in tab.locator("#command").text_content()


def test_what_the_slider_overtakes_is_cancelled_on_the_server(tab, server):
    draw(tab)
    before = cancelled(server)
    tab.locator("#steps").fill("150")
    move(tab, 0.2, rest=False)
    until(lambda: tab.evaluate("document.querySelector('#progress').value > 0"))
    move(tab, 1.1)
    until(lambda: cancelled(server) == before + 1)
    tab.get_by_role("button", name="Cancel").click()
    until(lambda: cancelled(server) == before + 2)
    tab.locator("#progress").wait_for(state="hidden")
    assert tab.locator("#history button").count() == 1


def test_leaving_the_page_cancels_what_it_draws(tab, server):
    before = cancelled(server)
    tab.locator("#steps").fill("150")
    tab.get_by_role("button", name="Draw", exact=True).click()
    until(lambda: tab.evaluate("document.querySelector('#progress').value > 0"))
    tab.goto(f"{server.url}/docs")
    until(lambda: cancelled(server) == before + 1)


def test_a_picture_of_the_history_brings_its_settings_back_and_two_are_compared(tab):
    tab.locator("#prompt").fill("a red star")
    tab.locator("#scale-number").fill("0.3")
    draw(tab)
    first, seed = tab.evaluate(SHOWN), tab.locator("#seed").input_value()
    tab.locator("#prompt").fill("a ring")
    tab.locator("#ip_mode").select_option("style")
    move(tab, 0.9)
    drawn(tab, 2)
    second = tab.evaluate(SHOWN)
    assert first != second

    compare = tab.get_by_role("button", name="Hold to compare")
    compare.hover()
    tab.mouse.down()
    until(lambda: tab.evaluate(SHOWN) == first)
    assert tab.locator("#badge").inner_text() == f"scale 0.3, seed {seed}"
    tab.mouse.up()
    until(lambda: tab.evaluate(SHOWN) == second)
    assert tab.locator("#badge").is_hidden()
    compare.focus()
    tab.keyboard.down("Space")
    until(lambda: tab.evaluate(SHOWN) == first)
    tab.keyboard.up("Space")
    until(lambda: tab.evaluate(SHOWN) == second)

    tab.locator("#history button").last.hover()
    until(lambda: tab.evaluate(SHOWN) == first)
    tab.locator("h1").hover()
    until(lambda: tab.evaluate(SHOWN) == second)
    tab.locator("#history button").last.click()
    until(lambda: tab.evaluate(SHOWN) == first)
    assert tab.locator("#prompt").input_value() == "a red star"
    assert tab.locator("#ip_mode").input_value() == "full"
    assert (tab.locator("#scale").input_value(), tab.locator("#scale-number").input_value()) == ("0.3", "0.3")
    assert tab.locator("#width").input_value() == "64"


def test_the_copied_command_draws_the_very_file_that_is_downloaded(tab, ipa):
    Path("it's a cat.png").write_bytes(png("teal"))
    drop(tab, "#stage", "it's a cat.png", png("teal"))
    tab.get_by_text("it's a cat.png").wait_for()
    tab.locator("#prompt").fill('@star it\'s "red"')
    tab.locator("#num_images").fill("2")
    tab.locator("#more summary").click()
    tab.locator("#ip_end").fill("0.5")
    draw(tab, 2)
    tab.locator("#history button").last.click()
    tab.get_by_role("button", name="Copy as command line").click()
    tab.get_by_text("Command line copied").wait_for()
    command = tab.evaluate("navigator.clipboard.readText()")
    assert command == tab.locator("#command").text_content()
    words = shlex.split(command)
    assert words[:2] == ["ipa", "generate"]
    assert ipa(*words[1:], "--output", "here.png").exit_code == 0
    assert Path("here.png").read_bytes() == downloaded(tab)


def test_the_copied_json_is_a_body_that_the_server_takes(tab, client):
    drop(tab, "#references", "cat.png", png("teal"))
    tab.get_by_text("cat.png").wait_for()
    draw(tab)
    tab.get_by_role("button", name="Copy as JSON").click()
    tab.get_by_text("JSON for POST /v1/jobs copied").wait_for()
    body = json.loads(tab.evaluate("navigator.clipboard.readText()"))
    assert body["files"] == {"cat.png": "cat.png in base64"}
    body["files"]["cat.png"] = base64.b64encode(png("teal")).decode()
    job = client.post("/v1/jobs", json=body).json()["data"]
    until(lambda: client.get(f"/v1/jobs/{job['id']}").json()["data"]["status"] == "done")
    picture = client.get(f"/v1/jobs/{job['id']}").json()["data"]["pictures"][0]
    assert picture["sha256"] == hashlib.sha256(downloaded(tab)).hexdigest()


def test_a_picture_with_settings_fills_them_in_and_is_a_reference_where_references_go(tab, ipa):
    seed = 2**60 + 1  # JavaScript's numbers have no room for it
    flags = ("--width", 64, "--height", 64, "--steps", 3, "--scale", 0.35, "--seed", seed, "--scheduler", "ddim")
    assert ipa("generate", *flags, "--prompt", "a ring", "--ip-end", 0.7, "-o", "own.png").exit_code == 0
    drop(tab, "#stage", "own.png", Path("own.png").read_bytes())
    tab.get_by_text("Settings of own.png filled in").wait_for()
    filled = {
        "prompt": "a ring",
        "steps": "3",
        "scale-number": "0.35",
        "seed": str(seed),
        "scheduler": "ddim",
        "ip_end": "0.7",
    }
    assert {name: tab.locator(f"#{name}").input_value() for name in filled} == filled
    assert tab.locator(".thumb").count() == 0
    draw(tab)
    assert downloaded(tab) == Path("own.png").read_bytes()
    drop(tab, "#references", "own.png", Path("own.png").read_bytes())
    tab.locator(".thumb").wait_for()
    drop(tab, "#references", "own.png", png("teal"))
    tab.get_by_text("own-2.png").wait_for()
    tab.get_by_role("button", name="Remove own-2.png").click()
    assert tab.locator(".thumb").count() == 1


def test_references_are_pasted_and_chosen(tab):
    tab.evaluate(
        """(data) => {
          const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "image.png", { type: "image/png" }));
          dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
        }""",
        base64.b64encode(png("teal")).decode(),
    )
    tab.get_by_text("image.png").wait_for()
    tab.get_by_label("Drop, paste or choose pictures").set_input_files(
        [{"name": "dog.png", "mimeType": "image/png", "buffer": png("red")}]
    )
    tab.get_by_text("dog.png").wait_for()
    draw(tab)
    assert "--image image.png --image dog.png" in tab.locator("#command").text_content()


def test_pictures_of_one_name_that_come_at_once_keep_names_of_their_own(tab):
    tab.evaluate(
        """(pictures) => {
          for (const data of pictures) {
            const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "image.png", { type: "image/png" }));
            dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
          }
        }""",
        [base64.b64encode(png(colour)).decode() for colour in ("teal", "red")],
    )
    tab.get_by_text("image-2.png").wait_for(timeout=10_000)
    assert tab.locator(".thumb figcaption").all_inner_texts() == ["image.png", "image-2.png"]


def test_a_folder_that_is_dropped_is_refused_with_what_to_drop(browser, server, tmp_path):
    with opened(browser, server.url) as tab:
        tab.locator("#draw:enabled").wait_for()
        for target in ("#stage", "#references"):
            drag(tab, target, tmp_path)
            tab.get_by_text(f"{tmp_path.name} cannot be read").wait_for()
            assert "folder" in tab.locator("#problem-hint").inner_text()
            drop(tab, "#references", "cat.png", png("teal"))
            tab.locator(".thumb").wait_for()
            assert tab.get_by_role("alert").count() == 0
            tab.get_by_role("button", name="Remove cat.png").click()


def test_a_refused_request_is_shown_in_the_words_of_the_server(browser, server):
    with opened(browser, server.url, expected="422") as tab:  # which Chromium logs
        small(tab)
        tab.locator("#more summary").click()
        tab.locator("#ip_layers").fill("{")
        tab.get_by_role("button", name="Draw", exact=True).click()
        tab.get_by_role("alert").wait_for()
        assert "is not JSON" in tab.locator("#problem-message").inner_text()
        assert tab.locator("#problem-hint").inner_text() != ""
        tab.locator("#ip_layers").fill("")
        draw(tab)
        assert tab.get_by_role("alert").count() == 0


def test_a_field_with_a_wrong_value_is_pointed_at_and_nothing_is_sent(tab):
    sent = []
    tab.on("request", lambda request: sent.append(request.url))
    tab.locator("#more summary").click()
    tab.locator("#ip_end").fill("2")
    tab.locator("#more summary").click()
    tab.get_by_role("button", name="Draw", exact=True).click()
    assert tab.evaluate("document.activeElement.id") == "ip_end"
    tab.locator("#ip_end").fill("")
    for name, value in {"scale-number": "1e", "seed": "one"}.items():
        tab.locator(f"#{name}").press_sequentially(value)
        tab.get_by_role("button", name="Draw", exact=True).click()
        assert tab.evaluate("document.activeElement.id") == name
        tab.locator(f"#{name}").fill("")
    assert sent == []


def test_every_plain_setting_has_a_field_with_a_label(tab):
    left_out = {"scale", "image_weight", "batch_size"}
    assert tab.locator("#scale").count() == 1
    missing = [name for name in PLAIN_SETTINGS if name not in left_out and not tab.locator(f"#{name}").count()]
    assert missing == []
    unlabelled = """[...document.querySelectorAll("input, select, textarea")]
      .filter((one) => !one.labels.length && !one.ariaLabel).map((one) => one.id)"""
    assert tab.evaluate(unlabelled) == []


def test_the_keyboard_alone_draws_and_moves_the_slider(tab):
    tab.locator("#prompt").focus()
    tab.keyboard.press("Control+Enter")
    drawn(tab, 1)
    tab.locator("#scale").focus()
    tab.keyboard.press("PageUp")
    drawn(tab, 2)
    tab.locator("#history button").first.focus()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    until(lambda: tab.evaluate("document.querySelector('#history button:last-child').ariaCurrent === 'true'"))


def test_a_lost_connection_is_said_and_found_again(browser, server):
    with opened(browser, server.url, expected="ERR_INTERNET_DISCONNECTED") as tab:
        small(tab)
        tab.context.set_offline(True)
        tab.get_by_role("button", name="Draw", exact=True).click()
        tab.get_by_text("Trying again").wait_for()
        tab.context.set_offline(False)
        drawn(tab, 1)


def test_a_token_is_asked_for_and_kept_by_the_tab(browser, guarded):
    with opened(browser, guarded.url, expected="401|503") as tab:
        dialog = tab.get_by_role("dialog", name="This server asks for a token")
        dialog.wait_for()
        tab.get_by_label("Token", exact=True).fill("wrong")
        tab.get_by_role("button", name="Continue").click()
        tab.get_by_text("not the token of this server").wait_for()
        tab.get_by_label("Token", exact=True).fill(TOKEN)
        tab.keyboard.press("Enter")
        small(tab)
        draw(tab)
        tab.reload()
        small(tab)
        draw(tab)
        assert tab.evaluate("[localStorage.length, document.cookie, location.href]") == [0, "", f"{guarded.url}/"]
        tab.goto(f"{guarded.url}/docs")
        tab.locator("article").first.wait_for()
        assert "Authorization: Bearer $TOKEN" in tab.locator("article pre").first.inner_text()


@pytest.mark.parametrize(
    ("flags", "said", "scale"),
    [
        (["--ip-adapter", "none"], "no adapter that could follow a reference", False),
        (["--adapter", "own,mode=layout", "--adapter", "own,mode=style"], "2 adapters", True),
    ],
)
def test_without_an_adapter_there_is_no_scale_and_several_draw_with_their_references(
    browser, world, flags, said, scale
):
    with serving(world.environ, world.cwd, flags) as server:
        server.wait_until_ready()
        with opened(browser, server.url) as tab:
            small(tab)
            assert said in tab.locator("#reference-hint").inner_text()
            assert tab.locator("#well").is_hidden()
            assert tab.locator("#scale").is_enabled() == scale
            draw(tab)
            assert ("scale" in tab.locator("#history button").get_attribute("aria-label")) == scale
            if scale:
                first = tab.evaluate(SHOWN)
                move(tab, 1.4)
                drawn(tab, 2)
                assert tab.evaluate(SHOWN) != first


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_fit_every_width_light_and_dark(browser, server, path, scheme):
    with opened(browser, f"{server.url}{path}", color_scheme=scheme, reduced_motion="reduce") as tab:
        tab.locator("#draw:enabled, article:last-child").first.wait_for()
        if path == "/":
            tab.locator("#more summary").click()
        for width in (360, 768, 1440):
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.evaluate("document.documentElement.scrollWidth") == width
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (min(map(int, re.findall(r"\d+", paper))) > 200) == (scheme == "light")


def test_the_page_of_the_api_has_every_route_with_its_fields(browser, server, client):
    api = client.get("/openapi.json").json()
    with opened(browser, f"{server.url}/docs") as tab:
        tab.locator("article").first.wait_for()
        routes = {tuple(text.split(maxsplit=1)) for text in tab.locator("article h3").all_inner_texts()}
        assert {(method, path) for method, path in routes} == {
            (method.upper(), path) for path, methods in api["paths"].items() for method in methods
        }
        job = tab.locator("article", has=tab.get_by_text("POST")).filter(has_text="Send a job")
        assert "one of full, style, layout, style-layout" in job.inner_text()
        assert "curl -X POST -H 'Content-Type: application/json' -d" in job.locator("pre").inner_text()
