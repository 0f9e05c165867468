"""A package that stands for InsightFace where it is not installed: faces are red rectangles on anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

FILES = {
    "onnxruntime/__init__.py": "",
    "insightface/__init__.py": "",
    "insightface/utils/__init__.py": "",
    "insightface/utils/face_align.py": """
import numpy as np


def norm_crop(img, landmark, image_size=112, mode="arcface"):
    assert landmark.shape == (5, 2) and image_size % 112 == 0
    left, top = landmark.min(axis=0).astype(int)
    right, bottom = landmark.max(axis=0).astype(int)
    rows, columns = (np.linspace(a, b - 1, image_size).astype(int) for a, b in ((top, bottom), (left, right)))
    return img[rows][:, columns]
""",
    "insightface/app/__init__.py": """
import os
import numpy as np


class Face(dict):
    __getattr__ = dict.get

    @property
    def normed_embedding(self):
        return self.embedding / np.linalg.norm(self.embedding)


class FaceAnalysis:
    def __init__(self, name="buffalo_l", root="~/.insightface", allowed_modules=None, **kwargs):
        assert os.path.isdir(os.path.join(os.path.expanduser(root), "models", name)), "it would download"
        assert "detection" in allowed_modules and "recognition" in allowed_modules
        print("find model:", name)

    def prepare(self, ctx_id, det_thresh=0.5, det_size=(640, 640)):
        print("set det-size:", det_size)
        self.det_size = det_size

    def get(self, img, max_num=0):
        red = (img[..., 2] > 200) & (img[..., 1] < 60)
        columns, found = red.any(axis=0), []
        edges = np.flatnonzero(np.diff(np.r_[0, columns.astype(int), 0]))
        for left, right in zip(edges[::2], edges[1::2]):
            rows = np.flatnonzero(red[:, left:right].any(axis=1))
            top, bottom = rows[0], rows[-1] + 1
            if right - left > 0.8 * img.shape[1] and self.det_size[0] > 400:
                continue  # too large to be found in a large picture
            kps = np.array([[left, top], [right, top], [(left + right) / 2, (top + bottom) / 2], [left, bottom],
                            [right, bottom]], np.float32)
            embedding = np.random.default_rng(right - left).standard_normal(512).astype(np.float32)
            bbox = np.array([left, top, right, bottom], np.float32)
            found.append(Face(bbox=bbox, kps=kps, det_score=0.9, embedding=embedding))
        return sorted(found, key=lambda face: -face.bbox[0])
""",
}


def install(folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch, models: bool = True) -> None:
    """Put the package on the module path, and `models` where InsightFace keeps its own."""
    from ipa_cli.images import faces

    for name, text in FILES.items():
        path = folder / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(folder / "packages")
    faces._opened.cache_clear()
    if models:
        place = home / ".insightface" / "models" / "buffalo_l"
        place.mkdir(parents=True)
        (place / "det_10g.onnx").write_bytes(b"")
