"""What the parser of the command line refuses, in our words: what is wrong, and what to type next."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ipa_cli import config
from ipa_cli.config.checks import between, number_hint, short
from ipa_cli.config.names import meant
from ipa_cli.config.values import flag_of
from ipa_cli.errors import UsageError, suggest

GIVEN = "given"  # in the meta of a context: what the parser read, by parameter, before it is converted


def explained(error: Any, command: str) -> UsageError:
    """The same refusal as Click's: the classes of its own package, and of Typer's copy, have these names."""
    context, parameter, kind = error.ctx, getattr(error, "param", None), type(error).__name__
    name = " ".join(("ipa", *command.split()))
    page = f"`{name} --help`"
    said = error.message
    if kind == "MissingParameter" and parameter is not None:
        return UsageError(f"{_name(parameter)} is missing", context.command.epilog or page)
    if kind == "NoSuchOption":
        names = [name for one in context.command.get_params(context) for name in (*one.opts, *one.secondary_opts)]
        flag = error.option_name
        if flag.startswith("--") and flag[2:].replace("-", "_") in config.FIELDS:
            # --scales for --scale; for --batch-size the likest name would be another thing.
            ours = flag_of(flag[2:])  # --negative_prompt, as in argparse of diffusers' scripts
            near = suggest(ours, [one for one in names if one.startswith(ours)])
            hint = page if ours in names else f"{page} lists its flags; `ipa generate` has {ours}"
            return UsageError(f"{name} has no flag {flag}{near}", hint)
        return UsageError(f"there is no flag {flag}{_near(flag, names)}", page)
    if kind == "BadOptionUsage":
        does = "takes no value" if "does not take" in said else "needs a value"
        return UsageError(f"{error.option_name} {does}", f"{page} explains {error.option_name}")
    if kind == "BadParameter" and parameter is not None:
        return _wrong_value(parameter, context, said, page)
    if found := re.search(r"No such command '(.*?)'", said):
        return UsageError(f"there is no command {name} {found[1]}{suggest(found[1], context.command.commands)}", page)
    if found := re.search(r"unexpected extra arguments? ?(?:\(s\) )?\((.*)\)", said):
        hint = f"{page} lists the flags"
        if any(one.expose_value for one in context.command.params):  # not those of every command alone
            hint = f"put a value that contains spaces into quotes; {hint}"
        if command == "config show":
            hint = f"ipa config get {found[1].split()[0]}"
        return UsageError(f"{name} takes no '{short(found[1])}' here", hint)
    return UsageError(error.format_message(), page)


def _name(parameter: Any) -> str:
    """What a parameter is called: the long flag, or the name that the help gives an argument."""
    if parameter.param_type_name == "argument":
        return str(parameter.human_readable_name).strip("[]").removesuffix("...").upper()
    return max(parameter.opts, key=len)


def _near(flag: str, known: list[str]) -> str:
    """The flag that was meant, if it is near or has another name here."""
    setting = meant(flag.lstrip("-").replace("-", "_"))
    return suggest(flag_of(setting) if setting in config.FIELDS else flag, known)


def _wrong_value(parameter: Any, context: Any, said: str, page: str) -> UsageError:
    name, value = _name(parameter), next(_of_message(parameter, context, said), None)
    if value is None:
        return UsageError(f"{name}: {said.rstrip('.')}", page)
    hint = f"{page} explains {name}"
    hint = number_hint(value, hint) if parameter.type.name.startswith("float") else hint
    if value == "none" and parameter.name in config.FIELDS:
        hint = f"leave {name} out"
    return UsageError(f"{name} {short(value)}: {_expected(parameter, value, said)}", hint)


def _of_message(parameter: Any, context: Any, said: str) -> Iterator[str]:
    """The value, of several the one that the message of Click quotes."""
    given = context.meta.get(GIVEN, {}).get(parameter.name)
    for value in given if isinstance(given, list | tuple) else [given]:
        if isinstance(value, str) and (repr(value) in said or said.startswith(f"{value} ") or given == value):
            yield value


def _expected(parameter: Any, value: str, said: str) -> str:
    """What a value should be."""
    kind = parameter.type
    if choices := getattr(kind, "choices", None):
        words = [str(getattr(one, "value", one)) for one in choices]
        return f"expected one of {', '.join(words)}{suggest(value, words)}"
    for number, wanted in (("int", "a whole number"), ("float", "a number")):
        if kind.name.startswith(number):
            return f"expected {wanted}{_range(parameter)}"
    return said.rstrip(".")


def _range(parameter: Any) -> str:
    """The numbers that a parameter takes."""
    field = config.FIELDS.get(parameter.name)
    check = field.metadata["check"] if field else None
    low, high = (getattr(parameter.type, end, None) for end in ("min", "max"))
    if isinstance(check, between):
        low, high = check.low, check.high
    if low is None or high is None:
        return "" if low is None else f" of at least {low}"
    return f" from {low} to {high}"
