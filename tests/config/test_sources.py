import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_cli import config
from ipa_cli.config import ConfigError, Settings, resolve, values
from ipa_cli.errors import IpaError, UsageError


def ask(world, flags=None, environ=None):
    return resolve(flags or {}, {**world.environ, **(environ or {})}, world.cwd)


@pytest.fixture
def user_file(world) -> Path:
    path = world.home / ".config" / "ipa" / "ipa.toml"
    path.parent.mkdir(parents=True)
    return path


def test_without_anything_every_value_is_the_default(world):
    resolved = ask(world)
    assert resolved.settings == Settings()
    assert {source.kind for source in resolved.sources.values()} == {"default"}
    assert set(resolved.sources) == set(config.FIELDS)


def test_each_layer_beats_the_one_below_and_says_where_it_is(world, user_file):
    user_file.write_text("steps = 1\nscale = 0.1\nseed = 1\nwidth = 64")
    project = world.cwd / "ipa.toml"
    project.write_text("scale = 0.2\nseed = 2\nwidth = 72")
    resolved = ask(world, {"width": 88}, {"IPA_SEED": "3", "IPA_WIDTH": "80"})
    settings, sources = resolved.settings, resolved.sources
    assert (settings.steps, settings.scale, settings.seed, settings.width) == (1, 0.2, 3, 88)
    assert [str(sources[name]) for name in ("steps", "scale", "seed", "width", "height")] == [
        str(user_file),
        str(project),
        "IPA_SEED",
        "--width",
        "default",
    ]
    kinds = [sources[name].kind for name in ("steps", "scale", "seed", "width", "height")]
    assert kinds == ["user", "project", "env", "flag", "default"]


def test_the_nearest_file_upwards_counts_alone(world):
    (world.cwd / "ipa.toml").write_text("steps = 5\nseed = 5")
    inner = world.cwd / "a" / "b"
    inner.mkdir(parents=True)
    assert resolve({}, world.environ, inner).settings.steps == 5
    (world.cwd / "a" / "ipa.toml").write_text("steps = 6")
    resolved = resolve({}, world.environ, inner)
    assert (resolved.settings.steps, resolved.settings.seed) == (6, None)


def test_ipa_config_names_another_user_file(world, user_file):
    user_file.write_text("steps = 1")
    other = world.home / "other.toml"
    other.write_text("steps = 2")
    assert ask(world, environ={"IPA_CONFIG": "~/other.toml"}).settings.steps == 2


def test_a_user_file_named_but_missing_is_reported(world):
    for name in ("no-such.toml", "~nobody-of-that-name/ipa.toml"):
        with pytest.raises(IpaError, match=r"no-such|nobody"):
            ask(world, environ={"IPA_CONFIG": name})


def test_values_of_every_kind_are_read_from_a_file(world):
    (world.cwd / "ipa.toml").write_text(
        'prompt = "ein Fuchs"\nimage = ["a.png", "b.png"]\nscale = 1\nguidance-scale = 7.5\nvae-tiling = true\n'
        "num_images = 2\n"
    )
    settings = ask(world).settings
    assert settings.prompt == "ein Fuchs" and settings.image == ("a.png", "b.png")
    assert settings.scale == 1.0 and isinstance(settings.scale, float) and settings.guidance_scale == 7.5
    assert settings.vae_tiling is True and settings.num_images == 2


def test_values_of_every_kind_are_read_from_the_environment(world):
    environ = {
        "IPA_IMAGE": os.pathsep.join(["a.png", "b.png"]),
        "IPA_SCALE": "1",
        "IPA_VAE_TILING": "Yes",
        "IPA_COMPILE": "0",
        "IPA_CACHE_DIR": "/graphs",
        "IPA_PROMPT": "",
    }
    resolved = ask(world, environ=environ)
    settings = resolved.settings
    assert settings.image == ("a.png", "b.png") and settings.scale == 1.0
    assert settings.vae_tiling is True and settings.compile is False and settings.cache_dir == Path("/graphs")
    assert resolved.sources["prompt"].kind == "default"  # an empty variable is as good as none


