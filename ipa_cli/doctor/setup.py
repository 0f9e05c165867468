"""Settings and their sources, the model with its adapter, and shell completion."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ipa_cli import config
from ipa_cli.config import Resolved, Settings, Source, servers
from ipa_cli.config.privacy import public_text
from ipa_cli.doctor.check import Check
from ipa_cli.doctor.places import expand
from ipa_cli.errors import IpaError
from ipa_cli.hardware import packages
from ipa_cli.images import faces
from ipa_cli.models import configurations, weights
from ipa_cli.models.plan import make_plan

# Users may not want these values in an issue: only the name and the source are shown.
PRIVATE = {
    "prompt",
    "negative_prompt",
    "image",
    "output",
    "server",
    "server_token_file",
    "cache_remote",
    "cache_signing_key",
}
MODEL = {
    "model",
    "load_format",
    "variant",
    "vae",
    "revision",
    "ip_adapter",
    "ip_adapter_subfolder",
    "ip_adapter_weight_name",
    "image_encoder",
}


def read_settings(flags: Mapping[str, Any]) -> tuple[Resolved, Check]:
    """The settings, and the check of their sources; where those are broken, the flags on top of the defaults.

    Raises UsageError only for a flag: that is wrong usage of the command.
    """
    try:
        config.resolve({})
    except IpaError as error:
        given = {name: value for name, value in flags.items() if name in config.FIELDS and value is not None}
        sources = {name: Source("default", "default") for name in config.FIELDS}
        sources |= {name: Source("flag", f"--{name.replace('_', '-')}") for name in given}
        check = Check("settings", "failure", error.message, error.hint, asked=True)
        return Resolved(Settings(**given), sources), check
    resolved = config.resolve(flags)
    shown = [_shown(resolved, name) for name in config.FIELDS if resolved.sources[name].kind != "default"]
    found = ", ".join(shown) or "all defaults"
    if resolved.ignored:
        found = "; ".join([found, *map(str, resolved.ignored)])
        return resolved, Check("settings", "warning", found, config.TRUST_HINT, asked=True)
    return resolved, Check("settings", "ok", found, "", asked=True)


def check_model(settings: Settings, asked: bool) -> Check:
    """Does the adapter fit the model, and the image encoder the adapter? Reads headers, not weights."""
    name = "model and adapter"
    # Without a reference picture no adapter would be looked for; the picture itself is not opened.
    if not (settings.image or settings.embeds or settings.adapter):
        settings = dataclasses.replace(settings, image=("reference",))
    try:
        plan = make_plan(settings)
    except IpaError as error:
        return Check(name, "failure", public_text(error.message), error.hint, asked)
    except ImportError as error:  # a bare or a broken installation
        return Check(name, "failure" if asked else "skipped", f"not checked: {error}", "`pip install ipa-cli`", asked)
    layers = f"{configurations.cross_attention_layers(plan.unet_config)} cross-attention layers"
    if plan.adapter is None:
        return Check(name, "ok", f"{plan.name} ({layers}), no adapter", "", asked)
    if plan.dummy:
        return Check(name, "ok", f"{plan.name} ({layers}) with random weights and an adapter made for it", "", asked)
    adapter = f"{plan.adapter.location}/{plan.adapter.file}"
    if plan.adapter.location.folder is None and not weights.is_safetensors(plan.adapter.file):
        found = f"{adapter} is a pickle: whether it fits {plan.name} is known only after the download"
        return Check(name, "warning", found, "use its .safetensors version", asked)
    encoder = f", image encoder {plan.adapter.encoder}" if plan.adapter.encoder else ""
    kind = f", {plan.adapter.face}" if plan.adapter.face else ""
    found = f"{plan.name} ({layers}), {adapter}{kind}{encoder}: they fit"
    return Check(name, "ok", found, "", asked)


def check_completion(environ: Mapping[str, str]) -> Check:
    """Is completion installed for the login shell?"""
    name, shell = "shell completion", Path(environ.get("SHELL", "")).name
    home = expand("~")
    data = Path(environ.get("XDG_DATA_HOME") or home / ".local/share")
    system = [Path("/usr/local/share"), Path("/usr/share")]
    places = {
        "bash": [
            home / ".bash_completions/ipa.sh",
            *(folder / "bash-completion/completions/ipa" for folder in (data, *system)),
        ],
        "zsh": [home / ".zfunc/_ipa", *(folder / "zsh/site-functions/_ipa" for folder in system)],
        "fish": [
            home / ".config/fish/completions/ipa.fish",
            *(folder / "fish/vendor_completions.d/ipa.fish" for folder in (data, *system)),
        ],
    }
    if shell not in places:
        return Check(name, "skipped", f"unknown shell '{shell}'" if shell else "SHELL is not set")
    found = next((path for path in places[shell] if path.is_file()), None)
    if found is None:
        return Check(name, "skipped", f"not installed for {shell}", "`ipa --install-completion`")
    return Check(name, "ok", f"installed for {shell} ({found})")


def check_server() -> Check:
    """Can `ipa serve` run, and which servers of this user do?"""
    missing, running = packages.missing_to_serve(), servers.running()
    if running:
        return Check("server", "ok", f"running: {', '.join(f'{one.url} ({one.model})' for one in running)}")
    if missing:
        return Check("server", "skipped", f"{', '.join(missing)} not installed", '`pip install "ipa-cli[serve]"`')
    return Check("server", "ok", "installed; none of yours is running")


def check_faces() -> Check:
    """Can faces be found in pictures, for FaceID adapters?"""
    lacking = faces.problem()
    if lacking is not None:
        return Check("faces", "skipped", lacking.message, lacking.hint)
    version = packages.version("insightface") or "of an unknown version"
    return Check("faces", "ok", f"InsightFace {version}, models in {faces.folder()}; {faces.LICENCE}")


def _shown(resolved: Resolved, name: str) -> str:
    value = "" if name in PRIVATE else f" = {getattr(resolved.settings, name)}"
    return f"{name.replace('_', '-')}{value} ({resolved.sources[name].where})"
