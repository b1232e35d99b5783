"""Push interventions to the Hugging Face Hub, and load them from it: safetensors, JSON and a model card."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fa_lightning.errors import MissingFileError
from fa_lightning.steering.artefact import SIDECAR_FILE, TENSORS_FILE
from fa_lightning.steering.hub_files import fetch
from fa_lightning.steering.intervention import Intervention

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

CARD_FILE = "README.md"


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    revision: str | None = None,
    base_model: str | None = None,
) -> str:
    """Upload a saved intervention, or a folder of them, to a model repository, in one commit.

    Every intervention is read and checked before anything is sent. A card that the repository already has is left as
    it is, so a license or a text that was added there stays.

    Args:
        folder: what `Intervention.save` wrote, or a folder whose subfolders it wrote, at any depth.
        repo_id: `user/repo`; made if need be.
        private: visibility of a new repository; None takes the account's default.
        revision: branch, made if need be; None is the main one.
        base_model: the Hub name of the model it was fitted on, for the card.

    Returns:
        The repository's address.

    Raises:
        MissingFileError: if there is no intervention in the folder.
        UserError: if one of them is damaged.
    """
    import huggingface_hub

    saved = _saved_in(Path(folder))
    with tempfile.TemporaryDirectory() as staged:
        for subfolder, intervention in saved.items():
            # Saved anew, so that what is sent is what was checked and nothing that lay beside it.
            intervention.save(Path(staged) / subfolder)
        url = str(huggingface_hub.create_repo(repo_id, private=private, exist_ok=True))
        if revision is not None:
            huggingface_hub.create_branch(repo_id, branch=revision, exist_ok=True)
        if not huggingface_hub.file_exists(repo_id, CARD_FILE, revision=revision):
            model_card(saved, repo_id, base_model).save(Path(staged) / CARD_FILE)
        huggingface_hub.upload_folder(
            repo_id=repo_id, folder_path=staged, revision=revision, commit_message="Interventions of fa_lightning"
        )
    return url


def load_from_hub(
    repo_id: str,
    subfolder: str = "",
    revision: str | None = None,
    model: nn.Module | None = None,
    fingerprint: Mapping[str, Any] | None = None,
) -> Intervention:
    """Fetch an intervention, or take it from the Hub's cache, and load it.

    Args:
        repo_id: `user/repo`.
        subfolder: of the repository, where it holds several.
        revision: branch, tag or commit; None is the main branch.
        model: see `Intervention.load`.
        fingerprint: see `Intervention.load`.

    Raises:
        MissingFileError: if the repository cannot be reached or holds no intervention there.
        UserError: if it is damaged or does not fit.
    """
    return Intervention.load(fetch(repo_id, subfolder, revision), model, fingerprint)


def model_card(saved: Mapping[str, Intervention], repo_id: str, base_model: str | None = None) -> ModelCard:
    """A card: what is in the repository and how it is loaded. The license is left to its owner.

    Args:
        saved: subfolder (`.` for the repository itself) to intervention.
        repo_id: `user/repo`.
        base_model: the Hub name of the model they were fitted on.
    """
    from huggingface_hub import ModelCard, ModelCardData

    head = ModelCardData(
        base_model=base_model, library_name="fa_lightning", tags=["activation-steering", "alignment-faking"]
    )
    rows = [_card_row(subfolder, intervention) for subfolder, intervention in saved.items()]
    first = next(iter(saved))
    address = repo_id if first == "." else f"{repo_id}/{first}"
    lines = [
        "---",
        head.to_yaml(),
        "---",
        "",
        f"# {repo_id.split('/')[-1]}",
        "",
        f"Edits of hidden states{f' of {base_model}' if base_model else ''} at inference time, made with fa_lightning.",
        "The license is the owner's to choose: add `license:` to the head of this card.",
        "",
        "| folder | map | site | tokens | strength | gate | seed | fitted on |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        "```python",
        "from fa_lightning.steering.intervention import Intervention",
        "",
        f'intervention = Intervention.load("{address}", model=model)',
        "with intervention.on(model):",
        "    model.generate(**prompts)",
        "```",
        "",
        f"`{SIDECAR_FILE}` says what each was fitted on; `{TENSORS_FILE}` holds its numbers in float32.",
    ]
    return ModelCard("\n".join(lines) + "\n")


def _backbone(intervention: Intervention) -> str:
    facts = intervention.fingerprint.get("backbone")
    if not isinstance(facts, Mapping):
        return "not recorded"
    return ", ".join(f"{name} {facts[name]}" for name in ("architecture", "layers", "hidden_size") if name in facts)


def _card_row(subfolder: str, intervention: Intervention) -> str:
    site = intervention.site
    gate = "none" if intervention.gate is None else type(intervention.gate).__name__
    return (
        f"| {subfolder} | {intervention.regressor.name} | {site.name} | {site.positions} | {intervention.strength:g} "
        f"| {gate} | {intervention.seed} | {_backbone(intervention)} |"
    )


def _saved_in(folder: Path) -> dict[str, Intervention]:
    """The interventions in a folder, by their place in it."""
    places = sorted(path.parent for path in folder.rglob(SIDECAR_FILE))
    if not places:
        raise MissingFileError(
            f"{str(folder)!r} holds no {SIDECAR_FILE}: give what Intervention.save wrote, or a folder of such folders"
        )
    return {saved.relative_to(folder).as_posix(): Intervention.load(saved) for saved in places}
