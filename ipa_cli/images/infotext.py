"""Settings as the text that AUTOMATIC1111's web UI writes into pictures; most galleries read it, and it is lossy."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ipa_cli import __version__
from ipa_cli.config import FIELDS, hires
from ipa_cli.config.hires import LANCZOS, UPSCALERS
from ipa_cli.config.presets import preset_values
from ipa_cli.config.step_cache import NONE
from ipa_cli.models.lora import tags
from ipa_cli.models.prompts import syntax
from ipa_cli.models.schedulers import SCHEDULERS, SCHEDULES, names, of_program


def parameters_text(settings: Mapping[str, Any]) -> str:
    """Write settings as the text A1111's web UI puts into chunk `parameters`.

    Needs `steps`, `guidance_scale`, `seed`, `width`, `height`; takes `prompt`, `negative_prompt`, `prompt_syntax`
    (A1111's unless given, into which both are brought), `scheduler` (ours or diffusers' class), `schedule`, `eta`,
    `guidance_start`, `guidance_end`, `guidance_rescale`, `model`, `backend`, `graph` and `adapters`, a list of
    {`model`, `scale`, `start`, `end`, `mode`, `combine`, `fit`, `sharpening`}, and `loras`, a list of {`name`,
    `weight`, `text_weight`, `data_sha256`}, and `init`, {`strength`, `mask_blur`} of a picture that was drawn over, and
    `hires_pass`, {`size`, `strength`, `steps`, `upscaler`} of a second pass, and of `settings` as a picture records
    them `preset` and `step_cache`, where they are set.
    What the convention cannot carry (the `ipa` chunk can): blanks around a line of a prompt, blank lines before
    its first, a prompt's line that begins with `Negative prompt:`, NUL and lone surrogates, a scale that is not
    one number.
    """
    pairs: list[tuple[str, Any]] = [("Steps", settings["steps"])]
    if settings.get("scheduler"):
        pairs.append(("Sampler", _sampler(settings["scheduler"])))
    place = SCHEDULES.get(settings.get("schedule") or "")
    if place is not None and place.a1111 is not None:
        pairs.append(("Schedule type", place.a1111))
    pairs += [
        ("CFG scale", settings["guidance_scale"]),
        ("Seed", settings["seed"]),
        ("Size", f"{settings['width']}x{settings['height']}"),
    ]
    if settings.get("eta") is not None:
        pairs.append(("Eta DDIM" if settings.get("scheduler") == "ddim" else "Eta", settings["eta"]))
    guidance = [(label, settings.get(key, off), off) for label, key, off in _GUIDANCE]
    pairs += [(label, value) for label, value, off in guidance if value != off]
    init, second = settings.get("init") or {}, settings.get("hires_pass")
    pairs += [(label, init[key]) for label, key in _INIT if init.get(key) and not (second and key == "strength")]
    pairs += _hires(second) if second else []
    pairs += _saved_work(settings.get("settings") or {})
    if settings.get("model"):
        pairs.append(("Model", settings["model"]))
    pairs += _of_reference(settings.get("adapters") or ())
    pairs += [
        (f"ControlNet {number}", _control_unit(*unit))
        for number, unit in enumerate(
            [
                *(("ip-adapter-auto", one) for one in settings.get("adapters") or ()),
                *((one.get("preprocess") or "none", one) for one in settings.get("controls") or ()),
            ]
        )
    ]
    if settings.get("embeddings"):
        hashes = (f"{one['word'].removeprefix('embedding:')}: {one['sha256'][:12]}" for one in settings["embeddings"])
        pairs.append(("TI hashes", ", ".join(hashes)))
    pairs += [(label, settings[key]) for label, key in _EXTRAS if settings.get(key)]
    written, as_a1111 = settings.get("prompt_syntax") or syntax.A1111, syntax.as_a1111
    prompts = [as_a1111(settings.get(name) or "", written) for name in ("prompt", "negative_prompt")]
    loras = [one for one in settings.get("loras") or () if not one.get("inside_adapter")]
    if loras:
        written_tags = [tags.written(one["name"], one["weight"], one["text_weight"]) for one in loras]
        prompts[0] = " ".join([prompts[0], *written_tags])
        pairs.append(
            ("Lora hashes", ", ".join(f"{tags.named(one['name'])}: {one['data_sha256'][:12]}" for one in loras))
        )
    if loras or any(syntax.is_marked(text) for text in prompts):
        pairs.append((_SYNTAX, syntax.A1111))
    pairs.append(("Version", f"ipa {__version__}"))

    lines = [_plain(prompts[0])]
    if prompts[1]:
        lines.append(f"Negative prompt: {_plain(prompts[1])}")
    lines.append(", ".join(f"{key}: {_quoted(_plain(value))}" for key, value in pairs))
    return "\n".join(lines)


def parse_parameters(text: str) -> dict[str, str]:
    """Read A1111's text as its own parser does: its names, every value a string, `Size` as `Size-1`, `Size-2`.

    Never raises. `Prompt` and `Negative prompt` are always there; the defaults A1111 adds for missing entries
    are not. Source: AUTOMATIC1111/stable-diffusion-webui, modules/infotext_utils.py.
    """
    *lines, last = text.strip().split("\n")
    pairs = list(_pairs(last))
    if len(pairs) < 3:
        lines.append(last)
        pairs = []

    prompts: dict[str, list[str]] = {"Prompt": [], "Negative prompt": []}
    part = "Prompt"
    for line in map(str.strip, lines):
        if line.startswith("Negative prompt:"):
            part = "Negative prompt"
            line = line.removeprefix("Negative prompt:").strip()
        if line or prompts[part]:
            prompts[part].append(line)
    parsed = {key: "\n".join(found) for key, found in prompts.items()}

    for key, value in pairs:
        if not value:
            continue
        value = _unquoted(value)
        if size := re.match(r"^(\d+)x(\d+)$", value):
            parsed[f"{key}-1"], parsed[f"{key}-2"] = size[1], size[2]
        else:
            parsed[key] = value
    return parsed


_SYNTAX = "Prompt syntax"  # in pictures of ipa whose prompts have brackets: earlier versions wrote those as they were
_PRESET, _STEP_CACHE = "Preset", "Step cache"
# Beyond what A1111 itself writes there, but for "Skip Early CFG".
_EXTRAS = (("Backend", "backend"), ("Graph", "graph"))
_GUIDANCE = (
    ("Skip Early CFG", "guidance_start", 0),
    ("Guidance End", "guidance_end", 1),
    ("Guidance Rescale", "guidance_rescale", 0),
)
_INIT = (("Denoising strength", "strength"), ("Mask blur", "mask_blur"))
# Label, key of an adapter's record, setting.
_REFERENCE = (
    ("IP-Adapter mode", "mode", "ip_mode"),
    ("IP-Adapter combine", "combine", "image_combine"),
    ("IP-Adapter fit", "fit", "fit"),
    ("IP-Adapter sharpening", "sharpening", "sharpening"),
)
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # not storable as UTF-8 text of a PNG
_RUN = re.compile(r"[\w \-/]+")
_VALUE = re.compile(r':\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    # A1111 searches for key, colon and value in one expression, which takes quadratic time on a long line without
    # a colon. Taking whole runs of key characters finds the same pairs in linear time.
    position = 0
    while run := _RUN.search(line, position):
        position = run.end()
        key = run[0].lstrip(" -/")
        if len(key) > 1 and (value := _VALUE.match(line, position)):
            position = value.end()
            yield key, value[1]


def _saved_work(asked: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The preset and the step cache: also what the preset stands for, which may become something else."""
    preset, cache = asked.get("preset"), asked.get("step_cache") or NONE
    pairs = [] if preset is None else [(_PRESET, preset)]
    usual = cache == preset_values(preset).get("step_cache", NONE) == NONE
    return pairs + ([] if usual else [(_STEP_CACHE, cache)])


