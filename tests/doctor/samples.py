"""A GPU, versions that fit, and programs that misbehave."""

from pathlib import Path

from ipa_cli.hardware.gpu import Gpu

GPU = Gpu("NVIDIA H200", "9.0", "550.54.15", "GPU-aaaa", 140_000 << 20, 143_771 << 20)
WORKING = {
    "torch": "2.3.1+cu121",
    "diffusers": "0.30.3",
    "transformers": "4.44.2",
    "numpy": "1.26.4",
    "huggingface_hub": "0.25.2",
    "nexfort": "0.1.dev262",
    "onediff": "1.2.0",
    "onediffx": "1.2.0",
    "oneflow": "0.9.0",
    "nvidia-cublas-cu11": "11.11.3.6",
    "nvidia-cudnn-cu11": "8.9.6.50",
    "triton": "2.3.1",
}


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path
