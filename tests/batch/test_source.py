"""Jobs from files: what is understood, what is refused by its line, and that a file of jobs stays in its place."""

import json
from pathlib import Path

import pytest

from ipa_cli.batch import source
from ipa_cli.batch.jobs import Job, of_json
from ipa_cli.config import ConfigError
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.system import inputs


def listed(name, text, root=None):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return source.find(name, [], root, print)


def objects(*jobs):
    return "".join(json.dumps(job) + "\n" for job in jobs)


def test_a_line_sets_anything_by_its_name(world):
    line = {"id": "a", "prompt": "a\u2028star", "seed": 7, "scale": 1, "image": "cat.png", "lora": ["x.safetensors"]}
    (job,) = listed("jobs.jsonl", objects(line)).jobs()
    assert job.values["scale"] == 1.0 and job.values["image"] == ("cat.png",) and job.values["seed"] == 7
    assert of_json(job.as_json()) == job


def test_csv_is_read_by_its_columns_and_empty_cells_set_nothing(world):
    rows = 'id,prompt,seed,scale\na,"a star, red\nand large",7,0.5\n\nb,a moon,,\n'
    first, second = listed("jobs.csv", "\ufeff" + rows).jobs()
    assert first == Job(1, "a", {"prompt": "a star, red\nand large", "seed": 7, "scale": 0.5})
    assert second.values == {"prompt": "a moon"}


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_tables_of_spreadsheets_have_other_delimiters_and_empty_cells_at_their_ends(world, delimiter):
    rows = '\ufeffid,prompt,seed,,\r\na,"a star, red",7,,\r\n,,,,\r\nb,a moon,,,\r\n'
    quoted = rows.replace(",", delimiter).replace(f"star{delimiter} red", "star, red")
    first, second = listed("jobs.csv", quoted).jobs()
    assert first == Job(1, "a", {"prompt": "a star, red", "seed": 7}) and second == Job(2, "b", {"prompt": "a moon"})


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_decimal_comma_is_read_where_commas_separate_nothing(world, delimiter):
    rows = "id;scale;hires;guidance_scale;image_weight;prompt\na;0,8;1,5;-,5;0.8;0,8\n"
    with pytest.raises(ConfigError, match=r"jobs.csv, line 2: guidance_scale = -0.5: expected a number from 0"):
        list(listed("jobs.csv", rows.replace(";", delimiter)).jobs())
    (job,) = listed("jobs.csv", rows.replace("-,5", "7,50").replace(";", delimiter)).jobs()
    assert job.values == {
        "scale": 0.8, "hires": "1.5", "guidance_scale": 7.5, "image_weight": (0.8,), "prompt": "0,8"
    }  # fmt: skip


def test_whole_numbers_as_pandas_writes_them_beside_empty_cells(world):
    first, second = listed("jobs.csv", "id,steps,seed,image\na,20.0,7.0,1.0\nb,,,\n").jobs()
    assert first.values == {"steps": 20, "seed": 7, "image": ("1.0",)} and second.values == {}


@pytest.mark.parametrize(
    ("rows", "message", "hint"),
    [
        ('id,scale\na,"0,8"\n', "line 2: scale=0,8: expected a number", "write it with a point: 0.8"),
        ("id;steps\na;25,0\n", "line 2: steps=25,0: expected a whole number", "explains every setting"),
        ("id;scale\na;1.000,5\n", "line 2: scale=1.000,5: expected a number", "explains every setting"),
        ("sep=;\nid;seed\na;1\n", "line 1: 'sep=' is for Excel", "remove this line"),
        ("id;cfg scale;what;Size\na;1;2;3\n", "'cfg scale': did you mean 'guidance_scale'?; 'what'", "explains"),
        ("id;seed\na;-1\n", "seed = -1: expected a number from 0", "explains"),
        ("id;steps\na;1.000\n", "steps=1.000: expected a whole number", "explains"),
        ("id;image_weight\na;0,8\n", "image_weight 0,8 may be one number or two", "0.8 for one, 0.0,8 for two"),
    ],
)
def test_a_decimal_comma_that_may_mean_something_else_is_refused_with_what_to_write(world, rows, message, hint):
    with pytest.raises(ConfigError) as refused:
        list(listed("jobs.csv", rows).jobs())
    assert message in refused.value.message and hint in refused.value.hint


