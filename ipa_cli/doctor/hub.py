"""The model hub: does it answer, and is there a token (never which)?"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ipa_cli.config.privacy import public_text
from ipa_cli.doctor.check import Check
from ipa_cli.doctor.places import expand, hub_home

SECONDS = 2.0
NAME = "hub"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def reach(environ: Mapping[str, str]) -> Callable[[], Check]:
    """Begin to ask the hub, and return what waits for the answer: both together take at most 2 s."""
    offline = [name for name in OFFLINE if environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    endpoint = (environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if offline:
        check = Check(NAME, "skipped", f"offline ({offline[0]}): only models in the cache can be used")
        return lambda: check
    shown = public_text(endpoint)
    if not endpoint.lower().startswith(("http://", "https://")):
        check = Check(NAME, "warning", f"HF_ENDPOINT is '{shown}', which is no http(s) address", "unset HF_ENDPOINT")
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
    """Let huggingface_hub look into its cache alone, unless it is imported already: its own patience is long.

    By the second variable, so that a failure does not speak of the one that people set.
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
    """Where a token would be taken from; its text is not looked at further than whether there is one."""
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


class _Still(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """A redirection is an answer too."""


def _ask(endpoint: str, shown: str, environ: Mapping[str, str]) -> Check:
    # huggingface_hub's clients trust what these name; OpenSSL itself honours SSL_CERT_FILE.
    bundle = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")
    try:
        trust = ssl.create_default_context(cafile=bundle if bundle and os.path.isfile(bundle) else None)  # noqa: PTH113
        opener = urllib.request.build_opener(_Still, urllib.request.HTTPSHandler(context=trust))
        request = urllib.request.Request(endpoint, method="HEAD", headers={"User-Agent": "ipa doctor"})
        with opener.open(request, timeout=SECONDS) as answer:
            code = answer.status
    except urllib.error.HTTPError as error:
        code = error.code
        error.close()
    except urllib.error.URLError as error:
        reason = error.reason
        return _unreachable(shown, getattr(reason, "verify_message", "") or getattr(reason, "strerror", "") or reason)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _unreachable(shown, f"{type(error).__name__}: {error}")
    if code >= 500:
        return _unreachable(shown, f"it answers with status {code}")
    return Check(NAME, "ok", f"{shown} answers")


def _unreachable(shown: str, why: object) -> Check:
    return Check(
        NAME,
        "warning",
        f"cannot reach {shown}: {why}",
        "check the network, proxy (HTTPS_PROXY) and HF_ENDPOINT; models in the cache still work with HF_HUB_OFFLINE=1",
    )
