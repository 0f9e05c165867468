"""The order of work: everything that is slow to change seldom does, each job comes once, and little is read ahead."""

from itertools import count, pairwise

from hypothesis import given
from hypothesis import strategies as st

from ipa_cli.batch.jobs import Job
from ipa_cli.batch.order import ordered, settings_of
from ipa_cli.config import Settings


def changes(jobs, name):
    values = [job.values.get(name) for job in jobs]
    return sum(one != other for one, other in pairwise(values))


def test_models_then_sizes_then_references_change_seldom():
    jobs = [
        Job(n, str(n), {"model": f"m{n % 2}", "width": 64 * (n % 3 + 1), "image": (f"{n % 4}.png",)}) for n in range(48)
    ]
    drawn = list(ordered(jobs))
    assert sorted(job.number for job in drawn) == list(range(48))
    assert changes(drawn, "model") == 1 and changes(drawn, "width") == 4 and changes(drawn, "image") <= 11


def test_a_window_begins_with_the_model_that_is_loaded():
    jobs = [Job(n, str(n), {"model": f"m{n % 2}"}) for n in range(40)]
    assert changes(list(ordered(jobs, window=10)), "model") == 4  # one for each window, none between two


def test_no_more_than_a_window_is_read_ahead():
    read = count()
    endless = (Job(next(read), "x", {}) for _ in count())
    next(ordered(endless, window=16))
    assert next(read) == 16


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=60), st.integers(1, 20))
def test_every_job_comes_once(pairs, window):
    jobs = [Job(n, str(n), {"seed": seed, "steps": steps + 1}) for n, (seed, steps) in enumerate(pairs)]
    assert sorted(job.number for job in ordered(jobs, window)) == list(range(len(pairs)))


def test_references_of_a_job_replace_those_of_the_batch():
    base = Settings(embeds="x.safetensors", steps=3)
    found = settings_of(Job(1, "a", {"image": ("cat.png",)}), base)
    assert found.image == ("cat.png",) and found.embeds is None and found.steps == 3