def _hires(second: Mapping[str, Any]) -> list[tuple[str, Any]]:
    asked, upscaler = second["size"], UPSCALERS[second["upscaler"]].a1111
    size = ("Hires resize", asked) if isinstance(hires.parse(asked), tuple) else ("Hires upscale", asked)
    steps = [("Hires steps", second["steps"])] if second.get("steps") else []
    return [("Denoising strength", second["strength"]), size, *steps, ("Hires upscaler", upscaler)]


def _sampler(scheduler: str) -> str:
    name = names("class_name").get(scheduler, scheduler)
    return SCHEDULERS[name].a1111 if name in SCHEDULERS else name


def _plain(value: Any) -> str:
    text = f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _quoted(text: str) -> str:
    if not text or text != text.strip() or text[0] == '"' or any(mark in text for mark in ",:\n"):
        return json.dumps(text, ensure_ascii=False)
    return text


def _unquoted(text: str) -> str:
    if text[0] == text[-1] == '"':
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _control_unit(module: str, adapter: Mapping[str, Any]) -> str:
    # As sd-webui-controlnet writes its units (scripts/infotext.py); it reads no value with a comma or colon.
    unit = {
        "Module": module,
        "Model": re.sub(r"[,:\s]+", "_", str(adapter.get("model", "ip-adapter"))),
        "Weight": adapter.get("scale"),
        "Guidance Start": adapter.get("start", 0.0),
        "Guidance End": adapter.get("end", 1.0),
    }
    if not isinstance(unit["Weight"], int | float):
        del unit["Weight"]
    return ", ".join(f"{key}: {_plain(value)}" for key, value in unit.items())


