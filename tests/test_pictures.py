import errno
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipa_cli.errors import IpaError, UsageError
from ipa_cli.files import check_writable
from ipa_cli.images import filenames
from ipa_cli.images.encode import save
from ipa_cli.images.filenames import plan_paths
from ipa_cli.images.infotext import SAMPLERS, parameters_text, parse_parameters
from ipa_cli.images.metadata import read_settings
from ipa_cli.schedulers import CLASSES

SETTINGS = {
    "prompt": "a cat, sitting: on a mat",
    "negative_prompt": "blurry",
    "steps": 30,
    "scheduler": "euler",
    "guidance_scale": 7.5,
    "seed": 42,
    "width": 64,
    "height": 32,
    "model": "stabilityai/stable-diffusion-xl-base-1.0",
    "adapters": [{"model": "h94/IP-Adapter", "scale": 0.6, "start": 0.0, "end": 1.0, "image": "cat.jpg"}],
}
PICTURE = Image.linear_gradient("L").resize((64, 32)).convert("RGB")


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


# --- A1111's text ---------------------------------------------------------------------------------------------

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


def test_parsing_a_hostile_line_takes_linear_time():
    for hostile in ("a " * 500_000, "aa:" * 300_000, 'aa:"' * 200_000, " " * 500_000 + "x"):
        parse_parameters("x\n" + hostile)  # minutes when quadratic: the test's time limit is the assertion


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


@pytest.mark.parametrize("name", CLASSES)
def test_every_scheduler_has_the_samplers_name_and_comes_back(tmp_path, name):
    for given_as in (name, CLASSES[name]):
        text = parameters_text({**SETTINGS, "scheduler": given_as})
        assert parse_parameters(text)["Sampler"] == SAMPLERS[name]
        assert read_settings(png_with(tmp_path / "a.png", parameters=text))["scheduler"] == name


def test_diffusers_class_names_get_the_samplers_name():
    text = parameters_text({**SETTINGS, "scheduler": "DPMSolverMultistepScheduler"})
    assert parse_parameters(text)["Sampler"] == "DPM++ 2M"
    assert parse_parameters(parameters_text({**SETTINGS, "scheduler": "mine"}))["Sampler"] == "mine"


# --- writing and reading back ---------------------------------------------------------------------------------


def test_settings_come_back_whole(tmp_path):
    odd = {**SETTINGS, "prompt": "Négative\n\n 日本 🐈 \0 \udcff\nNegative prompt: x\nSteps: 1, Seed: 2, Size: 3x4"}
    saved = save(tmp_path / "cat.png", PICTURE, odd)
    assert saved.path == tmp_path / "cat.png"
    assert saved.sha256 == hashlib.sha256(saved.path.read_bytes()).hexdigest()
    assert read_settings(saved.path) == {**odd, "schema_version": 1}
    with Image.open(saved.path) as image:
        assert image.tobytes() == PICTURE.tobytes()


def test_the_png_carries_both_chunks_before_the_pixels(tmp_path):
    save(tmp_path / "cat.png", PICTURE, {**SETTINGS, "prompt": "日本"})
    with Image.open(tmp_path / "cat.png") as image:
        assert a1111(image.info["parameters"])["Prompt"] == "日本"
        assert json.loads(image.info["ipa"])["prompt"] == "日本"


def test_equal_settings_give_equal_bytes(tmp_path):
    first = save(tmp_path / "a.png", PICTURE, SETTINGS)
    second = save(tmp_path / "b.png", PICTURE.copy(), dict(reversed(SETTINGS.items())))
    other = save(tmp_path / "c.png", PICTURE, {**SETTINGS, "seed": 43})
    assert first.sha256 == second.sha256 != other.sha256


def test_an_existing_file_is_kept_and_a_number_added(tmp_path):
    (tmp_path / "cat.png").write_text("mine")
    (tmp_path / "cat-1.png").symlink_to("nowhere")
    assert save(tmp_path / "cat.png", PICTURE, SETTINGS).path == tmp_path / "cat-2.png"
    assert (tmp_path / "cat.png").read_text() == "mine"
    assert save(tmp_path / "cat.png", PICTURE, SETTINGS, force=True).path == tmp_path / "cat.png"
    assert read_settings(tmp_path / "cat.png")["seed"] == 42
    assert listing(tmp_path) == ["cat-1.png", "cat-2.png", "cat.png"]


def test_without_hard_links_nothing_is_overwritten_either(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "cat.png").write_text("mine")
    assert save(tmp_path / "cat.png", PICTURE, SETTINGS).path == tmp_path / "cat-1.png"
    assert (tmp_path / "cat.png").read_text() == "mine"

    def replace(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "cat.png", PICTURE, SETTINGS)
    assert listing(tmp_path) == ["cat-1.png", "cat.png"]


