"""A key holds all it was told, two keys differ in words, and nothing unsafe becomes a folder name."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa_cli.cache import keys
from ipa_cli.cache.keys import GraphKey
from ipa_cli.hardware.gpu import slug

FACTORS = {"torch": "2.11.0", "dtype": "float16", "batch": 2, "unet.norm_eps": 1e-05, "compile": True, "triton": None}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
TABLES = st.dictionaries(st.text(min_size=1), SCALARS | st.lists(SCALARS, max_size=4), max_size=6)


def key(**changes):
    parts = {"backend": "inductor", "gpu": "nvidia-h200-sm90", "shape": "1024x1024-b2", "factors": FACTORS}
    return GraphKey(**{**parts, **changes})


def test_digest_is_pinned():
    # Graphs on people's disks are found by this digest: when it changes, all of them are compiled again.
    assert key().digest == "e015c50a7b3f32705c255b5722b1f82096c01ea053a30564628ce7f96d2ac0e7"
    assert key().folder == f"inductor/nvidia-h200-sm90/1024x1024-b2-{key().digest[:16]}"


def test_order_and_container_do_not_matter():
    turned = dict(reversed(FACTORS.items()))
    assert key(factors=turned) == key()
    assert key(factors={"a": (1, 2)}) == key(factors={"a": [1, 2]})
    assert hash(key(factors=turned)) == hash(key())


def test_later_changes_of_the_caller_do_not_reach_the_key():
    sizes = [1, 2]
    factors = {"sizes": sizes}
    made = key(factors=factors)
    before = made.as_dict()
    sizes.append(3)
    factors["more"] = 1
    assert made.as_dict() == before
    with pytest.raises(TypeError):
        made.factors["more"] = 1


@given(TABLES, st.data())
def test_every_factor_counts(factors, data):
    made = key(factors=factors)
    if factors:
        name = data.draw(st.sampled_from(sorted(factors)))
        value = data.draw(SCALARS.filter(lambda new: keys.canonical(new) != keys.canonical(factors[name])))
        other = key(factors={**factors, name: value})
        assert other != made
        [words] = keys.list_differences(made, other)
        assert words.startswith(f"{name} ")
    assert keys.list_differences(made, made) == []


@given(TABLES)
def test_comes_back_from_json(factors):
    made = key(factors=factors)
    again = keys.from_dict(json.loads(json.dumps(made.as_dict())))
    assert again == made
    assert again.folder == made.folder


def test_true_is_not_one():
    assert key(factors={"a": True}) != key(factors={"a": 1})
    assert keys.list_differences(key(factors={"a": True}), key(factors={"a": 1})) == ["a yes → 1"]


@given(
    st.recursive(
        SCALARS | st.floats(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=8,
    )
    | st.fixed_dictionaries(
        {
            "backend": st.sampled_from(["eager", "..", "a/b", "", 1]),
            "gpu": st.just("cpu"),
            "shape": st.just("x"),
            "factors": TABLES | st.dictionaries(st.text(), st.floats() | st.lists(st.lists(st.integers()))),
        }
    )
)
def test_foreign_json_is_refused_or_a_key(data):
    try:
        made = keys.from_dict(data)
    except ValueError:
        return
    assert made.as_dict() == data


@pytest.mark.parametrize("bad", ["", ".", "..", "../x", "a/b", "A", ".hidden", "a b", "a\n", "x" * 81, None])
@pytest.mark.parametrize("part", ["backend", "gpu", "shape"])
def test_unsafe_folder_names_are_refused(part, bad):
    with pytest.raises(ValueError, match="not a slug"):
        key(**{part: bad})


@pytest.mark.parametrize("bad", [math.nan, math.inf, object(), {"nested": 1}, [[1]], b"bytes", {1, 2}])
def test_what_json_cannot_hold_is_refused(bad):
    with pytest.raises(TypeError, match="'torch' is not JSON"):
        key(factors={"torch": bad})


def test_subclasses_become_plain():
    class Version(str):
        pass

    made = key(factors={"torch": Version("2.11.0")})
    assert type(made.factors["torch"]) is str


@given(st.text())
def test_slug_is_always_a_folder_name(text):
    made = key(gpu=slug(text))
    assert slug(made.gpu) == made.gpu


def test_slug_of_real_names():
    assert slug("NVIDIA H200") == "nvidia-h200"
    assert slug("NVIDIA GeForce RTX 4090 / sm89") == "nvidia-geforce-rtx-4090-sm89"


def test_a_difference_is_described():
    have = key(factors={"torch": "2.11.0", "triton": "3.1", "isa": ["x86_64", "avx2", "amx"], "same": 1})
    want = key(gpu="cpu", factors={"torch": "2.13.0", "batch": 4, "isa": ["x86_64", "avx2", "avx512f"], "same": 1})
    assert keys.list_differences(have, want) == [
        "gpu nvidia-h200-sm90 → cpu",
        "batch none → 4",
        "isa -amx +avx512f",
        "torch 2.11.0 → 2.13.0",
        "triton 3.1 → none",
    ]


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("image tokens", [4], [8], "tokens of the reference pictures 4 → 8"),
        ("image tokens", [4], [], "tokens of the reference pictures 4 → none"),
        ("masks", keys.ABSENT, True, "masks none → yes"),
        ("options.dynamic", [128, 256], None, "options.dynamic 128, 256 → none"),
    ],
)
def test_differences_are_described(name, old, new, words):
    assert keys.describe_change(name, old, new) == words


def test_the_shape_is_reported_where_nothing_else_is():
    have, want = key(shape="64x64-b2"), key(shape="128x128-b2")
    assert keys.list_differences(have, want) == ["shape 64x64-b2 → 128x128-b2"]
    assert keys.list_differences(
        key(shape="64x64-b2", factors={"width": 64}), key(shape="a", factors={"width": 128})
    ) == ["width 64 → 128"]


def test_many_differences_of_one_whole_are_counted():
    model = [f"unet.part_{number} 1 → 2" for number in range(9)]
    options = ["options.a 1 → 2", "options.b 1 → 2"]
    assert keys.summarize_differences(["code has changed", *options, "torch 2.11.0 → 2.13.0", *model]) == (
        "code has changed, options.a 1 → 2, options.b 1 → 2, torch 2.11.0 → 2.13.0, unet: 9 differences"
    )


def test_long_differences_stay_short():
    text = keys.describe_change("options", "a" * 500 + "b", "a" * 500 + "c")
    assert text.startswith("options differs after aaa")
    assert len(text) < 120
    assert keys.describe_change("order", [1, 2], [2, 1]) == "order 1, 2 → 2, 1"


def test_flatten_counts_all_but_what_is_named():
    facts = {
        "torch": "2.13.0",
        "unet": {"sample_size": 128, "_name_or_path": "/x", "blocks": ["a", "b"], "nested": [[1, 2], [3]]},
        "adapter": {"origin": {"path": "x", "url": "y"}},
    }
    assert keys.flatten(facts, opt_out=["unet._name_or_path", "adapter.origin"]) == {
        "torch": "2.13.0",
        "unet.sample_size": 128,
        "unet.blocks": ["a", "b"],
        "unet.nested.0": [1, 2],
        "unet.nested.1": [3],
    }


def test_flatten_refuses_a_stale_opt_out_and_a_clash():
    with pytest.raises(ValueError, match="'torhc'"):
        keys.flatten({"torch": "2.13.0"}, opt_out=["torhc"])
    with pytest.raises(ValueError, match="same name"):
        keys.flatten({"a": {"b": 1}, "a.b": 2})
    with pytest.raises(TypeError, match=r"'unet\.dtype'"):
        keys.flatten({"unet": {"dtype": object()}})