def _of_reference(adapters: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """How the references of a single adapter act, beyond what a unit of ControlNet has, where that is not the usual."""
    if len(adapters) != 1:
        return []
    pairs = ((label, adapters[0].get(key), FIELDS[name].default) for label, key, name in _REFERENCE)
    return [(label, value) for label, value, usual in pairs if value not in (None, usual)]


def settings_of(parsed: Mapping[str, str]) -> dict[str, Any]:
    """What `parse_parameters` found, under our names, as far as it makes sense."""
    settings = {}
    for key, label, reader in _READERS:
        if parsed.get(label):
            try:
                settings[key] = reader(parsed[label])
            except ValueError:
                continue  # not what A1111 writes there
    if parsed.get("Version", "").startswith("ipa ") and _SYNTAX not in parsed:
        settings["prompt_syntax"] = syntax.LITERAL
    sampling, _ = of_program(parsed.get("Sampler"), parsed.get("Schedule type"))
    if sampling.get("scheduler") != "ddim":
        settings.pop("eta", None)  # of another sampler
    if "Hires upscale" in parsed or "Hires resize-1" in parsed:
        settings.pop("strength", None)  # of a second pass
        settings |= _second_pass(parsed)
    return {**settings, **sampling}


def _second_pass(parsed: Mapping[str, str]) -> dict[str, Any]:
    """The settings of a second pass, as far as they make sense; another upscaler of pixels is Lanczos here."""
    found: dict[str, Any] = {}
    width, height, *resize = (int(parsed.get(label, 0)) for label in _SIZES)
    try:
        scale = _finite(parsed.get("Hires upscale", "0"))
        text = hires.from_a1111(scale, (resize[0], resize[1]), (width or None, height or None))
    except ValueError:
        return {}
    if hires.check(text) is None:
        found["hires"] = text
        found["hires_upscaler"] = hires.of_a1111(parsed.get("Hires upscaler", "Latent")) or LANCZOS
        for key, label, reader in _SECOND_PASS:
            if label in parsed:
                with suppress(ValueError):
                    found[key] = reader(parsed[label])
    return found


def unread(parsed: Mapping[str, str]) -> dict[str, str]:
    """What `parse_parameters` found beyond `settings_of`: its names and values."""
    taken = settings_of(parsed)
    labels = {label for key, label, _ in _READERS if key in taken or not parsed.get(label)}
    labels |= {"Sampler", "Schedule type"}  # `schedulers.of_program` says what of these is left out
    if "hires" in taken:
        labels |= {"Hires upscale", "Hires resize-1", "Hires resize-2"}
        labels |= {label for key, label, _ in _SECOND_PASS if key in taken}
        labels |= {"Hires upscaler"} if hires.of_a1111(parsed.get("Hires upscaler", "Latent")) else set()
    return {label: value for label, value in parsed.items() if label not in labels}


def _setting(name: str, kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """What reads the text of a setting. It raises ValueError for what the setting may not be."""

    def read(text: str) -> Any:
        value = kind(text)
        if FIELDS[name].metadata["check"](value):
            raise ValueError(text)
        return value

    return read


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


_SIZES = ("Size-1", "Size-2", "Hires resize-1", "Hires resize-2")
# Setting, A1111's name of it, and how its text is read: those of a second pass, and all others.
_SECOND_PASS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("hires_strength", "Denoising strength", _finite),
    ("hires_steps", "Hires steps", int),
)
_READERS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("prompt", "Prompt", str),
    ("negative_prompt", "Negative prompt", str),
    ("prompt_syntax", _SYNTAX, str),
    ("steps", "Steps", int),
    ("guidance_scale", "CFG scale", _finite),
    ("eta", "Eta DDIM", _finite),
    ("guidance_start", "Skip Early CFG", _finite),
    ("guidance_end", "Guidance End", _finite),
    ("guidance_rescale", "Guidance Rescale", _finite),
    ("seed", "Seed", int),
    ("width", "Size-1", int),
    ("height", "Size-2", int),
    ("preset", _PRESET, _setting("preset", str)),
    ("step_cache", _STEP_CACHE, _setting("step_cache", str)),
    ("model", "Model", str),
    *((key, label, _finite) for label, key in _INIT),
    *((name, label, _setting(name, float if name == "sharpening" else str)) for label, _, name in _REFERENCE),
)
