"""An interrupted write leaves the old file or the new one, and no temporary file.

`tests/workers/test_disk_full.py` fills the disk under SQLite, `tests/single/test_resume.py` kills
training at random moments, `tests/leaderboard/test_staging.py` a process that writes a leaderboard.
Here every writer is killed or fails at each of its file operations, and in the middle of a write.
"""

import ast
import itertools
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load

import headsweep
from headsweep.atomic_files import write_text
from headsweep.errors import HeadsweepError
from headsweep.single_run import STATE
from tests.helpers.disks import mount
from tests.helpers.writers import (
    KILLED,
    NO_SPACE,
    WRITERS,
    bring,
    write_up_to,
    write_with_fault,
)

pytestmark = pytest.mark.hardening

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.helpers.writers"])

APPENDED = "metrics.jsonl"
"""One line per epoch; a resumed run rewrites the file from its state."""
BASIS = ("data/", "features/image/", "cache/")
"""Input of the writers. Pack folders are named by their path; `write_pack` checks their content."""
DONE, FAILED = 0, 1

Tree = dict[str, bytes]


def ends(target: Callable[..., None], *arguments: object, **options: object) -> int | None:
    process = PROCESSES.Process(target=target, args=arguments, kwargs=options)
    process.start()
    process.join()
    return process.exitcode


def tree(folder: Path) -> Tree:
    """Return the content of every written file by its relative path."""
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in files.items() if not name.startswith(BASIS)}


def temporary(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "partial" in path.name]


def assert_whole(name: str, found: Tree, old: Tree, new: Tree, where: str) -> None:
    """Check that each file is old or new, and a complete leaderboard is all old or all new."""
    for file, content in found.items():
        if "partial" in file:
            continue
        if file.endswith(STATE):  # may be of either run and any epoch
            load(content)
        elif file.endswith(APPENDED):
            assert new[file].startswith(content) or content == old[file], (where, file)
        else:
            assert content in (old.get(file), new.get(file)), (where, file)
    if name == "board" and "provenance.json" in found:
        kept = {file: content for file, content in found.items() if "partial" not in file}
        assert kept in (old, new), where
    if name not in ("board", "run"):  # these two remove outdated files first
        lost = old.keys() - found.keys()
        assert not lost, (where, lost)


class Attacked:
    """Writes the old version into new folders, then attacks the writing of the new version."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.places = (folder / f"at-{i}" for i in itertools.count())
        (folder / "new").mkdir()
        self.write(folder / "new", 1)
        self.old = tree(folder / "new")
        self.write(folder / "new", 2)
        self.new = tree(folder / "new")

    def write(self, folder: Path, version: int) -> None:
        bring(self.name, folder, version)
        WRITERS[self.name](folder, version)

    def suffers(self, attack: Callable[[Path], int | None], where: str) -> int | None:
        folder = next(self.places)
        folder.mkdir()
        self.write(folder, 1)
        bring(self.name, folder, 2)
        code = attack(folder)
        where = f"{self.name}, {where}, ended {code}"
        assert code in (DONE, FAILED, KILLED, -signal.SIGXFSZ), where
        assert_whole(self.name, tree(folder), self.old, self.new, where)
        if code == FAILED and self.name != "board":  # there, the removal may fail
            assert not temporary(folder), where
        WRITERS[self.name](folder, 2)  # the next run of the writer
        assert not temporary(folder), where
        after = tree(folder)
        assert after.keys() == self.new.keys(), where
        assert_whole(self.name, after, self.new, self.new, where)
        return code


# These writers have many file operations or are slow, so only every n-th operation is attacked. No
# stride shares a factor with the number of errors in NO_SPACE or the 3 operations of a file, so all
# of them still occur.
STRIDE = {"run": 13, "data set": 14, "board": 11, "pack": 2, "tables": 4, "subsets": 2}


@pytest.mark.parametrize("name", WRITERS)
def test_writer_killed_or_failed_at_any_file_operation_leaves_old_or_new(
    name: str, tmp_path: Path
) -> None:
    """Before the fix, this failed for predictor, predictions, tables, means, subsets, pack (which
    left a partial file), run and export. If `atomic_files.replacing` wrote into its target,
    export, predictor, state, predictions, manifests, means and subsets would fail.
    """
    attacked = Attacked(name, tmp_path)
    faults: list[int | None] = [None, *NO_SPACE]
    ended: Counter[int | None] = Counter()
    for at in itertools.count(1, STRIDE.get(name, 1)):
        for error in (faults[1 + at % len(NO_SPACE)], None):
            how = "killed" if error is None else os.strerror(error)
            code = attacked.suffers(
                lambda folder, at=at, error=error: ends(write_with_fault, name, folder, at, error),
                f"{how} at touch {at}",
            )
            ended[code] += 1
        if code == DONE:  # it was not killed: there are fewer operations
            break
    assert ended[KILLED] >= 3, ended
    assert ended[FAILED] >= 2, ended


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in ("run", "data set")])
def test_writer_killed_or_failed_within_a_write_leaves_old_or_new(
    name: str, tmp_path: Path
) -> None:
    """The kernel kills the process, or fails the write, at a given file size."""
    attacked = Attacked(name, tmp_path)
    longest = max([len(content) for content in attacked.new.values()], default=0) or 200
    for size in (0, longest // 2):
        for dies, code in ((True, -signal.SIGXFSZ), (False, FAILED)):
            found = attacked.suffers(
                lambda folder, size=size, dies=dies: ends(
                    write_up_to, name, folder, size, dies=dies
                ),
                f"{'killed' if dies else 'failed'} after {size} bytes",
            )
            assert found == code, (name, size)


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_writers_on_full_or_read_only_file_system_raise_and_change_nothing(
    tmp_path: Path, fault: str
) -> None:
    """Uses a file system in memory or, if mounting is forbidden, read-only folders."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = mount(disk, "1m")
    try:
        for name, write in WRITERS.items():
            if name not in ("run", "data set"):  # which need more space
                (disk / name).mkdir()
                bring(name, disk / name, 1)
                write(disk / name, 1)
                bring(name, disk / name, 2)
        before = tree(disk)
        if mounted and fault == "full":
            fill(disk / "ballast")
        elif mounted:
            os.system(f"mount -o remount,ro {disk}")
        else:
            for folder in (disk, *(p for p in disk.rglob("*") if p.is_dir())):
                folder.chmod(0o555)
            if os.geteuid() == 0:
                os.seteuid(65534)
        for name in sorted({file.partition("/")[0] for file in before}):
            try:
                WRITERS[name](disk / name, 2)
            except (OSError, HeadsweepError):
                continue
            raise AssertionError(f"{name}: nothing was raised on a disk that is {fault}")
        after = {file: content for file, content in tree(disk).items() if file != "ballast"}
        assert after == before
        assert not temporary(disk)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        if mounted:
            os.system(f"umount --lazy {disk}")
        for folder in (disk, *(p for p in disk.rglob("*") if p.is_dir())):
            folder.chmod(0o755)


