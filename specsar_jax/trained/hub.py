"""Pushes networks to, and pulls them from, repositories of a model hub, as folders of `specsar_jax.export --format folder`.

Enters: an address `hub:owner/name` or `hub:owner/name@revision`. Leaves: the path of the bundle in the cache of huggingface_hub,
the only library here that talks to the hub. It takes the hub's address (HF_ENDPOINT), the user's token (HF_TOKEN) and whether to
stay offline (HF_HUB_OFFLINE) from the environment. Needs the extra `hub`.
"""

import textwrap
from pathlib import Path
from typing import Any

from tfds_dwplus.command_line import local_path, path
from tfds_dwplus.files.addresses import shown_in

PREFIX = "hub:"

BUNDLE_NAME = "model.safetensors"
"""File name of the bundle in a folder, as hubs expect it."""


def is_address(path: Path | str) -> bool:
    """Returns whether this is an address on a hub, not a path."""
    return str(path).startswith(PREFIX)


def network(text: str) -> Path:
    """Parses where a trained network is among the arguments of a command, `type=network`: a path, or an address on a hub."""
    return Path(text) if is_address(text) else path(text)


def place_of(network: Path | str) -> Path:
    """Returns where a trained network is: an address on a hub as it is, else as `local_path`."""
    return Path(network) if is_address(network) else local_path(network)


def pull(address: Path | str) -> Path:
    """Downloads the bundle of a repository; uses the copy in the cache if it is current, or if the hub cannot be reached.

    Raises:
        ValueError: not an address, no such repository or revision, no bundle in it, or no hub and no copy in the cache.
    """
    repository, _, revision = str(address).removeprefix(PREFIX).partition("@")
    library = _library()
    check_name(repository)
    with_revision = {"revision": revision} if revision else {}
    try:
        return Path(library.hf_hub_download(repository, BUNDLE_NAME, **with_revision))
    except Exception as error:  # network, hub and library raise many types
        raise ValueError(f"{address} cannot be had from the hub: {_reason(error)}") from None


def push(folder: Path, repository: str) -> str:
    """Uploads an exported folder; creates the repository, as a private one, if it does not exist.

    Returns:
        The address of the pushed revision.

    Raises:
        ValueError: not a name of a repository, or the hub refuses or cannot be reached.
    """
    library = _library()
    check_name(repository)
    api = library.HfApi()
    try:
        api.create_repo(repository, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="specsar_jax.export")
    except Exception as error:  # as in `pull`
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
    """Raises ValueError if this cannot be the name of a repository, or if the library is missing."""
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
    """Returns the beginning of the library's message, which may be paragraphs long."""
    return f"{type(error).__name__}: {textwrap.shorten(shown_in(str(error)), 240, placeholder=' ...')}"
