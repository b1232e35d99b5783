"""The store gives back what was written, survives kills and full disks, and refuses what is damaged or not its own."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from safetensors import safe_open

from fa_lightning.activations import store as store_module
from fa_lightning.activations.store import (
    DTYPES,
    ActivationStore,
    StoreDamagedError,
    StoreIncompleteError,
    StoreMismatchError,
    sha256_of,
)
from fa_lightning.activations.store_writer import StoreFullError, StoreWriter

SITES = ["layers.0.residual", "layers.1.mlp"]
VARIANTS = ("faking", "aligned")
FINGERPRINT = {"backbone": "tiny", "adapters": {"faking": "a", "aligned": "b"}, "scenarios": {"seed": 0}, "lr": 0.1}
HIDDEN = 4
ROWS = [3, 5, 2, 4]
SHARDS = list(range(len(ROWS)))


def shard_content(shard_id, rows=None):
    """States and row vectors that tell shard, site, variant, row and unit apart; all exact in every dtype."""
    rows = ROWS[shard_id] if rows is None else rows
    index = torch.arange(rows)
    # Seven bits for shard, row and unit, the exponent for the site, the sign for the variant: exact in bfloat16 too.
    grid = (20 * shard_id + 4 * index[:, None] + torch.arange(HIDDEN) + 1).float()
    tensors = {
        site: {variant: grid * 32**s * (-1) ** v for v, variant in enumerate(VARIANTS)} for s, site in enumerate(SITES)
    }
    vectors = {
        "example": index + 100 * shard_id,
        "position": index + 1,
        "decision": index % 2 == 0,
        "group": index * (1 << 40) + shard_id,
        "cell": index % 3,
    }
    return tensors, vectors


def split_of(shard_id):
    return "validation" if shard_id == 2 else "train"


def write_all(folder, dtype="float32", shards=SHARDS, fingerprint=FINGERPRINT, **ranks):
    writer = StoreWriter(folder, fingerprint, SITES, VARIANTS, dtype, **ranks)
    written = writer.pending(shards)
    for shard_id in written:
        writer.write(shard_id, split_of(shard_id), *shard_content(shard_id))
    return writer, written


@pytest.fixture
def folder(tmp_path):
    writer, _ = write_all(tmp_path / "store")
    writer.finish(SHARDS)
    return writer.folder


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip(tmp_path, dtype):
    writer, _ = write_all(tmp_path, dtype)
    writer.finish(SHARDS)
    store = ActivationStore.open(tmp_path)
    assert (store.rows("train"), store.rows("validation"), store.rows("test")) == (12, 2, 0)
    assert store.splits == ("train", "validation")
    assert (store.sites, store.variants, store.dtype, store.hidden_size) == (tuple(SITES), VARIANTS, dtype, HIDDEN)
    train = [shard_content(shard_id) for shard_id in (0, 1, 3)]
    block = store.block("train", 0, 12)
    assert set(block) == {*SITES, "example", "position", "decision", "group", "cell"}
    for site in SITES:
        for variant, states in zip(VARIANTS, block[site], strict=True):
            assert states.dtype == DTYPES[dtype]
            assert torch.equal(states.float(), torch.cat([tensors[site][variant] for tensors, _ in train]))
    for name, kind in {
        "example": torch.int64,
        "position": torch.int32,
        "decision": torch.bool,
        "cell": torch.int8,
    }.items():
        vector = torch.cat([vectors[name] for _, vectors in train])
        assert block[name].dtype == kind
        assert torch.equal(block[name], vector.to(kind))
        assert torch.equal(getattr(store, name)("train"), vector.to(kind))
    assert store.group("validation").tolist() == [2, (1 << 40) + 2]
    assert store.group("test").tolist() == []


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (2, 4), (3, 8), (1, 12), (7, 9), (11, 12)])
def test_slices_within_and_across_shards(folder, start, stop):
    store = ActivationStore.open(folder)
    whole = store.block("train", 0, 12)
    block = store.block("train", start, stop, [SITES[1]])
    assert SITES[0] not in block
    assert torch.equal(block[SITES[1]][1], whole[SITES[1]][1][start:stop])
    assert torch.equal(block["example"], whole["example"][start:stop])


def test_block_ranges_cover_every_row_once_and_cross_no_boundary(folder):
    store = ActivationStore.open(folder)
    assert store.block_ranges("train", 4) == [(0, 3), (3, 7), (7, 8), (8, 12)]
    assert store.block_ranges("train", 100) == [(0, 3), (3, 8), (8, 12)]
    assert store.block_ranges("validation", 1) == [(0, 1), (1, 2)]
    assert store.block_ranges("test", 4) == []
    with pytest.raises(ValueError, match="size is 0"):
        store.block_ranges("train", 0)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 13), (5, 5)])
def test_rows_outside_the_split_are_refused(folder, start, stop):
    with pytest.raises(IndexError, match="has 12"):
        ActivationStore.open(folder).block("train", start, stop)


def test_unknown_site_is_refused(folder):
    with pytest.raises(KeyError, match=r"layers\.9\.residual is not in the store"):
        ActivationStore.open(folder).block("train", 0, 1, ["layers.9.residual"])


def test_only_the_slices_asked_for_are_read(folder):
    store = ActivationStore.open(folder)
    read = []

    class Spy:
        """Stands for a file handle that can give slices only, and for its slices."""

        def __init__(self, file, key=None):
            self.file, self.key = file, key

        def get_slice(self, key):
            return Spy(self.file, key)

        def __getitem__(self, rows):
            read.append((self.file, self.key, rows.start, rows.stop))
            with safe_open(folder / self.file, framework="pt") as handle:
                return handle.get_slice(self.key)[rows]

    store._handles = {shard.file: Spy(shard.file) for shard in store.shards}
    store.block("train", 4, 6, [SITES[0]])
    assert {(file, start, stop) for file, _, start, stop in read} == {("shard-00001.safetensors", 1, 3)}
    assert {key for _, key, _, _ in read if not key.startswith("rows|")} == {f"{SITES[0]}|{v}" for v in VARIANTS}


def test_few_shards_are_open_at_a_time(folder, monkeypatch):
    monkeypatch.setattr(store_module, "OPEN_SHARDS", 2)
    store = ActivationStore.open(folder)
    store.block("train", 0, 12)
    assert list(store._handles) == ["shard-00001.safetensors", "shard-00003.safetensors"]
    assert store.example("train").tolist() == [0, 1, 2, 100, 101, 102, 103, 104, 300, 301, 302, 303]


def test_editing_a_block_leaves_the_store_as_it_is(folder):
    store = ActivationStore.open(folder)
    block = store.block("train", 0, 3)
    block[SITES[0]][0].fill_(-7)
    ActivationStore.open(folder)
    assert not (store.block("train", 0, 3)[SITES[0]][0] == -7).any()


def test_a_pickled_store_reads_on(folder):
    store = ActivationStore.open(folder)
    expected = store.block("train", 2, 9)
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy.block("train", 2, 9)[SITES[0]][1], expected[SITES[0]][1])


def test_the_shards_are_plain_safetensors(folder):
    with safe_open(folder / "shard-00002.safetensors", framework="pt") as file:
        assert set(file.keys()) == {f"{site}|{variant}" for site in SITES for variant in VARIANTS} | {
            f"rows|{name}" for name in ("example", "position", "decision", "group", "cell")
        }
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["rows"] == {"train": 12, "validation": 2}
    assert manifest["versions"]["torch"] == torch.__version__
    assert [shard["bytes"] for shard in manifest["shards"]] == [
        (folder / f"shard-0000{index}.safetensors").stat().st_size for index in SHARDS
    ]


# Refusals


def test_no_manifest_is_no_store(tmp_path, folder):
    with pytest.raises(StoreIncompleteError, match=r"has no manifest\.json"):
        ActivationStore.open(tmp_path / "nowhere")
    (folder / "manifest.json").unlink()
    with pytest.raises(StoreIncompleteError, match=r"not finished. Run the capture"):
        ActivationStore.open(folder)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"backbone": "large"}, "backbone is 'tiny' in the activation store .* but 'large' is asked for"),
        ({"scenarios": {"seed": 1}}, r"scenarios\.seed is 0 .* but 1 is"),
        ({"scenarios": {"seed": 0, "limit": 5}}, r"scenarios\.limit is None .* but 5 is"),
        ({"dtype": "bfloat16"}, "dtype is 'float32' .* 'bfloat16'"),
        ({"sites": ["layers.0.residual"]}, "sites is .* asked for: delete that folder"),
        ({"new_field": 1}, "new_field is None"),
    ],
)
def test_another_store_than_expected_is_refused(folder, expected, message):
    with pytest.raises(StoreMismatchError, match=message):
        ActivationStore.open(folder, expected)


def test_the_expected_store_is_opened(folder):
    ActivationStore.open(folder, {**FINGERPRINT, "sites": tuple(SITES), "hidden_size": HIDDEN})


@pytest.mark.parametrize("place", [0.1, 0.5, 0.999])
def test_a_flipped_byte_is_found(folder, place):
    path = folder / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        StoreDamagedError, match=r"shard-00001\.safetensors fails its checksum .* run the capture again"
    ):
        ActivationStore.open(folder)
    ActivationStore.open(folder, verify=False)


def test_a_file_cut_short_or_gone_is_found_without_verifying(folder):
    path = folder / "shard-00003.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    message = rf"shard-00003\.safetensors has {size - 1} bytes, but {size} were written"
    with pytest.raises(StoreDamagedError, match=message):
        ActivationStore.open(folder, verify=False)
    path.unlink()
    with pytest.raises(StoreDamagedError, match=r"shard-00003\.safetensors is missing"):
        ActivationStore.open(folder, verify=False)


def test_a_broken_manifest_or_another_version_is_refused(folder):
    path = folder / "manifest.json"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(StoreDamagedError, match=r"manifest\.json cannot be read"):
        ActivationStore.open(folder)
    path.write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(StoreMismatchError, match="version is 2"):
        ActivationStore.open(folder)


def test_a_writer_refuses_a_folder_made_from_something_else(folder):
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(
        StoreMismatchError, match=r"adapters\.faking is 'a' in .* but 'c' is .* delete that folder .* or"
    ):
        StoreWriter(folder, {**FINGERPRINT, "adapters": {"faking": "c", "aligned": "b"}}, SITES)
    with pytest.raises(StoreMismatchError, match="sites is"):
        StoreWriter(folder, FINGERPRINT, SITES[:1])
    with pytest.raises(StoreMismatchError, match="dtype is 'float32'"):
        StoreWriter(folder, FINGERPRINT, SITES, dtype="float16")
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, rows: tensors.pop(SITES[0]), r"tensors holds .* but exactly"),
        (lambda tensors, rows: tensors[SITES[1]].pop("faking"), r"tensors\['layers\.1\.mlp'\] holds"),
        (lambda tensors, rows: rows.pop("group"), "rows holds"),
        (lambda tensors, rows: rows.update(cell=torch.zeros(2)), r"rows\['cell'\] has shape \(2,\), but \(3,\)"),
        (lambda tensors, rows: tensors[SITES[1]].update(aligned=torch.zeros(3, 5)), r"layers\.1\.mlp \(aligned\) have"),
        (lambda tensors, rows: tensors[SITES[0]].update(faking=torch.zeros(3)), r"\(rows, hidden\) is needed"),
        (lambda tensors, rows: tensors[SITES[0]].update(faking=torch.full((3, HIDDEN), 1e5)), "use dtype bfloat16"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path, change, message):
    writer = StoreWriter(tmp_path, FINGERPRINT, SITES, dtype="float16")
    tensors, rows = shard_content(0)
    change(tensors, rows)
    with pytest.raises(ValueError, match=message):
        writer.write(0, "train", tensors, rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shard_id", ["a/b", "", "..", "-1/x", "shard 1"])
def test_bad_shard_ids(tmp_path, shard_id):
    with pytest.raises(ValueError, match="shard_id is"):
        StoreWriter(tmp_path, FINGERPRINT, SITES).is_done(shard_id)


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        StoreWriter(tmp_path, {}, SITES, dtype="int8")
    with pytest.raises(ValueError, match="rank is 2, but with world_size 2"):
        StoreWriter(tmp_path, {}, SITES, rank=2, world_size=2)
    with pytest.raises(ValueError, match="sites is empty"):
        StoreWriter(tmp_path, {}, [])
    with pytest.raises(ValueError, match="names a shard twice"):
        StoreWriter(tmp_path, {}, SITES).pending([1, "00001"])


# Resuming


def test_a_second_run_writes_nothing(folder):
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    writer, written = write_all(folder)
    assert written == []
    writer.finish(SHARDS)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    ActivationStore.open(folder, FINGERPRINT)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "sidecar"])
def test_only_the_damaged_shard_is_made_again(folder, damage):
    path = folder / "shard-00001.safetensors"
    good = path.read_bytes()
    if damage == "flip":
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(good[:-9])
    elif damage == "remove":
        path.unlink()
    else:
        path.with_suffix(".json").write_text("{")
    writer, written = write_all(folder)
    assert written == [1]
    with pytest.raises(StoreIncompleteError):
        ActivationStore.open(folder)
    writer.finish(SHARDS)
    ActivationStore.open(folder)
    assert path.read_bytes() == good


def test_two_ranks_share_the_work_and_rank_0_finishes(tmp_path):
    first = StoreWriter(tmp_path, FINGERPRINT, SITES, rank=0, world_size=2)
    second = StoreWriter(tmp_path, FINGERPRINT, SITES, rank=1, world_size=2)
    assert (first.pending(SHARDS), second.pending(SHARDS)) == ([0, 2], [1, 3])
    for shard_id in (0, 2):
        first.write(shard_id, split_of(shard_id), *shard_content(shard_id))
    second.write(1, split_of(1), *shard_content(1))
    second.finish(SHARDS)
    with pytest.raises(StoreIncompleteError, match=r"lacks 1 of 4 shards \(3\): run the capture again"):
        first.finish(SHARDS)
    assert not (tmp_path / "manifest.json").exists()
    # Two ranks began, one ends: what the other left is taken over.
    writer, written = write_all(tmp_path)
    assert written == [3]
    writer.finish(SHARDS)
    alone, _ = write_all(tmp_path / "alone")
    alone.finish(SHARDS)
    assert (tmp_path / "manifest.json").read_text() == (tmp_path / "alone" / "manifest.json").read_text()


def test_left_overs_are_removed_by_the_rank_that_owns_them(tmp_path):
    strays = [tmp_path / f".writing-rank{rank}-shard-00000.safetensors" for rank in range(4)]
    for path in strays:
        path.write_bytes(b"half")
    StoreWriter(tmp_path, FINGERPRINT, SITES, rank=1, world_size=2)
    assert [path.exists() for path in strays] == [True, False, True, False]


def test_text_shard_ids_and_shards_without_rows(tmp_path):
    writer = StoreWriter(tmp_path, FINGERPRINT, SITES)
    for shard_id, rows in (("train-0-64", 2), ("train-64-128", 0)):
        writer.write(shard_id, "train", *shard_content(0, rows))
    writer.finish(["train-0-64", "train-64-128"])
    store = ActivationStore.open(tmp_path)
    assert store.block_ranges("train", 8) == [(0, 2)]
    assert store.example("train").tolist() == [0, 1]


def test_shards_of_different_hidden_size_are_no_store(tmp_path):
    writer, _ = write_all(tmp_path)
    tensors, rows = shard_content(1)
    wide = {site: {variant: torch.zeros(5, 6) for variant in VARIANTS} for site in tensors}
    writer.write(1, "train", wide, rows)
    with pytest.raises(ValueError, match=r"hidden_size is \[4, 6\]"):
        writer.finish(SHARDS)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, code):
    write_all(tmp_path, shards=[0, 1])

    def full(_):
        raise OSError(code, "No space left on device")

    writer = StoreWriter(tmp_path, FINGERPRINT, SITES)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreFullError, match=r"needs \d+ bytes, \d+ are free. Nothing lost.*run again") as error:
            writer.write(2, split_of(2), *shard_content(2))
    assert error.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(error.value)
    assert sorted(path.name for path in tmp_path.glob("shard-*.safetensors")) == [
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    assert not list(tmp_path.glob(".writing*"))
    _, written = write_all(tmp_path)
    assert written == [2, 3]


def test_other_disk_errors_are_passed_on(tmp_path, monkeypatch):
    writer = StoreWriter(tmp_path, FINGERPRINT, SITES)

    def denied(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(PermissionError):
        writer.write(0, "train", *shard_content(0))
    assert list(tmp_path.iterdir()) == []


# Kills

KILLED_AT_EVERY_STEP = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from fa_lightning.activations import store as store_module
from test_store import SHARDS, write_all

real = {"fsync": os.fsync, "replace": os.replace}

def dying(name, step, half):
    def call(*arguments):
        global steps
        steps += 1
        if steps == step:
            if half and name == "fsync" and os.fstat(arguments[0]).st_mode & 0o100000:
                os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
            elif half:
                real[name](*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return real[name](*arguments)
    return call

# Six steps a shard (sync, rename, sync the folder, for the shard and its sidecar) and three for the manifest.
for step in range(1, 16):
    for half in (False, True):
        child = os.fork()
        if child == 0:
            steps = 0
            for name in real:
                setattr(os, name, dying(name, step, half))
            folder = f"{sys.argv[1]}/{step}-{int(half)}"
            writer, _ = write_all(folder, shards=[0, 1])
            writer.finish([0, 1])
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, (step, half)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 needs a POSIX system")
def test_killed_at_every_step_of_writing_it_resumes(tmp_path):
    reference, _ = write_all(tmp_path / "reference", shards=[0, 1])
    reference.finish([0, 1])
    expected = {path.name: path.read_bytes() for path in reference.folder.iterdir()}
    run_script(KILLED_AT_EVERY_STEP, tmp_path)
    rewritten = []
    for step in range(1, 16):
        for half in (0, 1):
            folder = tmp_path / f"{step}-{half}"
            for path in folder.iterdir():
                # Every file under a final name is whole; everything else is marked as temporary.
                assert path.name.startswith(".writing-rank0-") or path.read_bytes() == expected[path.name]
            if not (folder / "manifest.json").exists():
                with pytest.raises(StoreIncompleteError):
                    ActivationStore.open(folder)
            writer, written = write_all(folder, shards=[0, 1])
            rewritten.append(len(written))
            writer.finish([0, 1])
            ActivationStore.open(folder, FINGERPRINT)
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected
    assert rewritten == sorted(rewritten, reverse=True)
    assert set(rewritten) == {2, 1, 0}


WRITES_ON_AND_ON = """
import sys
sys.path[:0] = sys.argv[2:]
from test_store import FINGERPRINT, SITES, VARIANTS, shard_content
from fa_lightning.activations.store_writer import StoreWriter

writer = StoreWriter(sys.argv[1], FINGERPRINT, SITES, VARIANTS)
for shard_id in range(2000):
    writer.write(shard_id, "train", *shard_content(shard_id, rows=2000))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 needs a POSIX system")
def test_killed_from_outside_every_sidecar_speaks_of_a_whole_shard(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITES_ON_AND_ON, *script_arguments(tmp_path)])
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("shard-*.json"))) < 3 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    sidecars = [json.loads(path.read_text())["shard"] for path in tmp_path.glob("shard-*.json")]
    assert len(sidecars) >= 3
    assert all(sha256_of(tmp_path / shard["file"]) == shard["sha256"] for shard in sidecars)
    writer = StoreWriter(tmp_path, FINGERPRINT, SITES)
    done = [shard_id for shard_id in range(2000) if writer.is_done(shard_id)]
    assert done == list(range(len(sidecars)))
    assert not list(tmp_path.glob(".writing*"))


def script_arguments(folder):
    here = os.path.dirname(__file__)
    return [str(folder), here, os.path.abspath(os.path.join(here, "..", "..", ".."))]


def run_script(script, folder):
    command = [sys.executable, "-c", textwrap.dedent(script), *script_arguments(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
