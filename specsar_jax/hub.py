"""Networks on a model hub: folders of `specsar_jax.export --format folder`, pushed to and pulled from a repository.

Enters: addresses `hub:owner/name` or `hub:owner/name@revision`. Leaves: the path of the bundle in the cache of
huggingface_hub, which is the only library that speaks with the hub: where the hub is (HF_ENDPOINT), who one is (HF_TOKEN) and whether to
stay offline (HF_HUB_OFFLINE) is what it takes from the environment. Needs the extra `hub`.
"""

import textwrap
from pathlib import Path
from typing import Any

PREFIX = "hub:"

BUNDLE_NAME = "model.safetensors"
"""The bundle in a folder, by the name that hubs expect."""


def is_address(path: Path | str) -> bool:
    """Whether this is an address on a hub, not a path."""
    return str(path).startswith(PREFIX)


def pull(address: Path | str) -> Path:
    """The bundle of a repository, from the cache if it is there and the hub has no newer one, or cannot be asked.

    Raises:
        ValueError: no address, no such repository or revision, no bundle in it, or neither a hub nor a copy in the cache.
    """
    repository, _, revision = str(address).removeprefix(PREFIX).partition("@")
    library = _library()
    check_name(repository)
    with_revision = {"revision": revision} if revision else {}
    try:
        return Path(library.hf_hub_download(repository, BUNDLE_NAME, **with_revision))
    except Exception as error:  # of the network, of the hub, of the library, each in its own words
        raise ValueError(f"{address} cannot be had from the hub: {_reason(error)}") from None


def push(folder: Path, repository: str) -> str:
    """Uploads a folder of an export; makes the repository, a private one, if there is none.

    Returns:
        the address of what was pushed.

    Raises:
        ValueError: not a name of a repository, or the hub refuses or cannot be reached.
    """
    library = _library()
    check_name(repository)
    api = library.HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="specsar_jax.export")
    except Exception as error:  # as above
        raise ValueError(
            f"{folder} cannot be pushed to {repository}: {_reason(error)}; it stays, push it with: hf upload {repository} {folder}"
        ) from None
    return f"{PREFIX}{repository}@{commit.oid}"


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ModuleNotFoundError:
        raise ValueError("a model hub needs huggingface_hub: pip install 'specsar_jax[hub]'") from None
    return huggingface_hub


def check_name(repository: str) -> None:
    """Raises ValueError unless this may be a repository's name, or if the library is missing."""
    _library()
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
        valid = repository.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise ValueError(
            f"{repository[:100]!r} is no name of a repository on a hub; expected owner/name, to read hub:owner/name"
        )


def _reason(error: Exception) -> str:
    """The beginning of what the library says, which goes on for paragraphs."""
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 240, placeholder=' ...')}"
