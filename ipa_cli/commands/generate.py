"""`ipa generate`: a prompt and a reference picture go in, a picture comes out."""

from __future__ import annotations

import typer

from ..report import Result
from . import options


def generate(
    context: typer.Context,
    prompt: options.Prompt = None,
    negative_prompt: options.NegativePrompt = None,
    image: options.Image = None,
    scale: options.Scale = None,
    steps: options.Steps = None,
    guidance_scale: options.GuidanceScale = None,
    height: options.Height = None,
    width: options.Width = None,
    seed: options.Seed = None,
    num_images: options.NumImages = None,
    scheduler: options.Scheduler = None,
    output: options.Output = None,
    force: options.Force = False,
    model: options.Model = None,
    load_format: options.LoadFormat = None,
    variant: options.Variant = None,
    revision: options.Revision = None,
    ip_adapter: options.IpAdapter = None,
    ip_adapter_subfolder: options.IpAdapterSubfolder = None,
    ip_adapter_weight_name: options.IpAdapterWeightName = None,
    backend: options.Backend = None,
    compile: options.Compile = None,
    compile_options: options.CompileOptions = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    offload: options.Offload = None,
    vae_tiling: options.VaeTiling = None,
    vae_slicing: options.VaeSlicing = None,
    warmup: options.Warmup = None,
    cache_dir: options.CacheDir = None,
    cache_max_size: options.CacheMaxSize = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> Result:
    """Draw pictures from a prompt and a reference picture."""
    from .. import session

    return session.generate(options.settings(context), context.obj, force)
