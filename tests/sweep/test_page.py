"""The page in a real browser: Chromium, driven by Playwright."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from ipa_cli.sweep import image_data, journal
from tests.sweep.folders import FAILURE, draw, finish, make

HOSTILE = (
    "<script>window.hacked = 1</script>\"'><img src=x onerror='window.hacked = 1'> &amp; {{ title }} {% raw %} ${title}"
)


@contextmanager
def opened(browser: Any, path: Any, width: int = 1280, **options: Any) -> Iterator[Any]:
    """The page in a tab of its own; fails when it logs anything or asks for anything that is not itself."""
    context = browser.new_context(viewport={"width": width, "height": 800}, **options)
    tab = context.new_page()
    tab.set_default_timeout(10_000)
    messages: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(path.as_uri())
    try:
        yield tab
        assert messages == []
        assert {url for url in asked if not url.startswith("data:")} == {path.as_uri()}
    finally:
        context.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("plain"), make((0.0, 0.25, 0.5, 1.0)))


@pytest.fixture(scope="module")
def plain_page(plain):
    return finish(plain)


@pytest.fixture(scope="module")
def troubled_page(tmp_path_factory):
    drawn = draw(tmp_path_factory.mktemp("troubled"), make(), failed={2}, frozen={6})
    return finish(drawn)


@pytest.fixture
def server():
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{running.server_port}/", asked=asked)
        running.shutdown()


def source(drawn, number):
    data = (drawn.folder / drawn.sweep.points[number - 1].file).read_bytes()
    return "data:image/png;base64," + base64.b64encode(data).decode()


def test_the_grid_has_every_picture_with_row_and_column(browser, plain, plain_page):
    with opened(browser, plain_page) as tab:
        assert tab.locator("thead th").all_inner_texts() == ["Row", "0", "0.25", "0.5", "1"]
        assert tab.locator("tbody tr").count() == 2
        assert "1. cat.png" in tab.locator("tbody th").first.inner_text()
        for point in plain.sweep.points:
            assert tab.locator(f"[data-point='{point.number}'] img").get_attribute("src") == source(plain, point.number)
        assert tab.evaluate("[...document.images].filter((i) => i.src).every((i) => i.complete && i.naturalWidth > 0)")


def test_the_slider_goes_through_the_scale(browser, plain, plain_page):
    with opened(browser, plain_page) as tab:
        stage, now = tab.locator("#stage img"), tab.locator("#scale-now")
        # It opens in the middle, for at scale 0 the reference does nothing.
        assert (now.inner_text(), stage.get_attribute("src")) == ("0.5", source(plain, 3))
        tab.get_by_label("Scale", exact=True).first.focus()
        tab.keyboard.press("Home")
        assert (now.inner_text(), stage.get_attribute("src")) == ("0", source(plain, 1))
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowRight")
        assert (now.inner_text(), stage.get_attribute("src")) == ("0.5", source(plain, 3))
        assert tab.locator("#scale").get_attribute("aria-valuetext") == "0.5"
        assert re.match(r"Differs from scale 0.25 by \d+\.\d\d of 255 on average", tab.locator("#change").inner_text())
        tab.keyboard.press("End")
        assert (now.inner_text(), stage.get_attribute("src")) == ("1", source(plain, 4))
        tab.keyboard.press("ArrowRight")
        assert now.inner_text() == "1"
        tab.get_by_label("Scale before this").first.click()
        assert now.inner_text() == "0.5"


def test_arrow_keys_work_from_anywhere_and_rows_can_be_changed(browser, plain, plain_page):
    with opened(browser, plain_page) as tab:
        tab.locator("h1").click()
        for _ in range(9):
            tab.keyboard.press("ArrowRight")
        tab.keyboard.press("ArrowLeft")
        tab.locator("#row").select_option(label="2. dog.png")
        assert tab.locator("#scale-now").inner_text() == "0.5"
        assert tab.locator("#stage img").get_attribute("src") == source(plain, 7)
        assert tab.locator("#reference-name").inner_text() == "dog.png"


def test_play_runs_through_the_scales_and_stops(browser, plain_page):
    with opened(browser, plain_page) as tab:
        play = tab.locator("#play")
        play.click()
        tab.locator("#scale-now", has_text="0.25").wait_for()
        assert (play.inner_text(), play.get_attribute("aria-pressed")) == ("Pause", "true")
        play.click()
        assert (play.inner_text(), play.get_attribute("aria-pressed")) == ("Play", "false")


def test_two_pictures_stand_side_by_side(browser, plain, plain_page):
    with opened(browser, plain_page) as tab:
        left, right = tab.get_by_role("group", name="Left picture"), tab.get_by_role("group", name="Right picture")
        assert left.locator("img").get_attribute("src") == source(plain, 1)
        assert right.locator("img").get_attribute("src") == source(plain, 4)
        right.get_by_label("Row").select_option(label="2. dog.png")
        right.get_by_label("Scale").select_option(label="0.25")
        assert right.locator("img").get_attribute("src") == source(plain, 6)
        boxes = [side.locator("img").bounding_box() for side in (left, right)]
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] and boxes[0]["y"] == boxes[1]["y"]


def test_a_click_enlarges_and_escape_gives_the_focus_back(browser, plain, plain_page):
    with opened(browser, plain_page) as tab:
        viewer, thumbnail = tab.locator("#viewer"), tab.locator("[data-point='2']")
        assert not viewer.is_visible()
        thumbnail.click()
        assert viewer.is_visible()
        assert tab.locator("#large img").get_attribute("src") == source(plain, 2)
        assert tab.locator("#large img").bounding_box()["width"] > 2 * thumbnail.bounding_box()["width"]
        tab.keyboard.press("Escape")
        assert not viewer.is_visible()
        assert thumbnail.evaluate("(e) => e === document.activeElement")
        tab.keyboard.press("Enter")
        assert viewer.is_visible()
        for _ in range(12):  # the focus stays in the dialog, or goes to the browser's own controls
            tab.keyboard.press("Tab")
            assert tab.evaluate("document.activeElement.closest('#viewer') || document.activeElement === document.body")
        tab.get_by_role("button", name="Close").click()
        assert not viewer.is_visible()
        thumbnail.click()
        tab.mouse.click(3, 3)  # beside the dialog
        assert not viewer.is_visible()


def test_the_enlarged_picture_has_its_settings_and_neighbours(browser, plain, plain_page):
    with opened(browser, plain_page) as tab:
        tab.locator("[data-point='2']").click()
        terms = tab.locator("#viewer dt").all_inner_texts()
        settings = dict(zip(terms, tab.locator("#viewer dd").all_inner_texts(), strict=True))
        point = plain.sweep.points[1]
        assert settings.pop("difference").startswith("Differs from scale 0 by ")
        assert settings == {
            "scale": "0.25",
            "reference": "cat.png",
            "prompt": "a red fox",
            "size": "64 × 64",
            "seed": "7",
            "model": "demo",
            "steps": "4",
            "guidance scale": "5.0",
            "device": "cpu",
            "file": point.file,
            "SHA-256": plain.outcomes[2].sha256,
        }
        for key, number in (("ArrowRight", 3), ("ArrowDown", 7), ("ArrowLeft", 6), ("ArrowLeft", 5), ("ArrowLeft", 5)):
            tab.keyboard.press(key)
            assert tab.locator("#large img").get_attribute("src") == source(plain, number)
        tab.get_by_role("button", name="Compare left").click()
        assert not tab.locator("#viewer").is_visible()
        assert tab.locator("#left img").get_attribute("src") == source(plain, 5)


def test_user_text_is_shown_as_text(browser, tmp_path):
    reference = "</script><script>window.hacked = 1</script>.png"
    drawn = draw(tmp_path, make((0.0, 1.0), (reference,), (HOSTILE, "plain")))
    with opened(browser, finish(drawn)) as tab:
        assert tab.evaluate("window.hacked") is None
        assert tab.locator("#prompt").inner_text() == HOSTILE
        assert tab.locator(".words").first.text_content() == HOSTILE
        assert tab.locator("#reference-name").inner_text() == "script>.png"
        tab.locator("[data-point='1']").click()
        assert HOSTILE in tab.locator("#viewer dd").all_text_contents()
        assert reference in tab.locator("#viewer dd").all_text_contents()


def test_the_policy_blocks_every_request_and_foreign_script(browser, plain_page, server):
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(plain_page.as_uri())
    blocked = tab.evaluate(
        """async (url) => {
            const seen = [];
            document.addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
            await fetch(url).catch(() => 0);
            const add = (tag, set) => document.body.append(Object.assign(document.createElement(tag), set));
            add("img", { src: url + "a.png" });
            add("script", { textContent: "window.hacked = 1" });
            add("style", { textContent: `body { background: url(${url}) }` });
            add("iframe", { src: url });
            await new Promise((resolve) => setTimeout(resolve, 300));
            return seen;
        }""",
        server.url,
    )
    assert {"connect-src", "img-src", "script-src-elem", "style-src-elem", "frame-src"} <= set(blocked)
    assert tab.evaluate("window.hacked") is None
    assert server.asked == []
    tab.goto(server.url)  # a server that answers: silence above is no accident
    assert server.asked[0] == "/"
    context.close()


def test_frozen_scales_and_failures_are_shown_first(browser, troubled_page):
    with opened(browser, troubled_page) as tab:
        alerts = tab.get_by_role("alert").all_inner_texts()
        assert "The scale is frozen" in alerts[0] and "row 2: the scales 0 and 1 gave the same picture" in alerts[0]
        assert "1 picture failed" in alerts[1] and f"row 1, scale 0.5: {FAILURE}" in alerts[1]
        assert tab.locator("td.frozen").count() == 2
        assert not tab.locator("#stage img").is_visible()
        assert tab.locator("#stage .failure").inner_text().endswith(FAILURE)
        tab.keyboard.press("ArrowRight")
        assert tab.locator("#stage img").is_visible()


def test_a_sweep_without_failures_has_no_alert(browser, plain_page):
    with opened(browser, plain_page) as tab:
        assert tab.get_by_role("alert").count() == 0


@pytest.mark.parametrize("width", [360, 768])
def test_it_fits_a_narrow_screen(browser, troubled_page, width):
    with opened(browser, troubled_page, width) as tab:
        tab.keyboard.press("ArrowRight")  # the picture in the middle has failed
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert tab.locator("#stage img").bounding_box()["width"] > 0.8 * width * (1 if width < 821 else 0.5)
        boxes = [tab.locator(f"#{side} img").bounding_box() for side in ("left", "right")]
        assert boxes[0]["y"] == boxes[1]["y"] and all(box["width"] > 120 for box in boxes)
        tab.locator("[data-point='1']").click()
        assert tab.evaluate("document.getElementById('viewer').scrollWidth") <= width
        assert tab.locator("#large img").bounding_box()["width"] > 0.8 * width


CONTRAST = """() => {
    const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const luminance = (colour) => {
        paint.fillStyle = colour;
        paint.fillRect(0, 0, 1, 1);
        const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = paint.getImageData(0, 0, 1, 1).data;
        return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
    };
    const behind = (element) => {
        const own = getComputedStyle(element).backgroundColor;
        return own === "rgba(0, 0, 0, 0)" && element.parentElement ? behind(element.parentElement) : own;
    };
    let least = 99;
    for (const element of document.querySelectorAll("body *")) {
        if (!element.checkVisibility() || !element.textContent.trim()) continue;
        const pair = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort();
        least = Math.min(least, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05));
    }
    return least;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system_and_the_switch(browser, troubled_page, scheme):
    def is_dark(tab):
        return tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 19, 22)"

    with opened(browser, troubled_page, color_scheme=scheme) as tab:
        assert is_dark(tab) == (scheme == "dark")
        assert tab.evaluate(CONTRAST) >= 4.5
        for choice in ("Dark", "Light"):
            tab.get_by_text(choice, exact=True).click()
            assert is_dark(tab) == (choice == "Dark")
        tab.get_by_label("Light").focus()
        tab.keyboard.press("ArrowRight")  # a group of radio buttons: arrows choose, and leave the slider alone
        assert is_dark(tab) and tab.locator("#scale-now").inner_text() == "0.5"
        tab.get_by_text("Auto", exact=True).click()
        assert is_dark(tab) == (scheme == "dark")


