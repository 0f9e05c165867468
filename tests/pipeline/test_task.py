"""Settings become requests with every default filled in, and what contradicts itself is refused."""

from pathlib import Path

import pytest
from PIL import Image

from ipa_cli.config import LoraConfig, Settings
from ipa_cli.config.adapter_options import parse
from ipa_cli.errors import IpaError, UsageError
from ipa_cli.models.lora.lora import load
from ipa_cli.models.plan import DEMO, DEMO_REFERENCE, make_plan
from ipa_cli.models.schedulers import Sampling
from ipa_cli.pipeline import task
from ipa_cli.pipeline.image_prompt import ImagePrompt
from ipa_cli.pipeline.references import InMemory, load_references
from ipa_cli.result import KeepingReporter, NullReporter
from tests.zoo.layouts import linked

REFERENCE = str(DEMO / "reference.png")


def request(**settings) -> task.Request:
    given = Settings(**settings)
    return task.make_request(given, make_plan(given), load_references(given, NullReporter()))


def factors(prompt: ImagePrompt) -> list[float]:
    return [factor for layers in prompt.pattern.values() for factor in layers]


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> Path:
    """A folder to stand in, with a white mask, one that is dark, and one of another shape."""
    monkeypatch.chdir(tmp_path)
    for name, size, level in (("white.png", (64, 64), 255), ("dark.png", (64, 64), 100), ("wide.png", (128, 64), 255)):
        Image.new("L", size, level).save(name)
    return tmp_path


def test_what_is_left_open_comes_from_the_model():
    plan = make_plan(Settings())
    made = request(seed=5)
    for name in ("width", "height", "steps", "guidance_scale", "prompt"):
        assert getattr(made, name) == plan.defaults[name]
    assert made.scale == plan.defaults["scale"] and [one.source for one in made.references] == [DEMO_REFERENCE]
    assert DEMO_REFERENCE == "ipa_cli/demo/reference.png" and task.name_fields(made, 0)["image"] == "reference"
    assert made.seeds == (5,) and made.sampling == Sampling() and made.batch_size == 1


def test_what_is_said_counts_even_where_it_is_zero():
    made = request(seed=5, scale=0.0, guidance_scale=0.0, prompt="", width=64, height=72, steps=1, scheduler="ddim")
    assert (made.scale, made.guidance_scale, made.prompt, made.sampling.scheduler) == (0.0, 0.0, "", "ddim")
    assert (made.width, made.height, made.steps) == (64, 72, 1)


def test_a_lora_that_is_given_again_is_warned_of_with_what_its_weights_make():
    given, reporter = Settings(lora=(LoraConfig("demo"), LoraConfig("demo", weight=0.5))), KeepingReporter()
    plan = make_plan(given)
    loaded = load_references(given, NullReporter())
    task.make_request(given, plan, loaded, load(given.lora, plan, NullReporter()), reporter)
    task.make_request(given, plan, loaded, load(given.lora[:1], plan, NullReporter()), reporter)
    assert reporter.warnings == ["the LoRA outlines is given 2 times: its weights add up to 1.5"]


@pytest.mark.parametrize(("guidance", "guided"), [(0.0, False), (1.0, False), (1.0000001, True), (7.5, True)])
def test_a_negative_half_is_drawn_only_above_a_guidance_scale_of_one(guidance, guided):
    assert request(guidance_scale=guidance).guided is guided


def test_seeds_follow_the_first_and_differ_when_none_is_said():
    assert request(seed=7, num_images=3).seeds == (7, 8, 9)
    assert len({request().seeds for _ in range(5)}) == 5


@pytest.mark.parametrize(
    ("images", "size", "batches"),
    [
        (1, 1, [[0]]),
        (1, 4, [[0]]),
        (3, 1, [[0], [1], [2]]),
        (3, 2, [[0, 1], [2, 2]]),
        (4, 2, [[0, 1], [2, 3]]),
        (5, 4, [[0, 1, 2, 3], [4, 4, 4, 4]]),
    ],
)
def test_the_last_batch_is_filled_up_with_the_last_picture(images, size, batches):
    assert request(seed=0, num_images=images, batch_size=size).batches == batches


