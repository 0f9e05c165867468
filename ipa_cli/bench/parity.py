"""How far the output of two backends is apart with the same weights and inputs, from files their processes left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ipa_cli.bench.results import BackendResult
from ipa_cli.system import files

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

SUM_TOLERANCE = 1e-5  # relative, between sums of the same numbers


def keep(path: Path, noise: Tensor, pictures: Sequence[Image], exact: Tensor | None) -> None:
    """Keep the output of one UNet call, the decoded pictures, and the same call in fp32 where it differs."""
    import numpy as np

    arrays: dict[str, Any] = {
        "noise": noise.float().cpu().numpy(),
        "pictures": np.stack([np.asarray(picture) for picture in pictures]),
    }
    if exact is not None:
        arrays["exact"] = exact.cpu().numpy()
    with files.replacing(path) as file:
        np.savez(file, **arrays)


def compare(path: Path, reference: Path) -> dict[str, Any]:
    """Relative errors of the UNet call, PSNR of the pictures in dB, None where identical; of `path` to `reference`."""
    import numpy as np

    with np.load(path) as found, np.load(reference) as expected:
        exact = expected.get("exact")
        return {
            "relative_error": _relative_error(found["noise"], expected["noise"]),
            "fp32_error": None if exact is None else _relative_error(found["noise"], exact),
            "eager_fp32_error": None if exact is None else _relative_error(expected["noise"], exact),
            **_psnr(found["pictures"], expected["pictures"]),
        }


def same_inputs(backend: BackendResult, reference: BackendResult) -> bool:
    """Whether two backends had the same weights and inputs, as far as their sums tell."""
    pairs = [(backend.runs[0][name], reference.runs[0][name]) for name in ("weights_sum", "inputs_sum")]
    return all(math.isclose(one, other, rel_tol=SUM_TOLERANCE) for one, other in pairs)


def _relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    import numpy as np

    expected = expected.astype(np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _psnr(one: np.ndarray, other: np.ndarray) -> dict[str, Any]:
    import numpy as np

    error = float(((one.astype(np.float64) - other) ** 2).mean())
    return {"identical": error == 0, "psnr_db": None if error == 0 else float(10 * np.log10(255**2 / error))}
