"""A1111's text: written as galleries know it, read as the web UI reads it."""

import json
import re
import time
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipa_cli.config.presets import with_preset_values
from ipa_cli.images.infotext import parameters_text, parse_parameters, settings_of
from ipa_cli.images.metadata import read_settings
from ipa_cli.models.schedulers import SCHEDULERS
from tests.images.carried import SETTINGS, png_with


def a1111(text: str) -> dict[str, str]:
    """Read the text as the web UI does: one search for key, colon and value along the last line."""
    key, quoted, bare = r"\w[\w \-/]+", r'"(?:\\.|[^\\"])+"', "[^,]*"
    pattern = re.compile(rf"\s*({key}):\s*({quoted}|{bare})(?:,|$)")
    head, _, last = text.strip().rpartition("\n")
    if len(pattern.findall(last)) < 3:
        head, last = text.strip(), ""
    prompt = negative = ""
    in_negative = False
    for line in head.split("\n") if "\n" in text.strip() or not last else []:
        line = line.strip()
        if line.startswith("Negative prompt:"):
            in_negative, line = True, line[len("Negative prompt:") :].strip()
        if in_negative:
            negative = f"{negative}\n{line}" if negative else line
        else:
            prompt = f"{prompt}\n{line}" if prompt else line
    result = {"Prompt": prompt, "Negative prompt": negative}
    for name, value in pattern.findall(last):
        if value == "":
            continue
        if value[0] == value[-1] == '"':
            with suppress(ValueError):
                value = json.loads(value)
        size = re.match(r"^(\d+)x(\d+)$", value)
        result |= {f"{name}-1": size[1], f"{name}-2": size[2]} if size else {name: value}
    return result


def test_guidance_is_written_where_it_is_unusual():
    assert not {"Skip Early CFG", "Guidance End", "Guidance Rescale"} & a1111(parameters_text(SETTINGS)).keys()
    unusual = {"guidance_start": 0.2, "guidance_end": 0.8, "guidance_rescale": 0.7}
    text = parameters_text({**SETTINGS, **unusual})
    assert a1111(text) | {"Skip Early CFG": "0.2", "Guidance End": "0.8", "Guidance Rescale": "0.7"} == a1111(text)
    assert settings_of(parse_parameters(text)) | unusual == settings_of(parse_parameters(text))


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ({"preset": "fast", "step_cache": "forecast:3"}, {"Preset": "fast", "Step cache": "forecast:3"}),
        ({"preset": "fast", "step_cache": "deep:2"}, {"Preset": "fast", "Step cache": "deep:2"}),
        ({"preset": "fast", "step_cache": "none"}, {"Preset": "fast", "Step cache": "none"}),
        ({"preset": "lcm"}, {"Preset": "lcm"}),
        ({"step_cache": "forecast:2"}, {"Step cache": "forecast:2"}),
        ({"step_cache": "none"}, {}),
        ({}, {}),
    ],
)
def test_the_preset_and_the_step_cache_are_written_and_read(asked, written):
    text = parameters_text({**SETTINGS, "settings": asked})
    found = {label: value for label, value in a1111(text).items() if label in ("Preset", "Step cache")}
    assert found == written
    read, drawn = settings_of(parse_parameters(text)), with_preset_values(asked, None)
    again = with_preset_values({name: read[name] for name in ("preset", "step_cache") if name in read}, None)
    assert {"step_cache": "none", **again} == {"step_cache": "none", **drawn}
    assert "preset" not in settings_of(parse_parameters(text.replace("Preset: ", "Preset: my ")))


def writable(text: str) -> str:
    return re.sub("[\0\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def storable(prompt: str) -> str:
    """What of a prompt the convention can carry."""
    lines = [line.strip() for line in writable(prompt).split("\n")]
    while lines and not lines[0]:
        del lines[0]
    return "\n".join(lines)


def clear(prompt: str) -> bool:
    return not any(line.startswith("Negative prompt:") for line in storable(prompt).split("\n"))


pieces = st.sampled_from(
    ["Steps: 3, ", 'a: "b", ', "Negative prompt", ":", ",", '"', "\\", "\n", "\r", " ", "512x512", "Size: 1x2", "é"]
)
prompts = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=())), st.lists(pieces | st.text(max_size=5)).map("".join)
).filter(clear)


@given(prompts, prompts, st.text(max_size=40).filter(lambda name: not re.match(r"^\d+x\d+$", name)))
@example("two\nlines\n\nSteps: 3, Sampler: x, Seed: 4", "bad\nSteps: 3, Sampler: x, Seed: 4", 'a "name", odd')
@example("", "", '"')
@example("", "x", '" : ')
@example("", "", '"in quotes"')
@example("", "", " \n")
@example("\0", "\udcff", "\r\0\udcff")
def test_prompts_come_back_from_both_parsers(prompt, negative, model):
    text = parameters_text({**SETTINGS, "prompt": prompt, "negative_prompt": negative, "model": model})
    assert parse_parameters(text) == a1111(text)
    parsed = a1111(text)
    assert parsed["Prompt"] == storable(prompt)
    assert parsed["Negative prompt"] == storable(negative)
    assert parsed.get("Model", "") == writable(model)
    assert (parsed["Steps"], parsed["Seed"], parsed["Size-1"], parsed["Size-2"]) == ("30", "42", "64", "32")