def test_a_url_in_the_environment_stays_whole(world):
    url = "https://example.org:8080/cat.png"
    assert ask(world, environ={"IPA_IMAGE": url}).settings.image == (url,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz = 3", ["unknown key 'stepz'", "did you mean 'steps'"]),
        ("guidance-scal = 3", ["unknown key 'guidance-scal'", "did you mean 'guidance_scale'"]),
        ("sampler_name = 'euler'", ["unknown key 'sampler_name'", "did you mean 'scheduler'"]),
        ("sampler = 'euler'\nscheduler = 'lcm'", ["scheduler is set twice"]),
        ("zzz = 3", ["unknown key 'zzz'"]),
        ('steps = "three"', ["steps", "'three'", "expected a whole number"]),
        ("steps = 3.5", ["expected a whole number"]),
        ("steps = true", ["expected a whole number"]),
        ('scale = "1"', ["expected a number"]),
        ("scale = " + "9" * 400, ["expected a number"]),
        ("scale = true", ["expected a number"]),
        ("scale = nan", ["expected a number from 0 to 10"]),
        ("scale = inf", ["expected a number from 0 to 10"]),
        ("scale = -0.5", ["expected a number from 0 to 10"]),
        ("prompt = 3", ["expected a string"]),
        ("image = [1]", ["expected a list of strings"]),
        ("steps = " + "9" * 4000, ["expected a number from 1 to 1000"]),
        ("vae_tiling = 1", ["expected true or false"]),
        ("cache_dir = 1", ["expected a path"]),
        ("width = 100", ["expected a multiple of 8, for example 96 or 104"]),
        ("width = 0", ["expected pixels from 64 to 8192"]),
        ("width = 1000000000", ["expected pixels from 64 to 8192"]),
        ("steps = 0", ["expected a number from 1 to 1000"]),
        ("seed = -1", ["expected a number from 0"]),
        ('dtype = "float17"', ["expected one of auto, float16", "did you mean 'float16'"]),
        ('offload = "modell"', ["did you mean 'model'"]),
        ("steps = ", ["not valid TOML"]),
        ("\x00", ["not valid TOML"]),
        ("steps = 1\nsteps = 2", ["not valid TOML"]),
        ("seed = " + "9" * 5000, ["not valid TOML"]),
        ("seed = " + "9" * 4000, ["seed"]),
        ("seed = " + "[" * 5000, ["not valid TOML"]),
        ('cache_dir = "~nobody-of-that-name/x"', ["~nobody-of-that-name/x"]),
        ("[generate]\nsteps = 1", ["unknown key 'generate'"]),
        ("steps = 3\nguidance-scale = 1\nguidance_scale = 2", ["guidance_scale", "twice"]),
    ],
)
def test_a_bad_file_is_named_with_key_and_what_was_expected(world, text, words):
    path = world.cwd / "ipa.toml"
    path.write_text(text)
    with pytest.raises(IpaError) as caught:
        ask(world)
    assert str(path) in caught.value.message or "nobody" in text
    assert caught.value.hint and caught.value.exit_code == (1 if "nobody" in text else 2)
    for word in words:
        assert word in caught.value.message
    assert "\n" not in caught.value.message and len(caught.value.message) < 600


def test_a_file_that_is_no_text_is_reported(world):
    (world.cwd / "ipa.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        ask(world)


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        (
            "IPA_SAMPLER_NAME",
            "euler",
            ["unknown environment variable IPA_SAMPLER_NAME", "did you mean 'IPA_SCHEDULER'"],
        ),
        ("IPA_STEPZ", "3", ["unknown environment variable IPA_STEPZ", "did you mean 'IPA_STEPS'"]),
        ("IPA_STEPS", "three", ["IPA_STEPS=three", "expected a whole number"]),
        ("IPA_STEPS", "0", ["IPA_STEPS", "expected a number from 1 to 1000"]),
        ("IPA_SCALE", "NaN", ["IPA_SCALE", "expected a number from 0 to 10"]),
        ("IPA_SCALE", "1e999", ["expected a number from 0 to 10"]),
        ("IPA_VAE_TILING", "maybe", ["expected true or false"]),
        ("IPA_WIDTH", "100", ["multiple of 8"]),
        ("IPA_SEED", "9" * 5000, ["IPA_SEED"]),
    ],
)
def test_a_bad_variable_is_named_with_what_was_expected(world, variable, text, words):
    with pytest.raises(UsageError) as caught:
        ask(world, environ={variable: text})
    for word in words:
        assert word in caught.value.message
    assert caught.value.hint and len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("scale", float("nan"), ["--scale nan", "from 0 to 10"]),
        ("guidance_scale", float("inf"), ["--guidance-scale inf"]),
        ("height", 65, ["--height 65", "64 or 72"]),
        ("height", 8191, ["8184 or 8192"]),
        ("load_format", "dumy", ["did you mean 'dummy'"]),
    ],
)
def test_a_bad_flag_is_named_with_what_was_expected(world, flag, value, words):
    with pytest.raises(UsageError) as caught:
        ask(world, {flag: value})
    for word in words:
        assert word in caught.value.message


