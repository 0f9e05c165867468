"""The folder of a bench is used only when no link in it leads elsewhere."""

import pytest

from ipa_cli.bench import files
from ipa_cli.errors import IpaError


@pytest.mark.parametrize("name", [".work", "results.json", "table.md", "chart.png"])
@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_links_is_refused(tmp_path, name, force):
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "cloned"
    folder.mkdir()
    (folder / name).symlink_to("../elsewhere")
    with pytest.raises(IpaError, match=r"is a link|holds a bench"):
        files.prepare(folder, force)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(IpaError, match="too long"):
        files.prepare(tmp_path / ("x" * 300), replacing=False)