@pytest.mark.parametrize(
    "rows",
    [
        "id,sampler,guidance-scale,size\na,DPM++ 2M Karras,5,64x96\n",
        "id,scheduler,guidance_scale,width,height,size\na,DPM++ 2M Karras,5,64,96,\n",
        '{"id": "a", "sampler": "DPM++ 2M Karras", "guidance-scale": 5, "size": "64x96"}',
    ],
)
def test_settings_may_be_named_as_the_flags_of_generate_are(world, rows):
    [job] = listed("jobs", rows).jobs()
    wanted = {"scheduler": "DPM++ 2M Karras", "guidance_scale": 5.0, "width": 64, "height": 96}
    assert job.values == wanted


WRONG = {
    '{"ID": "a"}': "line 2: unknown setting 'ID'; did you mean 'id'?",
    '{"id": "a", "promt": "x"}': "line 2: unknown setting 'promt'; did you mean 'prompt'?",
    '{"id": "a", "seed": "x"}': "line 2: seed = 'x': expected a whole number",
    '{"id": "a", "scale": 99}': "line 2: scale = 99",
    '{"id": "a", "scale": NaN}': "line 2: not JSON: NaN",
    '{"id": "a", "seed": 1, "seed": 2}': "line 2: not JSON: a name is there twice",
    '{"id": "a"': "line 2: not JSON",
    "[]": "line 2: not a JSON object",
    "# mine": "line 2: not JSON: Expecting value at character 1",
    '{"id": "a", "seed": 1' + "0" * 5000 + "}": "line 2: not JSON: a number of 5001 digits",
    '{"id": "a", "lora": ' + "[" * 100_000: "line 2: not JSON: it is nested too deeply",
    '{"prompt": "x"}': "line 2: no id",
    '{"id": "a\\u001b[2J"}': "line 2: an id is text of 1 to 200 printable characters",
    '{"id": "a", "num_images": 2}': "line 2: num_images cannot be set by a job",
    '{"id": "a", "output": "/etc/x.png"}': "line 2: output cannot be set by a job",
    '{"id": "a", "format": "webp"}': "line 2: format cannot be set by a job: it is set for all: --format",
    '{"id": "a", "sampler": "lcm", "scheduler": "tcd"}': "line 2: scheduler is given twice, by two spellings",
    '{"id": "a", "size": "64"}': "line 2: '64' is not a picture size",
    '{"id": "a", "size": "64x64", "width": 64}': "line 2: size and width or height are both given",
    '{"id": "a", "size": "63x64"}': "line 2: width = 63",
    '{"id": "a", "device": "cpu"}': "line 2: device cannot be set by a job",
    '{"id": "a", "compile_options": "fast"}': "line 2: compile_options cannot be set: it chooses code",
    '{"id": "a", "server": "http://example.com"}': "line 2: server cannot be set: it chooses code",
    '{"id": "a", "cache_dir": "x"}': "line 2: cache_dir cannot be set: it chooses code",
    '{"id": "a", "image": "/etc/shadow"}': "line 2: image cannot be set: it is outside",
    '{"id": "a", "image": "../x.png"}': "line 2: image cannot be set: it is outside",
    '{"id": "a", "image": "~/x.png"}': "line 2: image cannot be set: it is outside",
    '{"id": "a", "image": "http://example.com/x.png"}': "line 2: image cannot be set: it names a server",
    '{"id": "a", "image": "-"}': "line 2: image cannot be set: it means stdin",
    '{"id": "a", "adapter": ["own,image=/etc/shadow"]}': "line 2: adapter cannot be set: it is outside",
    '{"id": "a", "model": "/models/x"}': "line 2: model cannot be set: it is outside",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_line_is_named_with_what_is_wrong(world, line):
    with pytest.raises(ConfigError) as raised:
        source.survey(listed("jobs.jsonl", '{"id": "first"}\n' + line + "\n"))
    assert f"jobs.jsonl, {WRONG[line]}" in raised.value.message and "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt,seed\n", "line 1: no column id"),
        ("id,promt\n", "line 1: unknown setting 'promt'"),
        ("id,seed,seed\n", "line 1: the column seed is there twice"),
        ("id,sampler,scheduler\n", "line 1: the column scheduler is there twice"),
        ("id,size\na,64\n", "line 2: '64' is not a picture size"),
        ("id,seed\na,1,2\n", "line 2: 3 cells for 2 columns"),
        ("id,seed\na,x\n", "line 2: seed=x: expected a whole number"),
        ('id,prompt\na,"x\n', "not CSV"),
        ("id,prompt\ra,x\r", "carriage returns alone"),
        ("a star\na moon\n", "line 1: no column id"),
        ("id,prompt,\na,x,y\n", "line 2: 3 cells for 2 columns"),
    ],
)
def test_a_wrong_table_is_named_with_what_is_wrong(world, text, said):
    with pytest.raises(ConfigError, match=said):
        source.survey(listed("jobs.csv", text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (objects({"id": "a"}, {"id": "b"}, {"id": "a"}), "jobs 1 and 3 have the id 'a'"),
        (objects({"id": "cat"}, {"id": "Cat"}), "jobs 1 and 2 have ids that differ in case alone, 'cat' and 'Cat'"),
        (b'{"id": "\xff"}\n', "line 1: not UTF-8 text"),
        ('{"id": "a"}\n'.encode("utf-16"), "line 1: not UTF-8 text"),
        (b"PK\x03\x04\0\0\0", "line 1: not UTF-8 text"),
    ],
)
def test_a_file_whose_jobs_cannot_all_be_drawn_is_refused(world, text, said):
    with pytest.raises(ConfigError, match=said):
        source.survey(listed("jobs.jsonl", text))


