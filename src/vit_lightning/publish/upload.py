"""A folder's files in one commit to a repository of the Hugging Face Hub, by its library.

Where the Hub is and who asks is the library's to know: from HF_ENDPOINT, HF_TOKEN, and what
``hf auth login`` has kept.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vit_lightning import __version__
from vit_lightning.errors import InputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_TOKENS = "https://huggingface.co/settings/tokens"
_LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"


@dataclass(frozen=True)
class Repository:
    """A model's repository as the Hub has it before an upload.

    Args:
        repo_id: ``org/name``.
        files: names of its files; None if it is not there yet.
        private: whether only its owners see it.
        commit: its newest.
    """

    repo_id: str
    files: frozenset[str] | None = None
    private: bool = False
    commit: str | None = None


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be a repository's name.

    Raises:
        InputError: by the library's own rule, or without an owner.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    owner, slash, name = repo_id.partition("/")
    if not (owner and slash and name):
        raise InputError(
            f"{repo_id!r} names no repository; give it as org/name, where org is you or an "
            f"organisation of yours on the Hub"
        )
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is no name that the Hub allows: {error}") from None


def look_up(repo_id: str, *, private: bool) -> Repository:
    """What the Hub has under a name, before anything is written.

    Args:
        repo_id: ``org/name``.
        private: whether the upload shall be seen by its owners alone.

    Raises:
        InputError: there is no token, the Hub cannot be asked, or the repository is public
            where a private one is wanted.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    with _said_plainly(repo_id):
        api = _api(repo_id)
        if not get_token():
            raise InputError(
                f"{repo_id}: the Hub takes uploads from known users alone, and there is no token "
                f"here. Make one that may write at {_TOKENS}, then log in with `hf auth login` or "
                f"set HF_TOKEN"
            )
        try:
            info = api.model_info(repo_id)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return Repository(repo_id)
    if private and not info.private:
        raise InputError(
            f"{repo_id} is there already, and public: what is uploaded to it is seen by everyone. "
            f"Make it private in its settings on the Hub first, or take another name"
        )
    files = frozenset(file.rfilename for file in info.siblings or ())
    return Repository(repo_id, files, bool(info.private), info.sha)


def upload(folder: Path, repository: Repository, message: str, *, private: bool) -> str:
    """Upload the files of a folder; others in the repository stay as they are.

    Args:
        folder: without folders in it.
        repository: as :func:`look_up` found it; made if it was not there.
        message: of the commit.
        private: whether a new repository is seen by its owners alone; otherwise that is left to
            the organisation's setting, which is public unless it was changed.

    Returns:
        The repository's address.

    Raises:
        InputError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd

    repo_id = repository.repo_id
    with _said_plainly(repo_id):
        api = _api(repo_id)
        if repository.files is None:
            api.create_repo(repo_id, private=True if private else None, exist_ok=True)
        # Not upload_folder, which may make several commits and does not have the card checked.
        api.create_commit(
            repo_id,
            [CommitOperationAdd(path.name, path) for path in sorted(folder.iterdir())],
            commit_message=message,
            parent_commit=repository.commit,
        )
    return f"{api.endpoint}/{repo_id}"


def _api(repo_id: str) -> "HfApi":
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{repo_id}: nothing is uploaded while HF_HUB_OFFLINE is set; unset it")
    return HfApi(library_name="vit-lightning", library_version=__version__)


@contextmanager
def _said_plainly(repo_id: str) -> Iterator[None]:
    """Turn the errors of the library into sentences."""
    try:
        yield
    except InputError:
        raise
    # The library's errors, those of its HTTP and of its Xet client have no common root.
    except Exception as error:
        raise InputError(f"{repo_id}: {_reason(error, repo_id)}") from None


def _reason(error: Exception, repo_id: str) -> str:
    """What went wrong and what to do, in a sentence's words."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.HfHubHTTPError):
        said = (error.server_message or "").strip().partition("\n")[0]
        return _refusal(error.response.status_code, repo_id) + (f" (it says: {said})" * bool(said))
    # The HTTP client changes its package with the library's version, not the names.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "TimeoutException" in kinds:
        return f"no answer from {constants.ENDPOINT} in time; try again"
    if "TransportError" in kinds:
        return f"no connection to {constants.ENDPOINT} ({_first_line(error)}); try again"
    if isinstance(error, ValueError) and "metadata" in str(error):
        words = "; ".join(line.strip("- ") for line in str(error).splitlines()[1:])
        return f"the Hub refuses the card: {words}. Licenses that it knows: {_LICENSES}"
    return _first_line(error)


def _refusal(status: int, repo_id: str) -> str:
    owner = repo_id.partition("/")[0]
    reasons = {
        401: f"the Hub does not accept the token; make a new one at {_TOKENS}, then log in with "
        f"`hf auth login` or set HF_TOKEN",
        403: f"the token may not write there. If {owner} is you or an organisation of yours, make "
        f"a token that may write to it at {_TOKENS}; if the name is someone else's, take another",
        404: "the Hub has no such repository for this token; check the name",
        409: "someone else has changed it at the same time; push again",
        412: "someone else has changed it at the same time; push again",
        429: "the Hub has been asked too often; wait a little and push again",
    }
    return reasons.get(status, f"the Hub answered {status}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