def test_every_prompt_begins_with_the_same_seed_and_shares_one_batch_size():
    settings = Settings(batch_size=3, num_images=2)
    plan, loaded = make_plan(settings), load_references(settings, NullReporter())
    lines = [{"prompt": "a star"}, {"prompt": "a moon", "num_images": 4, "negative_prompt": "red"}, {"seed": 9}]
    made = task.make_requests(settings, plan, loaded, lines)
    assert [one.prompt for one in made] == ["a star", "a moon", plan.defaults["prompt"]]
    assert [one.negative_prompt for one in made] == ["", "red", ""]
    assert [len(one.seeds) for one in made] == [2, 4, 2] and made[2].seeds == (9, 10)
    assert made[0].seeds == made[1].seeds[:2] and {one.batch_size for one in made} == {3}
    assert task.make_requests(Settings(seed=1), plan, loaded)[0].seeds == (1,)


def test_a_list_of_too_many_pictures_is_refused():
    settings = Settings(num_images=5000)
    plan, loaded = make_plan(settings), load_references(settings, NullReporter())
    assert len(task.make_requests(settings, plan, loaded, [{}, {}])) == 2
    with pytest.raises(UsageError, match="that makes 10001 pictures"):
        task.make_requests(settings, plan, loaded, [{}, {}, {"num_images": 1}])


def test_a_picture_named_twice_is_read_once_and_one_in_memory_is_not_read(pictures):
    given = Settings(image=("white.png", "gone.png"), mask=("white.png",))
    (seen,) = load_references(Settings(image=("white.png",)), NullReporter()).adapters
    in_memory = InMemory({("gone.png", False): seen.references[0]})
    (loaded,) = load_references(given, NullReporter(), in_memory).adapters
    assert loaded.references[1] is seen.references[0] and len(loaded.masks) == 1
    (twice,) = load_references(Settings(image=("white.png", "white.png")), NullReporter()).adapters
    assert twice.references[0] is twice.references[1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ip_start": 0.5, "ip_end": 0.5}, "from 0.5 to 0.5 of the steps"),
        ({"ip_start": 0.6, "ip_end": 0.7, "steps": 2}, "none of the 2 steps lies wholly between 0.6 and 0.7"),
        ({"guidance_start": 0.6, "guidance_end": 0.7, "steps": 2}, "none of the 2 steps lies wholly between 0.6"),
        ({"guidance_start": 0.6, "guidance_end": 0.5}, "guidance would act from 0.6 to 0.5 of the steps"),
        ({"ip_layers": '{"down": 1}', "ip_mode": "style"}, "both choose layers"),
        ({"image_weight": (1.0, 0.5), "image": (REFERENCE,)}, "2 image weights for 1 reference picture"),
        ({"image_weight": (0.0,), "image": (REFERENCE,)}, "all image weights are 0"),
        ({"image": (REFERENCE,) * 3, "mask": ("white.png",) * 2}, "2 masks for 3 reference pictures"),
        ({"mask": ("dark.png",)}, "dark everywhere"),
        ({"mask": ("wide.png",)}, "wide.png is 128x64, the picture 64x64"),
        ({"model": "plain"}, "plain has no prompt"),
        (
            {"model": "plain", "prompt": "x", "adapter": (parse("own,scale=1", "--adapter"),)},
            "has no reference picture",
        ),
    ],
)
def test_contradictions_are_refused(pictures, settings, words):
    (linked(pictures / "plain") / "defaults.json").unlink()
    with pytest.raises(IpaError) as refused:
        request(**{"width": 64, "height": 64, **settings})
    assert words in refused.value.message and refused.value.hint