def test_every_control_and_image_has_an_accessible_name(browser, troubled_page):
    with opened(browser, troubled_page) as tab:
        unnamed = tab.evaluate(
            """[...document.querySelectorAll("button, select, input, img")].filter((e) => e.checkVisibility()).filter(
                (e) => !(e.alt || e.ariaLabel || e.innerText || e.labels?.length || e.querySelector("img")?.alt)
                ).filter((e) => !e.classList.contains("thumb"))
                .map((e) => e.outerHTML.slice(0, 120))"""
        )
        assert unnamed == []
        assert tab.locator("[data-point='1'] img").get_attribute("alt") == (
            "a red fox — scale 0, reference cat.png, row 1"
        )
        assert tab.locator("html").get_attribute("lang") == "en" and tab.title()


def test_the_grid_is_whole_without_javascript(browser, plain, plain_page):
    with opened(browser, plain_page, java_script_enabled=False) as tab:
        assert tab.locator("td img").count() == len(plain.sweep.points)
        assert tab.get_by_text("need JavaScript").is_visible()
        assert not tab.locator("#scale").is_visible()


def test_a_single_scale_makes_a_page_too(browser, tmp_path):
    with opened(browser, finish(draw(tmp_path, make((0.5,), ("cat.png",))))) as tab:
        assert tab.locator("#scale-now").inner_text() == "0.5"
        assert tab.get_by_text("no neighbouring scales").is_visible()