@given(st.text() | st.lists(pieces | st.text(max_size=5)).map("".join))
@example("")
@example("a1: ,b2: ,c3: ,")
@example('aa: "b" c, "dd: 1, ee: \\", ff:"\\",gg: 2x3, h: 1, - ii: 4')
@example("-aa: 1,/ b/: 2, c c :3, a: d: 4")
def test_any_text_parses_as_a1111_parses_it(text):
    assert parse_parameters(text) == a1111(text)


@pytest.mark.parametrize("piece", ["a ", "aa:", 'aa:"', " "])
def test_parsing_a_hostile_line_takes_linear_time(piece):
    def seconds(count: int) -> float:
        began = time.process_time()
        parse_parameters(f"x\n{piece * count}x")
        return time.process_time() - began

    assert seconds(80_000) < 0.05 + 8 * min(seconds(20_000) for _ in range(3))  # 16 times when quadratic


def test_the_text_is_what_galleries_know():
    assert parameters_text(SETTINGS) == (
        "a cat, sitting: on a mat\n"
        "Negative prompt: blurry\n"
        "Steps: 30, Sampler: Euler, CFG scale: 7.5, Seed: 42, Size: 64x32, "
        "Model: stabilityai/stable-diffusion-xl-base-1.0, "
        'ControlNet 0: "Module: ip-adapter-auto, Model: h94/IP-Adapter, Weight: 0.6, '
        'Guidance Start: 0, Guidance End: 1", Version: ipa 0.1.0'
    )


def test_an_adapter_is_read_as_the_controlnet_extension_reads_it():
    adapters = [{"model": "a, b: c", "scale": 1.0}, {"model": "x", "scale": [0.1, 0.2]}]
    parsed = a1111(parameters_text({**SETTINGS, "adapters": adapters}))
    units = [dict(item.strip().split(": ") for item in parsed[f"ControlNet {n}"].split(",")) for n in (0, 1)]
    assert units[0]["Model"] == "a_b_c" and units[0]["Weight"] == "1"
    assert "Weight" not in units[1]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_has_the_samplers_name_and_comes_back(tmp_path, name):
    for given_as in (name, SCHEDULERS[name].class_name) if not SCHEDULERS[name].settings else (name,):
        text = parameters_text({**SETTINGS, "scheduler": given_as})
        assert parse_parameters(text)["Sampler"] == SCHEDULERS[name].a1111
        assert read_settings(png_with(tmp_path / "a.png", parameters=text))["scheduler"] == name


def test_diffusers_class_names_get_the_samplers_name():
    text = parameters_text({**SETTINGS, "scheduler": "DPMSolverMultistepScheduler"})
    assert parse_parameters(text)["Sampler"] == "DPM++ 2M"
    assert parse_parameters(parameters_text({**SETTINGS, "scheduler": "mine"}))["Sampler"] == "mine"


@pytest.mark.parametrize(
    ("written", "expected"),
    [("a1111", "a (red:1.4) fox [x]"), ("comfyui", r"a (red:1.4) fox \[x\]"), ("literal", r"a \(red:1.4\) fox \[x\]")],
)
def test_prompts_are_in_the_syntax_of_a1111(written, expected):
    prompts = {"prompt": "a (red:1.4) fox [x]", "negative_prompt": "(blue)", "prompt_syntax": written}
    parsed = parse_parameters(parameters_text({**SETTINGS, **prompts}))
    assert parsed["Prompt"] == expected and parsed["Prompt syntax"] == "a1111"
    assert parsed["Negative prompt"] == {"a1111": "(blue)", "comfyui": "(blue:1.1)", "literal": r"\(blue\)"}[written]
    assert "Prompt syntax" not in parse_parameters(parameters_text({**SETTINGS, "prompt": "a fox"}))


def test_loras_are_tags_behind_the_prompt_and_hashes():
    asked = {"steps": 1, "guidance_scale": 2.0, "seed": 3, "width": 64, "height": 64, "prompt": "a fox"}
    ink = {"name": "ink", "weight": 0.8, "text_weight": 0.8, "data_sha256": "0123456789abcdef"}
    fur = {"name": "a:b,c", "weight": 1.0, "text_weight": 0.5, "data_sha256": "fedcba9876543210"}
    text = parameters_text({**asked, "loras": [ink, fur]})
    parsed = parse_parameters(text)
    assert parsed["Prompt"] == "a fox <lora:ink:0.8> <lora:a_b_c:0.5:1>"
    assert parsed["Lora hashes"] == "ink: 0123456789ab, a_b_c: fedcba987654"
    assert settings_of(parsed)["prompt_syntax"] == "a1111"  # in which the tags are read