def test_masks_of_nearly_the_picture_s_shape_are_taken(pictures):
    made = request(width=64, height=64, mask=("white.png",), image=(REFERENCE, REFERENCE))
    (prompt,) = made.image_prompts
    assert (prompt.parts, prompt.weights) == (1, (1.0, 1.0))
    assert request(width=1024, height=1016, mask=("white.png",)).image_prompts[0].parts == 1
    assert request(width=64, height=64, mask=("white.png",) * 2, image=(REFERENCE,) * 2).image_prompts[0].parts == 2


def test_a_table_of_layers_says_itself_how_strongly_the_reference_counts():
    (of_table,), (of_mode,) = (
        request(**settings).image_prompts for settings in ({"ip_layers": '{"down": 0.5}'}, {"ip_mode": "style"})
    )
    assert of_table.scale == 1.0 and set(factors(of_table)) == {0.5}
    assert of_mode.scale == make_plan(Settings()).defaults["scale"] and set(factors(of_mode)) == {0.0, 1.0}


def test_adapters_have_their_own_pictures_and_scale(pictures):
    texts = (f"own,image={REFERENCE},scale=0.2", "own,image=white.png")
    made = request(scale=0.9, adapter=tuple(parse(text, "--adapter") for text in texts))
    assert [one.scale for one in made.image_prompts] == [0.2, 0.9] and made.scale == 0.2
    assert [one.source for one in made.sources] == [REFERENCE, "white.png"]
    assert request(ip_adapter="none").image_prompts == () and request(ip_adapter="none").scale == 0.0


def test_names_of_files_are_made_of_seed_scale_number_and_prompt():
    made = request(seed=7, num_images=2, scale=0.25, prompt="a star")
    assert task.name_fields(made, 1) == {"seed": 8, "scale": 0.25, "index": 1, "prompt": "a star", "image": "reference"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image_combine": "average"}, "--image-combine average makes one"),
        ({"mask": ("white.png", "white.png")}, "one mask for all"),
    ],
)
def test_references_drawn_one_by_one_have_nothing_in_common(pictures, settings, words):
    with pytest.raises(UsageError, match=words):
        request(image=(REFERENCE, "white.png"), image_per_picture=True, width=64, height=64, **settings)


def test_adapters_have_as_many_references_drawn_one_by_one_or_one_for_all(pictures):
    texts = [f"own,image={REFERENCE},image=white.png,weight=1,weight=0.5", "own,image=dark.png"]
    made = request(image_per_picture=True, adapter=tuple(parse(text, "--adapter") for text in texts), seed=1)
    assert made.seeds == (1, 1) and [len(one.references) for one in made.each] == [2, 2]
    assert [one.image_prompts[0].weights for one in made.each] == [(1.0,), (0.5,)]
    assert [one.source for one in made.of_picture(1).references] == ["white.png", "dark.png"]
    texts[1] += ",image=dark.png,image=dark.png"
    with pytest.raises(UsageError, match="adapters have 2 and 3 reference pictures"):
        request(image_per_picture=True, adapter=tuple(parse(text, "--adapter") for text in texts))


def test_the_limit_of_pictures_counts_those_of_each_reference(pictures):
    settings = Settings(num_images=4000, image=(REFERENCE, "white.png", "dark.png"), image_per_picture=True)
    plan, loaded = make_plan(settings), load_references(settings, NullReporter())
    with pytest.raises(UsageError, match="that makes 12000 pictures"):
        task.make_requests(settings, plan, loaded)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image_combine": "add", "mask": ("white.png", "white.png")}, "--image-combine add makes them one"),
        ({"fit": "tiles", "mask": ("white.png", "white.png")}, "tiles act in places of their own"),
        ({"fit": "tiles"}, "the tiles of .* are not those of wide.png, 128x64"),
        ({"negative_image": "none.png"}, "none.png does not exist"),
        ({"negative_image": "."}, "one negative image, not 3"),
    ],
)
def test_what_references_cannot_be_at_once_is_refused(pictures, settings, words):
    other = "wide.png" if settings == {"fit": "tiles"} else "white.png"
    with pytest.raises(IpaError, match=words) as refused:
        request(image=(REFERENCE, other), width=64, height=64, **settings)
    assert refused.value.hint
