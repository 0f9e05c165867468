"""The table in docs/settings.md lists every setting; `python -m tests.config.test_settings_page` rewrites it."""

import re
from pathlib import Path

from ipa_cli.commands import options
from ipa_cli.config import FIELDS, dropping
from ipa_cli.config.setting import PANELS

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
BEGIN, END = "<!-- settings: written by `python -m tests.config.test_settings_page` -->", "<!-- end of settings -->"


def table() -> str:
    """Settings by the headings of the help, each with its default and what it does."""
    rows = ["| setting | default | |", "|---|---|---|"]
    for panel in PANELS:
        for name in (name for name in options.ALL if FIELDS[name].metadata["panel"] == panel):
            meta = FIELDS[name].metadata
            short = f", `{meta['short']}`" if meta["short"] else ""
            rows.append(f"| `{name}`{short} | {options.default(name)} | {meta['help']} |")
    return "\n".join(rows)


def split() -> tuple[str, str, str]:
    """The page before, within and after the table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    within, _, after = rest.partition(END)
    return before, within.strip(), after


def test_the_table_lists_every_setting_as_it_is():
    assert split()[1] == table()


def test_the_page_says_which_settings_take_none():
    said = split()[0].partition("These take it:")[2].partition("; and")[0]
    assert re.findall(r"`(\w+)`", said) == list(dropping.DROPPABLE)


if __name__ == "__main__":
    before, _, after = split()
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", encoding="utf-8")