def test_the_same_key_in_both_spellings_is_fine_once(world):
    (world.cwd / "ipa.toml").write_text("guidance-scale = 1")
    assert ask(world).settings.guidance_scale == 1


def test_every_setting_has_a_help_text(world):
    assert all(field.metadata["help"] for field in config.FIELDS.values())
    assert config.cache_dir(ask(world).settings).is_relative_to(world.home)


@pytest.mark.parametrize(
    ("flags", "environ", "line", "message", "hint"),
    [
        (("embeds",), {"IPA_IMAGE": "a.png"}, "", "IPA_IMAGE and --embeds are both given", "unset IPA_IMAGE"),
        (("embeds",), {}, 'image = "a.png"', "--embeds are both given", "ipa config unset --project image"),
        ((), {"IPA_ADAPTER": "own"}, 'image = "a.png"', "and IPA_ADAPTER are", "ipa config unset --project image"),
        (("embeds", "image"), {}, "", "--image and --embeds are both given", "leave one of them out"),
    ],
)
def test_contradicting_settings_are_named_with_what_undoes_the_weaker_one(world, flags, environ, line, message, hint):
    (world.cwd / "ipa.toml").write_text(line)
    given = {name: ("b.png",) if name == "image" else "b.safetensors" for name in flags}
    with pytest.raises(UsageError) as told:
        config.check_together(ask(world, given, environ))
    assert message in told.value.message and told.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("adapters", "refused"),
    [
        (["own,scale=1"], True),
        (["own,scale=1", "own,scale=0.5"], True),
        (["own,scale=1", "own"], False),
        (["own"], False),
    ],
)
def test_a_scale_that_no_adapter_follows_is_refused_as_a_flag_only(world, adapters, refused):
    config.check_together(ask(world, {"adapter": adapters}, {"IPA_SCALE": "0.1"}))
    resolved = ask(world, {"adapter": adapters, "scale": 0.1})
    with pytest.raises(UsageError, match="--scale has no effect") if refused else nullcontext():
        config.check_together(resolved)


def test_settings_pass_through_json(world):
    flags = {"adapter": ("own,image=a.png",), "mask": ("m.png",), "image_weight": (1.0, 0.5), "cache_dir": Path("x")}
    settings = ask(world, flags).settings
    data = json.loads(json.dumps(values.settings_as_json(settings)))
    assert values.settings_from_json(data, "job") == settings


KEYS = st.sampled_from([*config.FIELDS, "stepz", "a.b", '"x y"'])
VALUES = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["true", "[]", "{}", '["a"]', "1979-05-27", "nan", "-inf", '""', "'demo'", "0x10"]),
    st.text().map(lambda text: f'"{text}"'),
)
TABLES = st.lists(st.tuples(KEYS, VALUES), max_size=4).map(lambda rows: "\n".join(f"{k} = {v}" for k, v in rows))


@given(st.one_of(st.text(), TABLES).map(str.encode) | st.binary())
def test_any_file_gives_settings_or_an_error(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "any-settings"
    folder.mkdir(exist_ok=True)
    (folder / "ipa.toml").write_bytes(content)
    settings_or_words({}, {"IPA_CONFIG": str(folder / "ipa.toml")}, folder)


ENVIRON_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))


@given(st.dictionaries(st.sampled_from(sorted(config.FIELDS)), ENVIRON_TEXT | VALUES, max_size=3))
def test_any_variables_give_settings_or_an_error(tmp_path_factory, texts):
    environ = {f"IPA_{name.upper()}": text for name, text in texts.items()}
    empty = tmp_path_factory.getbasetemp() / "no-settings.toml"
    empty.touch()
    settings_or_words({}, {"IPA_CONFIG": str(empty), **environ}, empty.parent)


def settings_or_words(flags, environ, cwd) -> None:
    try:
        settings = resolve(flags, environ, cwd).settings
    except IpaError as error:
        assert error.message and error.hint
        return
    for name in ("width", "height"):
        side = getattr(settings, name)
        assert side is None or (64 <= side <= config.MAX_SIDE and side % 8 == 0)
    assert settings.scale is None or 0 <= settings.scale <= 10
    assert isinstance(settings.image, tuple) and all(isinstance(image, str) for image in settings.image)


def test_precision_is_half_or_fp8() -> None:
    assert resolve({}, environ={}, cwd=None).settings.precision == "half"
    assert resolve({"precision": "fp8"}, environ={}, cwd=None).settings.precision == "fp8"
    with pytest.raises(UsageError):
        resolve({"precision": "fp4"}, environ={}, cwd=None)