def test_large_sweeps_are_shown_as_previews_with_a_note(browser, plain, monkeypatch, tmp_path):
    monkeypatch.setattr(image_data, "MAX_BYTES", 100)
    monkeypatch.setattr(image_data, "PREVIEW_PIXELS", 8 * 64**2)
    large = draw(tmp_path, make((0.0, 0.25, 0.5, 1.0), sizes=((256, 128),)))
    with opened(browser, finish(large)) as tab:
        image = tab.locator("[data-point='1'] img")
        assert image.get_attribute("src").startswith("data:image/webp")
        assert image.evaluate("(e) => [e.naturalWidth, e.naturalHeight]") == [64, 32]
        assert tab.get_by_text("previews of at most 64 pixels").is_visible()


def test_a_sweep_without_any_picture_makes_a_page(browser, tmp_path):
    with opened(browser, finish(draw(tmp_path, make(), failed=range(1, 7)))) as tab:
        assert "6 pictures failed" in tab.get_by_role("alert").inner_text()


# --- without a browser ----------------------------------------------------------------------------------------


def test_equal_sweeps_give_equal_pages(plain, plain_page):
    before = plain_page.read_bytes()
    assert finish(plain).read_bytes() == before


class Elements(HTMLParser):
    """Every start tag with its attributes, as a browser would read them."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


@pytest.mark.slow
@pytest.mark.parametrize("hostile", [HOSTILE, "</script><!--<script>", "\" onload=x '", "</style>", "&lt;b&gt; <b>"])
def test_hostile_text_adds_no_element_and_no_attribute(tmp_path, hostile):
    pages = {}
    for name, text in (("harmless", "words"), ("hostile", hostile)):
        drawn = draw(tmp_path / name, make(prompts=(text, "plain"), references=(f"{text}.png",)), failed={2})
        drawn = replace(drawn, outcomes={**drawn.outcomes, 2: replace(drawn.outcomes[2], error=text)})
        pages[name] = finish(drawn, {"model": text, "negative_prompt": text}).read_text("utf-8")
    found, expected = (Elements(pages[name]).found for name in ("hostile", "harmless"))
    assert [(tag, sorted(names)) for tag, names in found] == [(tag, sorted(names)) for tag, names in expected]
    assert f"{hostile} — scale 0, reference " in next(names["alt"] for _, names in found if names.get("width"))
    (data,) = re.findall(r'<script type="application/json" id="sweep">([^<]*)</script>', pages["hostile"])
    assert json.loads(data)["prompts"] == [hostile, "plain"]
    assert json.loads(data)["points"][1]["error"] == hostile


def test_lone_surrogates_do_not_stop_the_page(tmp_path):
    drawn = draw(tmp_path, make(prompts=("a \ud800 fox",), references=("\udcff.png",)))
    assert finish(drawn).stat().st_size > 1000
    assert journal.read_results(tmp_path, drawn.sweep).keys() == drawn.outcomes.keys()