WRITER = """
import sys
from pathlib import Path
from PIL import Image
from ipa_cli.images.encode import save
settings = {"steps": 1, "guidance_scale": 1.0, "seed": int(sys.argv[2]), "width": 8, "height": 8}
for _ in range(40):
    save(Path(sys.argv[1]), Image.new("RGB", (8, 8)), settings)
"""


def test_processes_writing_the_same_name_lose_nothing(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "cat.png"), str(seed)]) for seed in range(3)
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    seeds = sorted(read_settings(path)["seed"] for path in tmp_path.iterdir())
    assert seeds == sorted([0, 1, 2] * 40)


def test_an_interrupted_write_leaves_nothing(tmp_path):
    script = WRITER.replace("range(40)", "iter(int, 1)").replace("(8, 8)", "(2000, 2000)")
    for delay in (0.0, 0.05, 0.11):
        folder = tmp_path / str(delay)
        folder.mkdir()
        writer = subprocess.Popen(
            [sys.executable, "-c", script, str(folder / "cat.png"), "1"],
            stderr=subprocess.DEVNULL,
            # A test run in the background ignores SIGINT, and its children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            while not any(folder.iterdir()):
                time.sleep(0.01)
            time.sleep(delay)
            writer.send_signal(signal.SIGINT)
            assert writer.wait(60) == -signal.SIGINT
        finally:
            writer.kill()
        for path in folder.iterdir():
            assert path.suffix == ".png" and read_settings(path)["seed"] == 1
            Image.open(path).load()


def test_interrupting_the_sync_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "cat.png", PICTURE, SETTINGS)
    assert listing(tmp_path) == []


def test_missing_folders_are_made_when_there_is_something_to_write(tmp_path):
    check_writable(tmp_path / "my" / "pictures" / "cat.png")
    assert listing(tmp_path) == []
    save(tmp_path / "my" / "pictures" / "cat.png", PICTURE, SETTINGS)
    assert listing(tmp_path / "my" / "pictures") == ["cat.png"]


def test_a_file_in_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(IpaError, match="Not a directory"):
        check_writable(tmp_path / "out" / "cat.png")


def test_a_folder_cannot_be_overwritten(tmp_path):
    (tmp_path / "cat.png").mkdir()
    with pytest.raises(IpaError, match="is a folder: only plain files are replaced"):
        save(tmp_path / "cat.png", PICTURE, SETTINGS, force=True)
    assert listing(tmp_path) == ["cat.png"]


def test_a_name_too_long_is_told(tmp_path):
    with pytest.raises(IpaError, match="File name too long"):
        save(tmp_path / ("x" * 300 + ".png"), PICTURE, SETTINGS)
    assert listing(tmp_path) == []


CHECKER = """
import os, sys
from pathlib import Path
from ipa_cli.errors import IpaError
from ipa_cli.files import check_writable
if os.geteuid() == 0:
    os.setuid(65534)  # root may write anywhere
try:
    check_writable(Path(sys.argv[1]))
except IpaError as error:
    sys.exit(error.message)
"""


def test_a_read_only_folder_is_told(tmp_path):
    folder = Path("/")  # nobody may write here, and every user may look
    if os.geteuid() != 0:
        folder = tmp_path
        tmp_path.chmod(0o500)
    done = subprocess.run([sys.executable, "-c", CHECKER, str(folder / "x.png")], capture_output=True, text=True)
    tmp_path.chmod(0o700)
    assert (done.returncode, done.stderr.strip()) == (1, f"the folder {folder} cannot be written to")


def test_checking_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "cat.png")
    assert listing(tmp_path) == []


FULL = """
import sys
from pathlib import Path
from PIL import Image
from ipa_cli.errors import IpaError
from ipa_cli.images.encode import save
settings = {"steps": 1, "guidance_scale": 1.0, "seed": 1, "width": 600, "height": 600}
try:
    save(Path(sys.argv[1]) / "cat.png", Image.effect_noise((600, 600), 90), settings)
except IpaError as error:
    print(error.message)
print([path.name for path in Path(sys.argv[1]).iterdir()])
"""


def test_a_full_disk_leaves_nothing(tmp_path):
    command = 'mount -t tmpfs -o size=64k none "$1" && exec "$2" -c "$3" "$1"'
    run = ["unshare", "-rm", "sh", "-c", command, "sh", str(tmp_path), sys.executable, FULL]
    try:
        done = subprocess.run(run, capture_output=True, text=True)
        mounted = done.returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    assert done.stdout.splitlines() == [f"no space left on the disk of {tmp_path}/cat.png", "[]"]


