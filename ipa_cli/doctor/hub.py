"""The model hub: does it answer, and is there a token? Its text is never shown."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ipa_cli.config.privacy import public_text
from ipa_cli.doctor.check import Check
from ipa_cli.doctor.places import expand, hub_home

SECONDS = 2.0
NAME = "hub"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def reach(environ: Mapping[str, str]) -> Callable[[], Check]:
    """Start asking the hub, and return a function that waits for the answer; both together take at most 2 s."""
    offline = [name for name in OFFLINE if environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    endpoint = (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if offline:
        check = Check(NAME, "skipped", f"offline ({offline[0]}): only models in the cache can be used")
        return lambda: check
    shown = public_text(endpoint)
    if not endpoint.lower().startswith(("http://", "https://")):
        check = Check(
            NAME, "warning", f"HF_ENDPOINT is '{shown}', which is not an http(s) address", "unset HF_ENDPOINT"
        )
        return lambda: check
    answers: list[Check] = []
    # A daemon, because looking up a name has no time limit of its own.
    thread = threading.Thread(target=lambda: answers.append(_ask(endpoint, shown, environ)), daemon=True)
    thread.start()

    def wait() -> Check:
        thread.join(SECONDS)
        return answers[0] if answers else _unreachable(shown, f"no answer within {SECONDS:g} s")

    return wait


@contextmanager
def offline(wanted: bool) -> Iterator[None]:
    """Let huggingface_hub use its cache alone, unless it is imported already: its own timeouts are long.

    This sets the second variable, so that an error message does not name the one that people set.
    """
    before = os.environ.get(OFFLINE[1])
    try:
        if wanted:
            os.environ[OFFLINE[1]] = "1"
        yield
    finally:
        os.environ.pop(OFFLINE[1], None)
        if before is not None:
            os.environ[OFFLINE[1]] = before


def token(environ: Mapping[str, str]) -> Check:
    """Where a token would be taken from; only whether there is one is looked at."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if environ.get(name, "").strip():
            return Check("hub token", "ok", f"there is one ({name})")
    path = expand(environ["HF_TOKEN_PATH"]) if environ.get("HF_TOKEN_PATH") else hub_home(environ) / "token"
    try:
        if path.read_text(encoding="utf-8").strip():
            return Check("hub token", "ok", f"there is one ({path})")
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        return Check("hub token", "warning", f"{path} cannot be read: {why}", "`hf auth login`")
    return Check("hub token", "ok", "none: only gated and private models need one (`hf auth login`)")


def _ask(endpoint: str, shown: str, environ: Mapping[str, str]) -> Check:
    try:
        import httpx2
    except ImportError as error:  # a broken installation
        return Check(NAME, "skipped", f"not checked: {error}", "`pip install ipa-cli`")
    # huggingface_hub's clients trust what these name; OpenSSL itself honours SSL_CERT_FILE.
    bundle = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")
    try:
        trust = ssl.create_default_context(cafile=bundle if bundle and os.path.isfile(bundle) else None)  # noqa: PTH113
        # A redirection is an answer too: it is not followed.
        answer = httpx2.head(endpoint, headers={"User-Agent": "ipa doctor"}, timeout=SECONDS, verify=trust)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        return _unreachable(shown, _cause(error))
    if answer.status_code >= 500:
        return _unreachable(shown, f"it answers with status {answer.status_code}")
    return Check(NAME, "ok", f"{shown} answers")


def _cause(error: BaseException) -> str:
    """The innermost message: httpx2 wraps what the system and OpenSSL say."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error) or type(error).__name__


def _unreachable(shown: str, why: object) -> Check:
    return Check(
        NAME,
        "warning",
        f"cannot reach {shown}: {why}",
        "check the network, proxy (HTTPS_PROXY) and HF_ENDPOINT; models in the cache still work with HF_HUB_OFFLINE=1",
    )