def test_a_line_without_an_end_is_not_read_into_memory(world):
    with pytest.raises(IpaError, match="line 1 is longer than 1 MB"):
        source.survey(listed("jobs.jsonl", b"x" * 1_000_001))


def test_an_empty_file_a_missing_one_and_stdin_are_no_jobs(world):
    with pytest.raises(IpaError, match="contains no job"):
        source.survey(listed("jobs.jsonl", "\n\n"))
    with pytest.raises(IpaError, match="does not exist"):
        source.survey(source.find("none.jsonl", [], None, print))
    with pytest.raises(UsageError, match="stdin only once"):
        source.find("-", [], None, print)


@pytest.mark.parametrize("name", ["~nobody-here/jobs.jsonl", "a" * 5000, "circle/jobs.jsonl", "a\nb"])
def test_names_that_lead_nowhere_are_an_error_in_a_line(world, name):
    Path("circle").symlink_to("circle")
    with pytest.raises(IpaError):
        source.survey(source.find(name, [], None, print))
    listed("jobs.jsonl", objects({"id": "a"}))
    with pytest.raises(IpaError, match="is not a folder"):
        source.find("jobs.jsonl", [], Path(name), print)


def test_paths_are_relative_to_the_file_of_jobs_and_a_root_lets_them_out(world):
    line = objects({"id": "a", "image": "cat.png", "init_image": str(world.cwd / "dog.png")})
    with pytest.raises(ConfigError, match="init_image cannot be set: it is outside"):
        next(listed("sub/jobs.jsonl", line).jobs())
    (job,) = listed("sub/jobs.jsonl", line, root=Path()).jobs()
    assert job.values == {"image": (str(world.cwd / "sub/cat.png"),), "init_image": str(world.cwd / "dog.png")}