def test_a_file_size_limit_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(IpaError, match="File too large"):
            save(tmp_path / "cat.png", PICTURE, SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_is_told_as_such(tmp_path, monkeypatch, code):
    def fsync(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(IpaError, match="no space left"):
        save(tmp_path / "cat.png", PICTURE, SETTINGS)
    assert listing(tmp_path) == []


# --- reading hostile files ------------------------------------------------------------------------------------


def png_with(path: Path, compress: bool = False, **chunks: str) -> Path:
    info = PngInfo()
    for key, text in chunks.items():
        info.add_text(key, text, zip=compress)
    Image.new("L", (2, 2)).save(path, pnginfo=info)
    return path


def test_settings_of_the_web_ui_are_read_as_far_as_they_go(tmp_path):
    text = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M, CFG scale: nan, Seed: x, Size: 8x16, Model: m"
    assert read_settings(png_with(tmp_path / "a.png", parameters=text)) == {
        "prompt": "a cat",
        "negative_prompt": "dog",
        "steps": 20,
        "scheduler": "dpm++",
        "width": 8,
        "height": 16,
        "model": "m",
    }


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ({}, "carries no settings"),
        ({"parameters": ""}, "carries no settings"),
        ({"ipa": ""}, "is damaged"),
        ({"ipa": "[1]"}, "is damaged"),
        ({"ipa": "{}"}, "is damaged"),
        ({"ipa": '{"schema_version": true}'}, "is damaged"),
        ({"ipa": '{"schema_version": 2}'}, "newer ipa"),
        ({"ipa": '{"schema_version": 1, "seed": "1"}'}, 'seed is "1"'),
        ({"ipa": '{"schema_version": 1, "steps": true}'}, "steps is true"),
        ({"ipa": '{"schema_version": 1, "prompt": {"a": [1]}}'}, "prompt is"),
        ({"ipa": '{"schema_version": 1, "guidance_scale": NaN}'}, "NaN"),
        ({"ipa": '{"schema_version": 1, "adapters": [1]}'}, "adapters"),
        ({"ipa": '{"schema_version": ' + "1" * 100_000 + "}"}, "too long"),
        ({"ipa": "[" * 100_000}, "is damaged"),
        ({"ipa": "{}" + " " * (1 << 20)}, "too large to be settings"),
        ({"parameters": "a" * ((1 << 20) + 1)}, "too large to be settings"),
        ({"ipa": "{}" + " " * (1 << 20), "compress": True}, "is damaged"),
        ({"ipa": "x", "parameters": "a cat\nSteps: 1, Seed: 2, Size: 3x4"}, "is damaged"),
    ],
)
def test_hostile_chunks_are_refused(tmp_path, chunks, message):
    with pytest.raises(IpaError, match=message) as caught:
        read_settings(png_with(tmp_path / "a.png", **chunks))
    assert caught.value.hint


def test_what_carries_nothing_is_told(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "a.jpg")
    Image.new("L", (2, 2)).save(tmp_path / "a.gif")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, message in (
        ("a.jpg", "carries no settings"),
        ("a.gif", "not a readable picture"),
        ("empty.png", "not a readable picture"),
        ("none.png", "does not exist"),
        (".", "is a folder"),
        ("/dev/zero", "is a device"),
    ):
        with pytest.raises(IpaError, match=message):
            read_settings(tmp_path / name)


