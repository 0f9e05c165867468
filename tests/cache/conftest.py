from pathlib import Path

import pytest

from ipa_cli.cache import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")