def test_a_link_out_of_the_folder_leads_nowhere(world):
    Path("link").symlink_to("/etc")
    with pytest.raises(ConfigError, match="image cannot be set: it is outside"):
        next(listed("jobs.jsonl", objects({"id": "a", "image": "link/shadow"})).jobs())


@pytest.mark.parametrize(
    "values",
    [
        {"image": "refs"},
        {"image": "refs/secret"},
        {"image": "re*/*.png"},
        {"image": "**/secret.png"},
        {"init_image": "refs/secret"},
        {"negative_image": "refs/secret"},
        {"mask": ["refs/secret"]},
        {"adapter": ["own,image=refs"]},
        {"control": ["demo,image=refs/secret"]},
        {"region": ["mask=refs/secret,prompt=a star"]},
    ],
)
def test_a_folder_a_pattern_or_a_stem_follows_no_link_out_of_the_folder(world, values):
    Path("refs").mkdir()
    Path(world.home, "secret.png").touch()
    Path("refs/cat.png").touch()
    Path("refs/linked.png").symlink_to("cat.png")
    within = {**values, **({"image": "refs/l*"} if "image" in values else {"init_image": "refs/linked"})}
    line = json.dumps(within).replace("secret", "linked")
    assert next(listed("jobs.jsonl", objects({"id": "a", **json.loads(line)})).jobs())
    Path("refs/secret.png").symlink_to(world.home / "secret.png")
    with pytest.raises(ConfigError, match="cannot be set: it is outside"):
        next(listed("jobs.jsonl", objects({"id": "a", **values})).jobs())


@pytest.mark.parametrize(
    "id", ["../../etc/passwd", "a/b", "..", ".hidden", "con", "nul.png", "ü", "a b", "x" * 200, "a."]
)
def test_an_id_never_leads_out_of_the_output(id):
    file = Job(1, id, {}).file(".png")
    assert file.startswith("pictures/") and file.count("/") == 1 and "/." not in file
    assert file != f"pictures/{id}.png"  # and a plain one, whatever it is, cannot be the same
    assert Job(2, "cat-1.b", {}).file(".png") == "pictures/cat-1.b.png"


def test_pictures_of_many_jobs_are_spread_over_folders():
    assert Job(10_000, "a", {}).file(".png") == "pictures/a.png"
    assert Job(10_001, "a", {}).file(".png") == "pictures/0001/a.png"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
@pytest.mark.parametrize("block", [1, 3, 1 << 20])
def test_lines_may_be_added_and_a_last_one_without_an_end_may_not_grow(world, monkeypatch, end, block):
    blocks = inputs.blocks
    monkeypatch.setattr("ipa_cli.system.inputs.blocks", lambda path, what: blocks(path, what, block))
    first = "id,seed\na,1\nb,1" + end
    before = listed("jobs.csv", first).digest()
    assert before.size == len(first)
    for more in ("", "\n", "\nc,3", "\r\nc,3\n", *(["c,3\n"] if end else [])):
        assert listed("jobs.csv", first + more).digest(before.size) == before
    for other in (first[:-1] + "2", "x" + first[1:], first[:-1], *(() if end else (first + "2\nc,3", first + "2"))):
        assert listed("jobs.csv", other).digest(before.size) != before


def test_a_folder_of_references_is_crossed_with_prompts(world):
    for name in ("cat.png", "dog.png"):
        Path("refs").mkdir(exist_ok=True)
        Path("refs", name).write_bytes(b"")
    found = list(source.find("refs", [{"prompt": "a"}, {"prompt": "b", "seed": 3}], None, print).jobs())
    assert [job.id for job in found] == ["cat-1", "cat-2", "dog-1", "dog-2"]
    assert found[3].values == {"image": ("refs/dog.png",), "prompt": "b", "seed": 3}
    with pytest.raises(UsageError, match="for a folder of references"):
        listed("jobs.jsonl", "") and source.find("jobs.jsonl", [{"prompt": "a"}], None, print)


