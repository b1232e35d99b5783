"""Interventions on the Hub, with a folder in the Hub's place."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch

from fa_lightning.activations.sites import Site
from fa_lightning.steering.artefact import SIDECAR_FILE, TENSORS_FILE
from fa_lightning.steering.hub import load_from_hub, push_to_hub
from fa_lightning.steering.hub_files import local_folder
from fa_lightning.steering.intervention import Intervention


class FolderHub:
    """A Hub in a folder: one subfolder per repository and branch, and a list of what was asked of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []
        self.private: dict[str, bool | None] = {}

    def place(self, repo_id: str, revision: str | None) -> Path:
        return self.root / repo_id / (revision or "main")

    def create_repo(self, repo_id: str, *, private: bool | None = None, exist_ok: bool = False) -> str:
        assert exist_ok
        self.calls.append("create_repo")
        self.private[repo_id] = private
        self.place(repo_id, None).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/{repo_id}"

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool = False) -> None:
        assert exist_ok
        self.place(repo_id, branch).mkdir(parents=True, exist_ok=True)

    def file_exists(self, repo_id: str, filename: str, *, revision: str | None = None) -> bool:
        return (self.place(repo_id, revision) / filename).is_file()

    def upload_folder(
        self, *, repo_id: str, folder_path: str, revision: str | None = None, commit_message: str = ""
    ) -> None:
        assert commit_message
        self.calls.append("upload_folder")
        shutil.copytree(folder_path, self.place(repo_id, revision), dirs_exist_ok=True)

    def snapshot_download(self, repo_id: str, *, revision: str | None = None, allow_patterns: list[str]) -> str:
        self.calls.append("snapshot_download")
        source, target = self.place(repo_id, revision), self.root / "cache"
        if not source.is_dir():
            from huggingface_hub.errors import LocalEntryNotFoundError

            raise LocalEntryNotFoundError("Cannot reach the Hub.\nMore.")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for path in source.rglob("*"):
            name = path.relative_to(source).as_posix()
            if path.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / name)
        return str(target)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderHub:
    import huggingface_hub

    fake = FolderHub(tmp_path / "hub")
    for name in ("create_repo", "create_branch", "file_exists", "upload_folder", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(fake, name))
    return fake


def saved(folder: Path, layer: int = 1, **options: Any) -> Path:
    backbone = {"architecture": "llama", "layers": "2", "hidden_size": "3"}
    shift = torch.tensor([1.0, -2.0, 0.1]) * (layer + 1)
    edit = Intervention(Site(layer, positions="last"), shift, 0.5, {"backbone": backbone}, 7, **options)
    return edit.save(folder)


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_pushed_and_loaded_again_bit_for_bit(hub: FolderHub, tmp_path: Path) -> None:
    folder = saved(tmp_path / "mine")
    (folder / "notes.txt").write_text("private")
    assert push_to_hub(folder, "me/vectors", private=True) == "https://huggingface.co/me/vectors"
    assert hub.private == {"me/vectors": True}
    assert files_in(hub.place("me/vectors", None)) == ["README.md", SIDECAR_FILE, TENSORS_FILE]
    for loaded in (load_from_hub("me/vectors"), Intervention.load("me/vectors")):
        original = Intervention.load(folder)
        assert torch.equal(loaded.regressor.state_dict()["shift"], original.regressor.state_dict()["shift"])
        assert (loaded.site, loaded.strength, loaded.seed) == (original.site, 0.5, 7)
        assert loaded.fingerprint == original.fingerprint
    assert files_in(hub.root / "cache") == [SIDECAR_FILE, TENSORS_FILE]
    with pytest.raises(ValueError, match=r"fingerprint\.backbone"):
        load_from_hub("me/vectors", fingerprint={"backbone": {"architecture": "gpt2"}})


def test_a_folder_of_interventions_keeps_its_places_and_branches_are_apart(hub: FolderHub, tmp_path: Path) -> None:
    saved(tmp_path / "all" / "ridge", 0)
    saved(tmp_path / "all" / "stack" / "0", 1)
    push_to_hub(tmp_path / "all", "me/many", revision="try")
    assert not files_in(hub.place("me/many", None))
    assert Intervention.load(hub.place("me/many", "try") / "stack" / "0").site.layer == 1
    assert load_from_hub("me/many", "ridge", revision="try").site.layer == 0
    push_to_hub(tmp_path / "all", "me/many")
    assert Intervention.load("me/many/stack/0").site.layer == 1
    with pytest.raises(FileNotFoundError, match=r"holds no intervention.safetensors .* name the subfolder"):
        Intervention.load("me/many")


def test_the_card_says_what_is_there_and_leaves_the_license_open(hub: FolderHub, tmp_path: Path) -> None:
    push_to_hub(saved(tmp_path / "mine"), "me/vectors", base_model="org/Base-7b")
    card = hub.place("me/vectors", None) / "README.md"
    text = card.read_text()
    head = text.split("---")[1]
    assert "base_model: org/Base-7b" in head
    assert "license" not in head
    assert "| . | mean_shift | layers.1.residual | last | 0.5 | none | 7 | architecture llama, layers 2" in text
    assert 'Intervention.load("me/vectors", model=model)' in text
    # What the owner wrote stays.
    card.write_text("license: mit")
    push_to_hub(tmp_path / "mine", "me/vectors")
    assert card.read_text() == "license: mit"


def test_nothing_is_sent_unless_everything_is_whole(hub: FolderHub, tmp_path: Path) -> None:
    saved(tmp_path / "all" / "good")
    (saved(tmp_path / "all" / "zbad") / TENSORS_FILE).write_bytes(b"short")
    with pytest.raises(ValueError, match="truncated or damaged"):
        push_to_hub(tmp_path / "all", "me/vectors")
    with pytest.raises(FileNotFoundError, match=r"holds no intervention\.json"):
        push_to_hub(tmp_path / "nowhere", "me/vectors")
    assert hub.calls == []


def test_what_cannot_be_fetched_says_why(hub: FolderHub) -> None:
    with pytest.raises(FileNotFoundError, match="'me/none' was not fetched from the Hub: Cannot reach the Hub"):
        load_from_hub("me/none")
    with pytest.raises(FileNotFoundError, match="no folder 'checkpoints/none' here, and 'checkpoints/none' was not"):
        Intervention.load("checkpoints/none")


@pytest.mark.parametrize("name", ["none", "/abs/olute", "./me/repo", "../me/repo", "me/../repo", "me/repo/../x", ""])
def test_what_is_no_hub_name_is_not_asked_for(hub: FolderHub, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        local_folder(name or "no")
    assert hub.calls == []


def test_a_folder_here_comes_before_the_hub(hub: FolderHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(Path("me/vectors"))
    assert Intervention.load("me/vectors").site.layer == 1
    assert hub.calls == []
