"""What people look at: a contact sheet, and pages of pictures that work offline and can make no request."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.batch.journal import Outcome
from ipa_cli.batch.output import Output
from ipa_cli.errors import IpaError
from ipa_cli.images.decode import decode
from ipa_cli.images.drawing import BACKGROUND, MUTED, TEXT
from ipa_cli.images.drawing import write as text

if TYPE_CHECKING:
    from PIL.Image import Image

PAGE = 500  # jobs
NAMES = re.compile(r"index\.html|page-\d+\.html|contact-sheet\.png")  # of what is written here
FIRST = "index.html"
SHEET, ON_SHEET, CELL, COLUMNS, GAP, MARGIN = "contact-sheet.png", 200, 128, 10, 8, 24


def write(output: Output, outcomes: Iterable[Outcome], title: str) -> int:
    """Write the sheet of the first pictures, and a page for every `PAGE` jobs; the number of pages."""
    every, first, number = iter(outcomes), list[Outcome](), 0
    following = list(islice(every, PAGE))
    template, style = _templates()
    while following:
        number, shown, following = number + 1, following, list(islice(every, PAGE))
        first += [one for one in shown if one.file][: ON_SHEET - len(first)]
        page = template.render(
            policy=f"default-src 'none'; img-src 'self' file:; style-src 'sha256-{_hash(style)}'; base-uri 'none'",
            style=style,
            title=title,
            outcomes=shown,
            number=number,
            before=_name(number - 1) if number > 1 else "",
            after=_name(number + 1) if following else "",
        )
        output.write(_name(number), page.encode("utf-8", "replace"))
    if first:
        output.write(SHEET, _sheet(output, first, title))
    return number


def _name(number: int) -> str:
    return FIRST if number == 1 else f"page-{number}.html"


def _sheet(output: Output, shown: list[Outcome], title: str) -> bytes:
    from PIL import Image, ImageDraw

    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    width = max(480, 2 * MARGIN + columns * (CELL + GAP) - GAP)
    height = 2 * MARGIN + 40 + rows * (CELL + GAP + 18)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    text(pen, (MARGIN, MARGIN - 6), title, 20, TEXT, width - 2 * MARGIN)
    for at, (outcome, picture) in enumerate(zip(shown, _thumbnails(output, shown), strict=True)):
        left, top = MARGIN + at % columns * (CELL + GAP), MARGIN + 40 + at // columns * (CELL + GAP + 18)
        if picture is not None:
            sheet.paste(picture, (left, top))
        text(pen, (left, top + CELL + 1), outcome.id, 11, MUTED, CELL)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _thumbnails(output: Output, shown: list[Outcome]) -> Iterator[Image | None]:
    def small(outcome: Outcome) -> Any:
        try:
            picture = decode(output.read(str(outcome.file)) or b"", outcome.id)[0].convert("RGB")
        except IpaError:  # it was replaced since, by a larger one or by something else
            return None
        picture.thumbnail((CELL, CELL))
        return picture

    with ThreadPoolExecutor(4, "reader") as readers:
        yield from readers.map(small, shown)


def _templates() -> tuple[Any, Any]:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    style = Markup((folder / "page.css").read_text(encoding="utf-8"))
    return environment.from_string((folder / "page.html").read_text(encoding="utf-8")), style


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
