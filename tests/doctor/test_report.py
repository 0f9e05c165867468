"""The report for an issue: nothing private is left in it."""

from hypothesis import assume, given
from hypothesis import strategies as st

from ipa_cli.doctor.check import Check
from ipa_cli.doctor.report import redact, text

NAME = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-.", min_size=1, max_size=12)
SECRET = st.text("ABCDEFGHabcdefgh0123456789-_/+", min_size=6, max_size=40)


@given(NAME, SECRET, st.sampled_from(["HF_TOKEN", "MY_API_KEY", "db_password", "AWS_SECRET_ACCESS_KEY"]), st.data())
def test_no_home_user_or_secret_is_left(user, secret, variable, data):
    assume(user not in "<secret>~" and user.strip("."))
    home = f"/home/{user}"
    pieces = [home, f"{home}/x.txt", f"/tmp/torch_{user}", f" {secret} ", f"token={secret}", "torch 2.13", "\n", "(ok)"]
    said = " ".join(data.draw(st.lists(st.sampled_from(pieces))))
    left = redact(said, {variable: secret}, {home}, {user})
    assert secret not in left and home not in left
    assert f"_{user} " not in left + " "


def test_what_looks_like_a_secret_goes_even_when_no_variable_holds_it():
    left = redact("at http://me:hunter2@host/x with hf_abcdefghijkl and ghp_0123456789", {}, set(), set())
    assert left == "at http://host/x with <secret> and <secret>"


def test_a_home_at_the_root_does_not_eat_every_path():
    from ipa_cli.doctor.report import homes

    assert "/" not in homes({"HOME": "/"}) and "" not in homes({"HOME": ""})


def test_the_longest_home_goes_first_and_only_whole():
    left = redact("/home/me/x /home/me-too/x /data/home/me", {}, {"/home/me", "/data/home/me"}, set())
    assert left == "~/x /home/me-too/x ~"


def test_the_report_tells_advice_where_it_is_needed():
    said = text([Check("a", "ok", "fine", "hidden"), Check("b", "failure", "bad", "mend it")], {})
    assert said.startswith("```") and said.endswith("```")
    assert "hidden" not in said and "-> mend it" in said