def test_write_text_preserves_links_pipes_and_permissions(tmp_path: Path) -> None:
    """Fails when a link, or a pipe such as `/dev/stdout`, is replaced like a regular file."""
    file, link = tmp_path / "a" / "best.yaml", tmp_path / "link.yaml"
    file.parent.mkdir()
    file.write_text("old")
    link.symlink_to(file)
    write_text(link, "new")
    assert link.is_symlink()
    assert file.read_text() == "new"

    read, write = os.pipe()
    write_text(Path(f"/dev/fd/{write}"), "through a pipe")
    os.close(write)
    with os.fdopen(read) as end:
        assert end.read() == "through a pipe"

    secrets = tmp_path / "secrets"
    (tmp_path / ".secrets.partial").write_text("a dead writer's, for all to read")
    write_text(secrets, "password", mode=0o600)
    assert secrets.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "link.yaml", "secrets"]


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


WRITING_CALLS = {
    *(
        "write_text",
        "write_bytes",
        "savez",
        "savez_compressed",
        "save_file",
        "to_csv",
        "to_parquet",
    ),
    *("savefig", "tofile", "dump", "copyfile", "copytree", "memmap"),
}
ALLOWED = {
    # The module for atomic writes; a log; a lock; a folder that is renamed when it is complete.
    "atomic_files.py": {"open"},
    "single_run.py": {"open"},
    "launching/local.py": {"open"},
    "data/synthetic/generate.py": {"open", "savez"},
    # Into a file that `replacing` opened, into memory, or to the terminal.
    "data/ct_rate/prepare.py": {"savez"},
    "data/tables.py": {"to_csv"},
    "leaderboard/report/plots.py": {"savefig"},
    "cli/board.py": {"to_csv"},
}


def test_writing_calls_outside_atomic_files_are_the_allowed_ones() -> None:
    """A new writer must use `atomic_files` or be listed with its reason in `ALLOWED`."""
    root = Path(headsweep.__file__).parent
    found = {
        path.relative_to(root).as_posix(): calls
        for path in root.rglob("*.py")
        if (calls := writing_calls(ast.parse(path.read_text())))
    }
    assert found == ALLOWED


def writing_calls(syntax: ast.AST) -> set[str]:
    """Return the names of called functions that write a file or open one for writing."""
    found = set()
    for node in ast.walk(syntax):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        name = node.func.id if isinstance(node.func, ast.Name) else name
        if name != "open" and name not in WRITING_CALLS:
            continue
        owner = ast.unparse(node.func).rpartition(".")[0]
        modes = [a.value for a in node.args if isinstance(a, ast.Constant)]
        opens = name == "open" and any(
            isinstance(mode, str) and set(mode) & set("wax+") and len(mode) < 4 for mode in modes
        )
        method = isinstance(node.func, ast.Attribute)
        writes = method and name in WRITING_CALLS and owner not in ("json", "yaml")
        if opens or writes:
            found.add(name)
    return found