def test_an_object_over_several_lines_is_told_that_each_has_one(world):
    with pytest.raises(ConfigError) as raised:
        source.survey(listed("jobs.json", '{\n "id": "a"\n}'))
    assert "one object on each line" in raised.value.hint


@pytest.mark.parametrize("name", ["jobs.json", "jobs.jsonl", "jobs"])
def test_a_json_list_of_jobs_is_read_and_may_grow_as_lines_may(world, name):
    text = '\ufeff[\n {"id": "a", "seed": 1},\n {"id": "b",\n  "size": "64x96"}\n]\n'
    jobs = listed(name, text)
    assert list(jobs.jobs()) == [Job(1, "a", {"seed": 1}), Job(2, "b", {"width": 64, "height": 96})]
    before = jobs.digest()
    grown = listed(name, text.replace("}\n]", '}, {"id": "c"}]'))
    assert source.survey(grown).count == 3 and grown.digest(before.size) == before != grown.digest()
    assert listed(name, text.replace("1", "2")).digest(before.size) != before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"id": "a"},\n {"id": "b"]', "jobs.json: not JSON: Expecting ',' delimiter at line 2, character 12"),
        ('[{"id": "a"}]\n{"id": "b"}\n', "jobs.json: not JSON: Extra data at line 2, character 1"),
        ('[{"id": "a"}, {"id": "b", "steps": 0}]', "jobs.json, job 2: steps = 0: expected a number from 1"),
        ('[{"id": "a"}, "b"]', "jobs.json, job 2: not a JSON object"),
        ('["\udcff"]', "jobs.json: not UTF-8 text"),
        ("[]", "jobs.json contains no job"),
    ],
)
def test_what_is_wrong_in_a_json_list_is_named_by_its_job_or_line(world, text, said):
    with pytest.raises(IpaError) as raised:
        source.survey(listed("jobs.json", text.encode("utf-8", "surrogateescape")))
    assert said in raised.value.message


def test_a_json_list_is_read_up_to_a_size(world, monkeypatch):
    monkeypatch.setattr(source, "LIST_BYTES", 1_500_000)
    with pytest.raises(ConfigError, match="a JSON list of more than"):
        listed("jobs.json", "[" + '{"id": "a"},' * 200_000).jobs()


def test_columns_are_named_in_any_case_and_with_blanks_around_them_and_in_them(world):
    rows = "ID, Prompt ,Seed,Guidance Scale,Sampler\na,Red,7,5,ddim\n"
    [job] = listed("jobs.csv", rows).jobs()
    assert job == Job(1, "a", {"prompt": "Red", "seed": 7, "guidance_scale": 5.0, "scheduler": "ddim"})
    with pytest.raises(ConfigError, match="line 1: the column seed is there twice"):
        list(listed("jobs.csv", "id,seed,Seed\na,1,2\n").jobs())


def test_ids_of_a_folder_are_text_whatever_the_names_of_its_files_are(world):
    for name in ("new\nline.png", "caf\udce9.png"):
        Path("refs").mkdir(exist_ok=True)
        Path("refs", name).write_bytes(b"")
    found = source.find("refs", [], None, print)
    assert {job.id for job in found.jobs()} == {"new\ufffdline", "caf\ufffd"} and source.survey(found).count == 2


def test_jobs_are_not_kept_in_memory(world):
    import tracemalloc

    Path("jobs.jsonl").write_text(
        "".join(f'{{"id": "job-{n}", "prompt": "a star", "seed": {n}}}\n' for n in range(5_000))
    )
    found = source.find("jobs.jsonl", [], None, print)
    shown: list[str] = []
    tracemalloc.start()
    assert source.survey(found, shown.append).count == 5_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert shown == ["1,000", "2,000", "3,000", "4,000", "5,000"]
    assert peak < 1_200_000
