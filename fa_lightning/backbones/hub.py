"""Where a model comes from: a local folder, a GGUF file, the Hub's cache or the Hub, which gets one short request."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from fa_lightning.backbones.gguf import folder_of_gguf, is_gguf
from fa_lightning.errors import MissingFileError, UnavailableError, UserError

REQUEST_SECONDS = 10.0
FOLDER_OR_NAME = (
    "Give a folder that holds config.json, the weights and the tokenizer, or a name on the Hub such as "
    "Qwen/Qwen2.5-0.5B-Instruct"
)


def place_of(what: str, name_or_path: str, revision: str | None = None) -> str:
    """What transformers is to load: a folder as it is, a name, or where the Hub can't be reached, its cached folder.

    Of a GGUF file it is the folder that holds the converted model.

    The Hub is asked once for each `what`. Transformers asks it for a dozen files in turn, some of them also when told
    not to, each retried for half a minute where there is no network, and reports a licence that was not accepted in
    many words.

    Args:
        what: `backbone` or `tokenizer`, for the message.
        name_or_path: Hub name, local folder or GGUF file.
        revision: branch, tag or commit of a model on the Hub; None takes its main one.

    Raises:
        MissingFileError: a path leads nowhere, to another file or to an adapter alone.
        UserError: a folder or file is to be of a revision, which they have none of.
        MissingPackageError: a GGUF file needs a package that is not installed.
        UnavailableError: a GGUF file can't be converted; the Hub has no such model or revision, does not hand it out
            before a licence is accepted, or can't be reached and the model is not in the cache.
    """
    path = Path(name_or_path)
    if revision is not None and name_or_path and (is_gguf(name_or_path) or path.exists()):
        kind = "folder" if path.is_dir() else "file"
        raise UserError(
            f"revision is {revision!r}, but the {what} {name_or_path!r} is a {kind}, which has no revisions: leave "
            "revision out, or give the model's name on the Hub"
        )
    if is_gguf(name_or_path) and not path.is_dir():
        return str(folder_of_gguf(name_or_path))
    if name_or_path and path.is_dir():
        if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
            raise MissingFileError(
                f"the {what} is {name_or_path!r}, but that holds an adapter alone: give the model that it was fitted "
                "on (base_model_name_or_path in its adapter_config.json)"
            )
        return name_or_path
    if path.is_file():
        raise MissingFileError(f"the {what} is {name_or_path!r}, but that is a file: give the folder that it is in")
    if not name_or_path or name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1:
        raise MissingFileError(f"the {what} is {name_or_path!r}, but there is no such folder. {FOLDER_OR_NAME}")
    reason = _why_unreachable(what, name_or_path, revision)
    if reason is None:
        return name_or_path
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(name_or_path, "config.json", revision=revision)
    if isinstance(cached, str):
        return str(Path(cached).parent)
    missing = "it" if revision is None else f"its revision {revision!r}"
    raise UnavailableError(
        f"the {what} {name_or_path!r} (a name (no such folder here)) can't be loaded: {missing} is not in the Hub's "
        f"cache and {reason}. Fetch it once where there is a network (`hf download NAME --local-dir FOLDER`) and give "
        "that folder"
    )


def folder_of(name_or_path: str, revision: str | None = None) -> Path | None:
    """Where a model's files lie: its folder, or the one in the Hub's cache; None where it is in neither.

    Args:
        name_or_path: Hub name or local folder.
        revision: branch, tag or commit on the Hub; None takes the main one that is in the cache.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    if name_or_path.count("/") > 1:
        return None
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        cached = huggingface_hub.try_to_load_from_cache(name_or_path, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


@lru_cache(maxsize=64)
def _why_unreachable(what: str, name: str, revision: str | None) -> str | None:
    """Why the Hub can't hand out a model now; None where it can. Asked once in a process.

    Raises:
        UnavailableError: it never will, or not before the user has done something.
    """
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        url = huggingface_hub.hf_hub_url(name, "config.json", revision=revision)
        huggingface_hub.get_hf_file_metadata(url, timeout=REQUEST_SECONDS, token=huggingface_hub.get_token())
    except GatedRepoError as error:
        login = (
            "the account of the token in use has not got access yet"
            if huggingface_hub.get_token()
            else "then run `hf auth login`, or set HF_TOKEN, and try again"
        )
        raise UnavailableError(
            f"the {what} {name!r} is gated: the Hub hands it out only to those who have accepted its licence. Accept "
            f"it on https://huggingface.co/{name}; {login}"
        ) from error
    except RepositoryNotFoundError as error:
        raise UnavailableError(
            f"the {what} {name!r} is neither a folder here nor a model on the Hub that you may see. Check the "
            "spelling; if it is private, run `hf auth login`, or set HF_TOKEN, and try again"
        ) from error
    except RevisionNotFoundError as error:
        raise UnavailableError(
            f"the {what} {name!r} has no revision {revision!r} on the Hub: give a branch, tag or commit that "
            f"https://huggingface.co/{name}/commits lists, or leave revision out"
        ) from error
    except EntryNotFoundError as error:
        raise UnavailableError(
            f"the {what} {name!r} has no config.json on the Hub, so transformers can't load it (an adapter alone, or "
            f"GGUF?). {FOLDER_OR_NAME}"
        ) from error
    except HFValidationError as error:
        raise UnavailableError(
            f"the {what} is {name!r}, which is neither a folder here nor a possible name on the Hub. {FOLDER_OR_NAME}"
        ) from error
    except Exception as error:
        # The transport's own errors have the names of the library of the day: what is in the cache may be enough.
        offline = type(error).__name__ == "OfflineModeIsEnabled"
        return "HF_HUB_OFFLINE is set" if offline else f"the Hub can't be reached ({type(error).__name__}: {error})"
    return None
