"""Which steps lie within fractions of all steps."""

from __future__ import annotations

from ipa_cli.errors import UsageError


def counts(start: float, end: float, step: int, steps: int) -> bool:
    """Whether `step`, from 0, lies wholly between two fractions of the steps, as in diffusers' control guidance."""
    return start <= step / steps and (step + 1) / steps <= end


def check(start: float, end: float, steps: int, what: str, flag: str) -> None:
    """Raise UsageError unless the fractions are in order and some step lies wholly between them."""
    if start >= end:
        raise UsageError(f"{what} would act from {start:g} to {end:g} of the steps", f"--{flag}-start 0 --{flag}-end 1")
    check_any(start, end, steps, f"widen --{flag}-start to --{flag}-end")


def check_any(start: float, end: float, steps: int, hint: str) -> None:
    """Raise UsageError with this hint unless some step lies wholly between two fractions of the steps."""
    if not any(counts(start, end, step, steps) for step in range(steps)):
        raise UsageError(f"none of the {steps} steps lies wholly between {start:g} and {end:g}", hint)