@given(st.data())
def test_mutated_pngs_give_settings_or_a_clear_error(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    original = folder / "original.png"
    if not original.exists():
        save(original, PICTURE, SETTINGS)
    content = bytearray(original.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    (folder / "mutated.png").write_bytes(content)
    try:
        assert isinstance(read_settings(folder / "mutated.png"), dict)
    except IpaError as error:
        assert error.hint


# --- names ----------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "out").mkdir()
    (tmp_path / "br{ce}").mkdir()
    (tmp_path / "taken.png").write_text("mine")
    return tmp_path


def fields(count=1, **changes):
    return [{"seed": 7 + i, "scale": 0.5, "index": i, "prompt": "A cat, on a mat!", **changes} for i in range(count)]


@pytest.mark.parametrize(
    ("output", "count", "names"),
    [
        (None, 2, ["ipa-7.png", "ipa-8.png"]),
        ("cat.png", 1, ["cat.png"]),
        ("cat.PNG", 1, ["cat.PNG"]),
        ("cat", 1, ["cat.png"]),
        ("v1.5", 1, ["v1.5.png"]),
        ("cat.{seed}", 1, ["cat.7.png"]),
        ("cat.png", 3, ["cat-1.png", "cat-2.png", "cat-3.png"]),
        ("taken.png", 1, ["taken-1.png"]),
        ("out", 1, ["out/ipa-7.png"]),
        ("out/", 1, ["out/ipa-7.png"]),
        ("new/", 1, ["new/ipa-7.png"]),
        ("br{ce}", 1, ["br{ce}/ipa-7.png"]),
        ("cat.webp", 1, ["cat.webp"]),
        ("cat.JPG", 2, ["cat-1.JPG", "cat-2.JPG"]),
        ("out/{seed}.avif", 1, ["out/7.avif"]),
        ("~/x.png", 1, ["home/x.png"]),
        ("out/{prompt}-{scale}", 1, ["out/A-cat-on-a-mat-0.5.png"]),
        ("{index:03}-{scale:.2f}.png", 2, ["000-0.50.png", "001-0.50.png"]),
        ("{prompt}.png", 2, ["A-cat-on-a-mat.png", "A-cat-on-a-mat-1.png"]),
        ("{{{seed}}}.png", 1, ["{7}.png"]),
        ("{seed}/x.png", 2, ["7/x.png", "8/x.png"]),
    ],
)
def test_outputs_become_paths(here, output, count, names):
    paths = plan_paths(output, fields(count))
    assert [os.path.relpath(path) for path in paths] == names


def test_force_keeps_the_names_but_never_gives_one_twice(here):
    (here / "cat-1.png").write_text("mine")
    assert plan_paths("taken.png", fields(), force=True) == [Path("taken.png")]
    assert plan_paths("cat.png", fields(2), force=True) == [Path("cat-1.png"), Path("cat-2.png")]
    assert plan_paths("cat.png", fields(2)) == [Path("cat-2.png"), Path("cat-3.png")]
    same = plan_paths(None, fields(3, seed=7), force=True)
    assert same == [Path("ipa-7.png"), Path("ipa-7-1.png"), Path("ipa-7-2.png")]


def test_scales_of_several_adapters_make_a_name(here):
    assert plan_paths("{scale}.png", fields(scale=[0.5, 1.0])) == [Path("0.5-1.png")]
    assert plan_paths("{scale}.png", fields(scale="style/../x")) == [Path("style-x.png")]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", "names no file"),
        ("a\0b.png", "names no file"),
        ("{sed}.png", "unknown placeholder {sed}"),
        ("{}.png", "unknown placeholder {}"),
        ("{seed.real}.png", "unknown placeholder"),
        ("{prompt[0]}.png", "unknown placeholder"),
        ("{seed!r}.png", "not understood"),
        ("{seed:999999999}.png", "not understood"),
        ("{seed:{index}}.png", "not understood"),
        ("{prompt:5}.png", "not understood"),
        ("{scale:d}.png", "cannot be written as d"),
        ("{seed.png", "expected '}'"),
        ("cat.gif", "not .gif"),
        ("out/{seed}.bmp", "not .bmp"),
        ("/dev/null", "no plain file"),
        ("/dev/stdin", "no plain file"),
        ("x" * 300, "too long"),
        ("~nobody-of-that-name/x.png", "home directory"),
    ],
)
def test_wrong_outputs_are_refused(here, output, message):
    with pytest.raises(UsageError) as caught:
        plan_paths(output, fields())
    assert message in caught.value.message
    assert caught.value.hint


def test_the_hint_for_another_suffix_can_be_typed(here):
    with pytest.raises(UsageError) as caught:
        plan_paths("my cat.gif", fields())
    assert caught.value.hint == "--output 'my cat.png'"


@given(st.text())
@example("../../etc/passwd")
@example("ด้วย" * 40)
@example("a" * 79 + "é")
def test_a_prompt_never_leaves_its_folder(prompt):
    [path] = plan_paths("/nonexistent/{prompt}.png", fields(prompt=prompt))
    assert path.parent == Path("/nonexistent")
    assert path.suffix == ".png" and not path.name.startswith((".", "-"))
    assert len(os.fsencode(path.name)) <= 84


def test_letters_of_any_script_stay():
    assert filenames.slug("Käse & 日本の猫 🐈 / हिन्दी") == "Käse-日本の猫-हिन्दी"
    assert filenames.slug("?!") == "picture"


@given(st.text(alphabet="{}:!.[]seedscale/ \\~0x", max_size=20))
def test_any_output_gives_paths_or_a_usage_error(tmp_path_factory, output):
    try:
        assert len(plan_paths(output, fields(2))) == 2
    except UsageError as error:
        assert error.hint


def test_the_module_imports_no_pillow():
    modules = "ipa_cli.images.encode, ipa_cli.images.metadata, ipa_cli.images.reference"
    code = f"import sys, {modules}; print({{'PIL', 'torch', 'numpy'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
