"""What the parser of the command line refuses: one line that says what is wrong, one that says what to type next."""

import pytest


@pytest.mark.parametrize(
    ("typed", "message", "hint"),
    [
        ("generate --scale abc", "--scale abc: expected a number from 0 to 10", "explains --scale"),
        ("generate -s abc", "--scale abc: expected a number from 0 to 10", "explains --scale"),
        ("generate --steps 1.5", "--steps 1.5: expected a whole number from 1 to 1000", "explains --steps"),
        ("generate --scale 0,8", "--scale 0,8: expected a number from 0 to 10", "write it with a point: 0.8"),
        ("generate --image-weight 1 --image-weight x", "--image-weight x: expected a number", "explains"),
        ("generate --steps 25,0", "--steps 25,0: expected a whole number from 1 to 1000", "explains --steps"),
        (
            "generate --seed -1",
            "--seed -1: expected a number from 0 to 9223372036854775807; without a seed",
            "explains",
        ),
        ("generate --size 512", "'512' is not a picture size", "512x512 for a square"),
        ("generate --lora demo:0.8", "--lora: ':0.8' names no file in demo", "demo,weight=0.8"),
        ("generate --control demo:0.8,image=a.png", "--control: ':0.8' names no file in demo", "scale=0.8"),
        ("generate --dtype fp16", "--dtype fp16: expected one of auto, float16, bfloat16, float32; did you", "--help"),
        ("generate --lora demo:ink.safetensors", "the LoRA 'demo' is one: it has no 'ink.safetensors'", "--lora demo"),
        ("generate --steps none", "--steps none: expected a whole number from 1 to 1000", "leave --steps out"),
        ("generate --quality 101", "--quality 101: expected a whole number from 1 to 100", "explains --quality"),
        ("batch jobs.csv --actors 0", "--actors 0: expected a whole number of at least 1", "explains --actors"),
        ("generate --format jgp", "--format jgp: expected one of png, jpg, ", "`ipa generate --help`"),
        ("generate --samplers x", "there is no flag --samplers; did you mean '--sampler'?", "`ipa generate --help`"),
        ("samplers --nope", "there is no flag --nope", "`ipa samplers --help`"),
        ("sweep-scale --batch-size 4", "ipa sweep-scale has no flag --batch-size", "`ipa generate` has --batch-size"),
        ("sweep-scale --batch_size 4", "ipa sweep-scale has no flag --batch_size", "`ipa generate` has --batch-size"),
        ("generate --num_images 4", "ipa generate has no flag --num_images; did you mean '--num-images'?", "--help`"),
        ("generate --seed", "--seed needs a value", "explains --seed"),
        ("generate --preview=yes", "--preview takes no value", "explains --preview"),
        ("generate a red fox", "ipa generate takes no 'a red fox' here", "into quotes"),
        ("config show steps", "ipa config show takes no 'steps' here", "ipa config get steps"),
        ("batch", "JOBS is missing", "ipa batch jobs.jsonl "),
        ("config get", "NAME is missing", "ipa config get steps"),
        ("config sett steps 3", "there is no command ipa config sett; did you mean 'set'?", "`ipa config --help`"),
        ("config set steps none", "steps=none: expected a whole number", "`ipa config unset steps`"),
        ("config set batch_size none", "batch_size=none: expected a whole number", "`ipa config unset batch_size`"),
        ("config set scale 0,8", "scale=0,8: expected a number", "write it with a point: 0.8"),
        ("generate --lora a,weight=0,5", "--lora: weight=0,5: expected a number", "write it with a point: 0.5"),
    ],
)
def test_what_is_wrong_and_what_to_type(ipa, world, typed, message, hint):
    ran = ipa("--json", *typed.split())
    error = ran.error()
    assert ran.exit_code == 2 and error["type"] == "UsageError" and world.files() == []
    assert error["message"].startswith(message) and hint in error["hint"], error


def test_quotes_are_no_help_to_a_command_that_takes_no_values(ipa):
    assert ipa("config", "path", "steps", "--json").error()["hint"] == "`ipa config path --help` lists the flags"


def test_a_variable_with_a_decimal_comma(ipa, monkeypatch):
    monkeypatch.setenv("IPA_SCALE", "0,8")
    assert ipa("generate", "--json").error()["hint"] == "write it with a point: 0.8"
