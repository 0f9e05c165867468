"""The output of two processes, compared."""

import numpy as np
import pytest
import torch
from PIL import Image

from ipa_cli.bench import parity


def write(path, noise, level, exact=None):
    pictures = [Image.new("RGB", (8, 8), (level, level, level)) for _ in range(2)]
    parity.keep(path, noise, pictures, exact)
    return path


def test_errors_are_relative_to_the_reference_and_to_fp32(tmp_path):
    exact = torch.ones(2, 4, 8, 8)
    one = write(tmp_path / "new" / "one.npz", (exact * 1.5).half(), 100)
    other = write(tmp_path / "new" / "other.npz", (exact * 1.25).half(), 110, exact)
    found = parity.compare(one, other)
    assert found["relative_error"] == pytest.approx(0.2) and found["fp32_error"] == pytest.approx(0.5)
    assert found["eager_fp32_error"] == pytest.approx(0.25)
    assert not found["identical"] and found["psnr_db"] == pytest.approx(10 * np.log10(255**2 / 100))
    assert [path.name for path in sorted((tmp_path / "new").iterdir())] == ["one.npz", "other.npz"]


def test_equal_outputs_are_identical_and_fp32_is_optional(tmp_path):
    path = write(tmp_path / "one.npz", torch.ones(2, 4, 8, 8, dtype=torch.bfloat16), 100)
    found = parity.compare(path, path)
    assert found == {
        "relative_error": 0,
        "fp32_error": None,
        "eager_fp32_error": None,
        "identical": True,
        "psnr_db": None,
    }
