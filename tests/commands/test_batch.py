"""`ipa batch` with the demo model: every job once, as `ipa generate` draws it, whatever stops it."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from ipa_cli.batch import output
from ipa_cli.batch.journal import Outcome
from ipa_cli.errors import IpaError
from ipa_cli.images import fitting
from ipa_cli.models.prompts import chunks

pytestmark = pytest.mark.slow

QUICK = ("--steps", 1, "--size", "64x64", "--device", "cpu", "--backend", "eager")


def jobs(*lines, name="jobs.jsonl"):
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return name


def results(folder="out"):
    return [json.loads(line) for line in Path(folder, "results.jsonl").read_text().splitlines()]


def digests(folder="out"):
    return {one["id"]: one["sha256"] for one in results(folder)}


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def references():
    for name, colour in (("cat.png", "orange"), ("dog.png", "navy")):
        Image.new("RGB", (48, 48), colour).save(name)


def test_a_job_is_drawn_byte_for_byte_as_by_generate(ipa):
    references()
    data = ipa(
        "batch",
        jobs(
            {"id": "cat", "image": "cat.png", "prompt": "a star", "seed": 5, "scale": 0.4},
            {"id": "plain/1", "prompt": "a (red:1.2) moon", "seed": 6, "height": 96, "guidance_scale": 1.0},
            {"id": "random", "image": ["cat.png", "dog.png"], "image_weight": [1, 0.5], "steps": 2},
        ),
        *(*QUICK, "-o", "out", "--json"),
    ).data()
    assert (data["jobs"], data["drawn"], data["failed"]) == (3, 3, 0)
    cat, plain, random = results()
    assert [one["file"][:13] for one in (cat, plain, random)] == ["pictures/cat.", "pictures/plai", "pictures/rand"]
    assert all(digest(f"out/{one['file']}") == one["sha256"] for one in (cat, plain, random))

    def generated(*flags):
        return ipa("generate", *QUICK, *flags, "--json").data()["images"][0]["sha256"]

    assert cat["sha256"] == generated("-i", "cat.png", "-p", "a star", "--seed", 5, "--scale", 0.4)
    moon = ("-p", "a (red:1.2) moon", "--seed", 6, "--guidance-scale", 1)
    assert (
        plain["sha256"]
        == ipa("generate", *QUICK[:2], *QUICK[4:], *moon, "--width", 64, "--height", 96, "--json").data()["images"][0][
            "sha256"
        ]
    )
    several = ("-i", "cat.png", "-i", "dog.png", "--image-weight", 1, "--image-weight", 0.5, "--steps", 2)
    assert random["sha256"] == generated(*several, "--seed", random["seed"])
    page = Path("out/index.html").read_text()
    assert 'src="pictures/cat.png"' in page and "<script" not in page and "default-src &#39;none&#39;" in page
    assert Image.open("out/contact-sheet.png").width >= 480


def test_a_job_alone_may_have_a_controlnet(ipa):
    picture = Image.new("L", (64, 64))
    picture.paste(255, (16, 16, 48, 48))
    picture.save("map.png")
    lines = (
        {"id": "plain", "seed": 5},
        {"id": "map", "seed": 5, "control": ["demo,image=map.png"]},
        {"id": "b", "seed": 6},
    )
    data = ipa("batch", jobs(*lines), *QUICK, "-o", "out", "--json").data()
    assert (data["drawn"], data["failed"]) == (3, 0)
    drawn = ipa("generate", *QUICK, "--seed", 5, "--control", "demo,image=map.png", "--json").data()["images"][0]
    assert digests()["map"] == drawn["sha256"] != digests()["plain"]


def test_a_failed_job_is_recorded_and_the_others_go_on(ipa):
    references()
    file = jobs(
        {"id": "missing", "image": "lost.png"},
        {"id": "misspelt", "image": "cta.png"},
        {"id": "model", "model": "nowhere"},
        {"id": "good", "seed": 1},
        {"id": "other", "seed": 2, "strength": 0.5},
    )
    ran = ipa("batch", file, *QUICK, "-o", "out")
    assert ran.exit_code == 1 and "FAILED 3 jobs: --retry-failed" in ran.stdout
    found = {one["id"]: one for one in results()}
    assert [one["status"] for one in found.values()] == ["failed"] * 3 + ["done"] * 2
    assert "lost.png does not exist" in found["missing"]["error"] and "nowhere" in found["model"]["error"]
    assert found["misspelt"]["hint"] == "did you mean cat.png?"
    assert "misspelt failed: cta.png does not exist (did you mean cat.png?)" in ran.stderr

    same = ipa("batch", file, *QUICK, "-o", "out", "--resume", "--json")
    assert same.exit_code == 1 and same.json()["data"]["drawn"] == 0 and same.json()["data"]["failed"] == 3
    error = same.json()["error"]
    assert error["message"].startswith("3 of 5 jobs failed, the first missing: lost.png does not exist")
    assert "out/results.jsonl" in error["hint"] and "--retry-failed" in error["hint"]
    Image.new("RGB", (48, 48), "red").save("lost.png")
    again = ipa("batch", file, *QUICK, "-o", "out", "--retry-failed", "--json")
    assert again.json()["data"]["drawn"] == 1 and again.json()["data"]["failed"] == 2
    assert [one["id"] for one in results()] == list(found) and results()[0]["status"] == "done"


@pytest.mark.campaign
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_batch_that_was_stopped_draws_each_job_once_when_resumed(ipa_process, ipa, number):
    file = jobs(*({"id": f"job-{n}", "seed": n} for n in range(16)))
    flags = ("batch", file, *QUICK[:1], 6, *QUICK[2:], "-o", "out", "--json")
    environ = {"OMP_NUM_THREADS": "1"}
    stopped = ipa_process(*flags, "--verbose", environ=environ, interrupt_at="job-3 done", signals=[number])
    if number != signal.SIGKILL:
        assert stopped.exit_code == 128 + number and stopped.error()["type"] == "Interrupted"
        assert "--resume draws what is missing" in stopped.stderr
    data = ipa(*flags, "--resume").data()
    assert data["jobs"] == 16 and data["failed"] == 0
    assert [one["id"] for one in results()] == [f"job-{n}" for n in range(16)]
    assert all(digest(f"out/{one['file']}") == one["sha256"] for one in results())
    assert len(list(Path("out/pictures").iterdir())) == 16


def test_a_batch_of_which_nothing_was_drawn_is_begun_anew(ipa):
    wrong = ("batch", jobs({"id": "a"}), "-o", "out", "--backend", "eager", "--device", "cuda:99")
    for _ in range(2):
        assert "there is no device" in ipa(*wrong).stderr and Path("out/batch.json").exists()
    assert ipa("batch", jobs({"id": "b"}), *QUICK, "-o", "out").exit_code == 0 and digests().keys() == {"b"}


def test_jobs_that_are_added_or_changed_while_others_are_drawn(ipa, monkeypatch):
    monkeypatch.setattr("ipa_cli.batch.order.ordered", iter)
    file, warnings = Path(jobs({"id": "a", "seed": 1}, {"id": "b", "seed": 2})), []
    for change in (lambda text: text + '{"id": "c"}\n', lambda text: text.replace("2", "3", 1)):

        def draw(task, every, done, reporter, change=change):
            first = next(every)
            file.write_text(change(file.read_text()))
            for job in (first, *every):
                done(Outcome(job.number, job.id, "failed", error="not drawn"))

        monkeypatch.setattr("ipa_cli.batch.run.here", draw)
        ran = ipa("batch", file, *QUICK, "-o", f"out-{len(warnings)}")
        assert ran.exit_code == 1 and "Traceback" not in ran.stderr
        warnings.append("was changed while it was drawn" in ran.stderr)
        assert [one["id"] for one in results(f"out-{len(warnings) - 1}")] == ["a", "b", "c"][: len(warnings) + 1]
    assert warnings == [False, True]


def test_a_file_of_jobs_that_is_gone_in_the_end_is_warned_of(ipa, monkeypatch):
    def draw(task, every, done, reporter):
        for job in list(every):
            done(Outcome(job.number, job.id, "failed", error="not drawn"))
        Path("jobs.jsonl").unlink()

    monkeypatch.setattr("ipa_cli.batch.run.here", draw)
    ran = ipa("batch", jobs({"id": "a", "seed": 1}), *QUICK, "-o", "out")
    assert ran.exit_code == 1 and "jobs.jsonl was changed while it was drawn" in ran.stderr and results()


def test_a_web_server_is_no_output(ipa):
    ran = ipa("batch", jobs({"id": "a"}), *QUICK, "-o", "https://example.com/drawn")
    assert ran.exit_code == 2 and "a web server is only read" in ran.stderr


def test_what_is_missing_is_drawn_again_and_jobs_may_be_added(ipa):
    lines = [{"id": f"job-{n}"} for n in range(3)]
    assert ipa("batch", jobs(*lines), *QUICK, "-o", "out").exit_code == 0
    before = digests()
    refused = ipa("batch", "jobs.jsonl", *QUICK, "-o", "out")
    assert refused.exit_code == 1 and "out holds a batch already" in refused.stderr
    Path("out/pictures/job-1.png").unlink()
    jobs(*lines, {"id": "new", "seed": 4})
    data = ipa("batch", "jobs.jsonl", *QUICK, "-o", "out", "--resume", "--json").data()
    assert data["drawn"] == 2 and {**before, "new": digests()["new"]} == digests()  # the same random seeds

    other = ipa("batch", "jobs.jsonl", *QUICK, "--fit", "crop", "-o", "out", "--resume")
    assert other.exit_code == 1 and "out holds another batch: fit 'pad' → 'crop'" in other.stderr
    jobs({"id": "x"})
    other = ipa("batch", "jobs.jsonl", *QUICK, "-o", "out", "--resume")
    assert other.exit_code == 1 and "jobs.jsonl has changed" in other.stderr


def test_a_batch_goes_on_on_another_device(ipa):
    file = jobs({"id": "a", "seed": 1}, {"id": "b", "seed": 2})
    auto = (*QUICK[:4], *QUICK[6:])
    assert ipa("batch", file, *auto, "-o", "out").exit_code == 0
    Path("out/pictures/b.png").unlink()
    ran = ipa("batch", file, *QUICK, "-o", "out", "--resume", "--json")
    assert ran.data()["drawn"] == 1 and "begun with --device auto" in ran.stderr
    assert digest("out/pictures/b.png") == digests()["b"]


def test_results_that_a_full_disk_has_no_room_for_are_written_by_resume(ipa, monkeypatch):
    def full(*_):
        raise IpaError("no space left on the disk of out", "free some space")

    file = jobs(*({"id": f"job-{n}", "seed": n} for n in range(3)))
    write = output.Folder.write
    with monkeypatch.context() as patch:
        patch.setattr(output.Folder, "write_lines", full)
        patch.setattr(
            output.Folder, "write", lambda self, name, data: full() if "job-2" in name else write(self, name, data)
        )
        ran = ipa("batch", file, *QUICK, "-o", "out")
    assert (
        ran.exit_code == 1 and "error: no space left" in ran.stderr.lower() and not Path("out/results.jsonl").exists()
    )
    assert "results.jsonl is not as far as journal/" in ran.stderr and "--resume writes it" in ran.stderr
    data = ipa("batch", file, *QUICK, "-o", "out", "--resume", "--json").data()
    assert data["drawn"] == 1 and list(digests()) == ["job-0", "job-1", "job-2"]


def test_nothing_is_loaded_for_what_can_be_seen_before(ipa, monkeypatch):
    monkeypatch.setattr("ipa_cli.engine.engine.Engine.open", lambda *_: pytest.fail("the model was loaded"))
    monkeypatch.setattr("ipa_cli.models.schedulers.find_spec", lambda _: None)
    good = {"id": "a", "seed": 1}
    for lines, flags, code, said in (
        ((good, {"id": "a"}), (), 2, "jobs 1 and 2 have the id 'a'"),
        ((good, {"id": "b", "sede": 1}), (), 2, "jobs.jsonl, line 2: unknown setting 'sede'; did you mean 'seed'?"),
        ((good, {"id": "b", "sampler": "eular"}), (), 2, "job 2 ('b'): unknown sampler 'eular'; did you mean 'euler'?"),
        ((good, {"id": "b", "sampler": "lcm"}), ("--schedule", "karras"), 2, "the sampler lcm has no schedule"),
        ((good, {"id": "b", "schedule": "beta"}), (), 1, "job 2 ('b'): the schedule 'beta' needs scipy"),
        ((good, {"id": "b", "sampler": "dpm++-sde"}), (), 1, "job 2 ('b'): the sampler 'dpm++-sde' needs torchsde"),
        ((good,), ("--model", "no/such/folder"), 2, "no/such/folder"),
        ((good,), ("--backend", "nonesuch"), 2, "nonesuch"),
        ((good,), ("--scheduler", "nonesuch"), 2, "nonesuch"),
        ((good,), ("--quality", 90), 2, "lossless"),
        ((good,), ("-o", "-"), 2, "stdout"),
        ((good,), ("-p", "a star"), 2, "for a folder of references"),
        ((good,), ("-o", "jobs.jsonl"), 1, "jobs.jsonl"),
        ((good,), ("-o", "nothing://x"), 2, "nothing"),
        ((good,), ("--image", "-"), 2, "stdin is read only once"),
        ((good,), ("--init-image", "-"), 2, "stdin is read only once"),
        ((good,), ("--devices", "cpu,cpu", "--gpus", 2), 2, "--devices and --gpus 2 are both given"),
        ((good,), ("--ray", "auto", "--gpus", 2), 2, "--ray and --gpus 2 are both given"),
    ):
        ran = ipa("batch", jobs(*lines), *QUICK[:4], "-o", "out", *flags)
        assert ran.exit_code == code and said in ran.stderr, (flags, ran.stderr)
    assert not Path("out/pictures").exists()


def test_a_folder_of_references_is_drawn_with_each_prompt(ipa):
    Path("refs").mkdir()
    Image.new("RGB", (48, 48), "orange").save("refs/cat.png")
    Image.new("RGB", (48, 48), "navy").save("refs/dog.png")
    flags = ("-p", "a star", "-p", "a moon", "--seed", 3, "--format", "jpg", "--quality", 80, "-o", "out", "-q")
    assert ipa("batch", "refs", *QUICK, *flags).stdout == "out\n"
    assert sorted(path.name for path in Path("out/pictures").iterdir()) == [
        "cat-1.jpg",
        "cat-2.jpg",
        "dog-1.jpg",
        "dog-2.jpg",
    ]
    assert len(set(digests().values())) == 4


def test_jobs_share_calls_of_the_unet(ipa):
    """Pictures of one call are as those drawn alone but for rounding."""
    file = jobs(*({"id": str(n), "seed": n, "prompt": f"a star {n}"} for n in range(5)))
    assert ipa("batch", file, *QUICK, "-o", "alone").exit_code == 0
    assert ipa("batch", file, *QUICK, "--batch-size", 2, "-o", "out").exit_code == 0
    for one, other in zip(results("alone"), results("out"), strict=True):
        pictures = [Image.open(f"{folder}/{found['file']}") for folder, found in (("alone", one), ("out", other))]
        differences = [abs(a - b) for a, b in zip(*(picture.tobytes() for picture in pictures), strict=True)]
        assert max(differences) <= 2


@pytest.mark.parametrize(
    ("part", "error"),
    [("prompt", IpaError("too many words")), ("reference", RuntimeError("shapes")), ("reference", MemoryError())],
)
def test_a_job_that_cannot_be_encoded_fails_alone(ipa, monkeypatch, part, error):
    Image.new("RGB", (48, 48), "orange").save("cat.png")
    Image.new("RGB", (40, 48), "navy").save("bad.png")
    each = [{"id": str(n), "seed": n, "image": "cat.png", "prompt": f"a star {n}"} for n in range(4)]
    each[1] |= {"prompt": "a bad star"} if part == "prompt" else {"image": "bad.png"}
    module, name = (chunks, "chunked") if part == "prompt" else (fitting, "squares")
    real = getattr(module, name)

    def encoded(first, *more):
        if "bad" in str(first) if part == "prompt" else first.size == (40, 48):
            raise error
        return real(first, *more)

    monkeypatch.setattr(module, name, encoded)
    ran = ipa("batch", jobs(*each), *QUICK, "--batch-size", 4, "-o", "out")
    assert ran.exit_code == 1 and "4 jobs cannot be drawn together" in ran.stderr
    assert [one["status"] for one in results()] == ["done", "failed", "done", "done"]
    assert (str(error) or "out of memory on cpu") in results()[1]["error"]
    assert ipa("generate", *QUICK, "-i", "cat.png", "-p", "a star 3", "--seed", 3, "-o", "alone.png").exit_code == 0
    drawn, alone = (Image.open(name) for name in ("out/pictures/3.png", "alone.png"))
    assert max(high for _, high in ImageChops.difference(drawn, alone).getextrema()) <= 1  # rounding


def test_a_job_that_main_memory_has_no_room_for_fails_alone_before_it_is_drawn(ipa, monkeypatch):
    monkeypatch.setattr("ipa_cli.hardware.devices.free_memory", lambda: 2**32)
    file = jobs({"id": "a", "seed": 1}, {"id": "b", "seed": 2, "width": 8192, "height": 8192}, {"id": "c", "seed": 3})
    ran = ipa("batch", file, *QUICK, "-o", "out")
    assert ran.exit_code == 1 and [one["status"] for one in results()] == ["done", "failed", "done"]
    assert "decoding 8192x8192 takes at least 17.2 GB of main memory, and 4.3 GB are free" in results()[1]["error"]
    assert "--vae-tiling" in results()[1]["hint"]


def test_settings_of_a_job_that_have_no_effect_are_warned_of_once(ipa):
    useless = {"strength": 0.8, "mask_blur": 2, "hires_strength": 0.3, "negative_prompt": "dark"}
    file = jobs(*({"id": name, "seed": 1, "guidance_scale": 1, **useless} for name in "ab"), {"id": "c", "seed": 1})
    ran = ipa("batch", file, *QUICK, "--sharpening", 0.5, "-o", "out")
    assert ran.stderr.count("jobs without an image follow the model's own") == 1
    said = [line for line in ran.stderr.splitlines() if "no effect" in line]
    assert all(line.startswith("warning: a: ") for line in said) and len(said) == 4, said
    for flag in ("strength", "mask blur", "hires pass", "--negative-prompt"):
        assert sum(f"{flag}" in line for line in said), flag


def test_flags_that_have_an_effect_on_no_job_are_noted(ipa):
    references()
    flags = ("--strength", 0.5, "--image-combine", "average", "--hires-strength", 0.3)
    file = jobs({"id": "a", "seed": 1}, {"id": "b", "seed": 2, "init_image": "cat.png", "steps": 2})
    ran = ipa("batch", file, *QUICK, *flags, "-o", "out")
    assert ran.exit_code == 0 and "strength has no effect" not in ran.stderr
    assert ran.stderr.count("--image-combine has no effect with a single reference") == 1
    assert ran.stderr.count("hires pass have no effect") == 1 and "warning" not in ran.stderr


def test_a_folder_in_memory_is_reached_by_its_url(ipa):
    import fsspec

    file = jobs({"id": "a", "seed": 1}, {"id": "b", "seed": 2})
    data = ipa("batch", file, *QUICK, "-o", "memory://drawn/here", "--json").data()
    assert data["results"] == "memory://drawn/here/results.jsonl"
    files = fsspec.filesystem("memory")
    found = [json.loads(line) for line in files.cat("/drawn/here/results.jsonl").splitlines()]
    for one in found:
        assert hashlib.sha256(files.cat(f"/drawn/here/{one['file']}")).hexdigest() == one["sha256"]
    assert ipa("batch", file, *QUICK, "-o", "memory://drawn/here", "--resume", "--json").data()["drawn"] == 0


def test_a_link_in_the_output_is_not_written_through(ipa):
    assert ipa("batch", jobs({"id": "a"}), *QUICK, "-o", "out").exit_code == 0
    Path("out/pictures/a.png").unlink()
    Path("out/pictures/a.png").symlink_to("../../mine.png")
    ran = ipa("batch", "jobs.jsonl", *QUICK, "-o", "out", "--resume")
    assert ran.exit_code == 1 and "is a link" in ran.stderr and not Path("mine.png").exists()


@pytest.mark.parametrize("folder", ["pictures", "journal", "pictures/0001"])
def test_a_folder_in_the_output_that_is_a_link_is_not_written_into(tmp_path, folder):
    Path(tmp_path, "mine").mkdir()
    link = Path(tmp_path, "out", folder)
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "mine")
    place = output.of(str(tmp_path / "out"))
    for write in (place.write, place.append):
        with pytest.raises(IpaError, match="is a link"):
            write(f"{folder}/a.png", b"a")
    assert not any(Path(tmp_path, "mine").iterdir())


@pytest.mark.campaign
def test_devices_share_the_jobs_and_draw_the_same_pictures(ipa):
    """A process for each; an error in one of them is the error of the batch."""
    references()
    file = jobs(*({"id": str(n), "seed": n, "image": "cat.png"} for n in range(6)), {"id": "bad", "image": "no.png"})
    alone = ipa("batch", file, *QUICK, "-o", "alone", "--json")
    flags = (*QUICK[:4], *QUICK[6:], "--devices", "cpu,cpu", "--json")
    together = ipa("batch", file, *flags, "-o", "out")
    assert alone.exit_code == together.exit_code == 1 and digests("alone") == digests()
    assert [one["id"] for one in results()] == [*map(str, range(6)), "bad"]
