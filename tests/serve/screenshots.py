"""Makes the picture of the page in the docs: `python -m tests.serve.screenshots docs/page.jpg`, or a folder for more.

A folder gets the page light and dark, at three widths, and the page of the API.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ipa_cli.models.plan import DEMO
from tests.chromium import CHROMIUM, FLAGS
from tests.conftest import isolated
from tests.serve.server import serving

SCALES = (0.0, 0.5, 1.2, 0.8)


def draw(tab: Any) -> None:
    """A picture by prompt and reference, then the same at some scales."""
    tab.locator("#draw:enabled").wait_for()
    tab.locator("#files").set_input_files(DEMO / "reference.png")
    tab.locator("#prompt").fill("a large star in the middle")
    tab.locator("#seed").fill("7")
    tab.locator("#lock").click()
    tab.locator("#draw").click()
    for count, scale in enumerate(SCALES, 1):
        tab.locator(f"#history button:nth-child({count})").wait_for()
        tab.locator("#progress").wait_for(state="hidden")
        tab.locator("#scale-number").fill(str(scale))
    tab.locator(f"#history button:nth-child({len(SCALES) + 1})").wait_for()
    tab.locator("#progress").wait_for(state="hidden")


def main(target: Path) -> None:
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        sync_playwright() as playwright,
    ):
        target = target.absolute()
        world = isolated(Path(folder), patch)
        with serving(world.environ, world.cwd) as server:
            server.wait_until_ready()
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            tab = browser.new_page(viewport={"width": 1280, "height": 860})
            tab.set_default_timeout(120_000)
            tab.goto(server.url)
            draw(tab)
            if not target.is_dir():
                tab.screenshot(path=target, type="jpeg", quality=82)
                return
            for width, height in ((1440, 900), (768, 1024), (360, 740)):
                tab.set_viewport_size({"width": width, "height": height})
                for scheme in ("light", "dark"):
                    tab.emulate_media(color_scheme=scheme)
                    tab.screenshot(path=target / f"page-{width}-{scheme}.png", full_page=width == 360)
            tab.set_viewport_size({"width": 1440, "height": 900})
            tab.goto(f"{server.url}/docs")
            tab.locator("article").first.wait_for()
            tab.screenshot(path=target / "docs.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
