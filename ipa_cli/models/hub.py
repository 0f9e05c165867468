"""Files from a model hub, with every failure in words; huggingface_hub resumes downloads and draws their bars."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ipa_cli.errors import IpaError
from ipa_cli.result import Reporter


class HubError(IpaError):
    """The hub cannot give what was asked for."""


def cached(repo: str, name: str, revision: str | None) -> Path | None:
    """A file of a repository in the local cache, None when it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, name, revision=revision)
    return Path(found) if isinstance(found, str) else None


def list_files(repo: str, revision: str | None) -> tuple[list[str], str | None, bool]:
    """Names of all files in a repository, its commit, and whether the hub said so.

    Without a network they are those in the local cache, which may have a part of them.
    """
    from huggingface_hub import HfApi, snapshot_download

    with in_words(repo, revision):
        try:
            # One request; `list_repo_files` would try for twenty seconds to reach a hub that is not there.
            info = HfApi().model_info(repo, revision=revision)
            return [file.rfilename for file in info.siblings or ()], info.sha, True
        except Exception as error:
            if not _is_unreachable(error):
                raise
            folder = Path(snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns="*"))
            return [str(p.relative_to(folder).as_posix()) for p in folder.rglob("*") if p.is_file()], folder.name, False


def fetch(
    repo: str,
    revision: str | None,
    files: Iterable[str],
    reporter: Reporter,
    shows_bars: bool,
    commit: str | None = None,
) -> Path:
    """Download `files` unless they are in the local cache and return the folder that holds them.

    What is cached of the `commit` that the revision is known to stand for is not asked for again.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    (enable_progress_bars if shows_bars else disable_progress_bars)()
    root = None
    for name in files:
        with in_words(repo, revision, name):
            here = cached(repo, name, commit or revision)
            if not here and not shows_bars and name.endswith((".safetensors", ".bin")):
                reporter.note(f"downloading {repo}/{name}")
            path = here if here and commit else Path(hf_hub_download(repo, name, revision=revision))
            root = path.parents[len(Path(name).parts) - 1]
    assert root is not None, "nothing to fetch"
    return root


def tensor_shapes(repo: str, name: str, revision: str | None) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the tensors in a `.safetensors` file, from its header alone."""
    from huggingface_hub import HfApi

    here = cached(repo, name, revision)
    if here is not None:
        from ipa_cli.models.weights import header

        return header(here)
    with in_words(repo, revision, name):
        metadata = HfApi().parse_safetensors_file_metadata(repo, name, revision=revision)
    shapes = {key: tuple(tensor.shape) for key, tensor in metadata.tensors.items()}
    if not all(type(number) is int for shape in shapes.values() for number in shape):
        raise HubError(f"{repo}/{name} is not a whole .safetensors file", "choose another file")
    return shapes


def _is_unreachable(error: Exception) -> bool:
    """Whether the network, rather than the request, is at fault (requests and httpx name it differently)."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ConnectionError", "ConnectError", "Timeout", "TimeoutException", "OfflineModeIsEnabled"})


@contextmanager
def in_words(repo: str, revision: str | None, file: str = "a file") -> Iterator[None]:
    """Turn what huggingface_hub raises into a HubError that says what is wrong and what to type."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        SafetensorsParsingError,
    )

    if constants.HF_HUB_OFFLINE and os.environ.get("HF_HUB_OFFLINE"):
        unreachable = HubError(
            f"{repo} is not whole in the local cache, and HF_HUB_OFFLINE keeps it from being downloaded",
            "unset HF_HUB_OFFLINE for the first run, or use --model demo, or a folder",
        )
    else:
        unreachable = HubError(
            f"cannot reach {constants.ENDPOINT}, and {repo} is not whole in the local cache",
            "check the network (HF_ENDPOINT names another hub), or use --load-format dummy or --model demo",
        )
    try:
        yield
    except GatedRepoError as error:
        raise HubError(
            f"{repo} is gated: its licence must be accepted first",
            f"accept it at {constants.ENDPOINT}/{repo}, then set HF_TOKEN or type `hf auth login`",
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{constants.ENDPOINT} has no repository '{repo}', or it is private",
            "check the name; for a private repository set HF_TOKEN or type `hf auth login`",
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repo} has no revision '{revision}'", f"look at {constants.ENDPOINT}/{repo}") from error
    except LocalEntryNotFoundError as error:
        raise unreachable from error
    except EntryNotFoundError as error:
        raise HubError(f"{repo} lacks {file}", f"look at {constants.ENDPOINT}/{repo}/tree/main") from error
    except SafetensorsParsingError as error:
        raise HubError(f"{repo}/{file} is not a whole .safetensors file", "choose another file") from error
    except HFValidationError as error:
        raise HubError(f"'{repo}' is not a repository name", "names look like owner/name") from error
    except HfHubHTTPError as error:
        answer = str(error).splitlines()[0]
        raise HubError(f"{constants.ENDPOINT} answered for {repo}: {answer}", "try again later") from error
    except OSError as error:
        if _is_unreachable(error):
            raise unreachable from error
        if error.errno is not None:
            raise HubError(
                f"cannot store files of {repo}: {error.strerror}",
                "free some space, or let HF_HOME name a folder on another disk",
            ) from error
        raise
    except Exception as error:
        if _is_unreachable(error) or "Protocol" in type(error).__name__ or "Read" in type(error).__name__:
            raise unreachable from error
        raise
