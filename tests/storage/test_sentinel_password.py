"""A sentinel password appears in no file, output, process list or table of a whole search.

`tests/storage/test_passwords.py` tests the same for the storage alone: URL, errors and pickles.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

import psycopg
import pytest
import yaml

from headsweep.data.synthetic.generate import synthesize
from tests.helpers.polling import polling
from tests.helpers.postgres import Server, postgres

pytestmark = [pytest.mark.hardening, pytest.mark.slow]

__all__ = ["postgres"]

SENTINEL = "S3ntinel@Qx%41:/?#[]&=+ ä'\"\\"
"""Characters with a special meaning in a URL, a shell, JSON or a connection string."""
PIECES = ("S3ntinel", "Qx%41", "Qx%2541")
ROLE = "watched"
STUDY = {
    "study": {"name": "tiny", "n_trials": 2, "seed": 1},
    "base": [
        *("head=linear", "features=visual", "training.max_epochs=1"),
        *('training.target_labels=["Lung nodule"]', "data.test_manifests=[test_manual_all.csv]"),
    ],
    "space": {"training.learning_rate": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True}},
    "sampler": {"name": "random"},
    "pruner": {"name": "none"},
    "finalists": {"top_k": 1, "seeds": [0]},
}


def forms() -> tuple[bytes, ...]:
    """Return the sentinel plain, quoted, escaped and encoded, and pieces a parser may leave."""
    plain = SENTINEL.encode()
    texts = {SENTINEL, quote(SENTINEL, safe=""), quote_plus(SENTINEL), json.dumps(SENTINEL)[1:-1]}
    texts |= {repr(SENTINEL)[1:-1], quote(SENTINEL, safe="").lower(), *PIECES}
    coded = {plain.hex().encode(), base64.b64encode(plain)}
    # In the base64 form of a longer text the sentinel may begin at three different offsets.
    coded |= {base64.b64encode(b"x" * n + plain)[4:-4] for n in (1, 2)}
    return (*(text.encode() for text in texts), *coded, SENTINEL.encode("utf-16-le"))


FORMS = forms()


def assert_silent(content: bytes, place: object) -> None:
    for form in FORMS:
        assert form not in content, (place, form)


@pytest.fixture
def database(postgres: Server) -> Iterator[str]:
    """A database whose role has the sentinel as its password."""
    name = postgres.new_database()
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        escaped = SENTINEL.replace("'", "''")
        connection.execute(f"DROP ROLE IF EXISTS {ROLE}".encode())
        connection.execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER PASSWORD '{escaped}'".encode())
    yield name
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
        connection.execute(f"DROP ROLE {ROLE}".encode())


def ways(port: int, database: str, folder: Path) -> dict[str, tuple[str, dict[str, str]]]:
    """Return URL and environment for every way to give a password."""
    host = f"127.0.0.1:{port}/{database}"
    bare = f"postgresql://{ROLE}@{host}"
    escaped = SENTINEL.replace("\\", "\\\\").replace(":", "\\:")
    passfile = folder / ".pgpass"
    passfile.write_text(f"*:*:*:{ROLE}:{escaped}\n")
    passfile.chmod(0o600)
    every = "".join(f"%{byte:02x}" for byte in SENTINEL.encode())
    return {
        "quoted": (f"postgresql://{ROLE}:{quote(SENTINEL, safe='')}@{host}", {}),
        "every byte quoted": (f"postgresql+psycopg://{ROLE}:{every}@{host}", {}),
        "query": (f"{bare}?password={quote_plus(SENTINEL)}", {}),
        "environment": (bare, {"PGPASSWORD": SENTINEL}),
        "passfile": (bare, {"PGPASSFILE": str(passfile)}),
        "home": (bare, {"HOME": str(folder)}),
    }


def refused(port: int, database: str) -> list[str]:
    """Return URLs that must be refused, most of them because the password is not quoted."""
    host = f"127.0.0.1:{port}/{database}"
    unquoted = (
        "S3ntinel@Qx%41",
        "S3ntinel/Qx%41",
        "S3ntinel:Qx%41",
        "S3ntinel#Qx%41",
        "S3ntinel?Qx",
    )
    urls = [f"postgresql://{ROLE}:{password}@{host}" for password in unquoted]
    urls += [f"postgres://{ROLE}:S3ntinel@{host}", f"mysql://{ROLE}:S3ntinel@{host}"]
    return [*urls, f"postgresql://{ROLE}@{host}?passwd=S3ntinel", f"postgresql://:S3ntinel@{host}x"]


@contextmanager
def watched() -> Iterator[set[bytes]]:
    """Collect the command lines of all processes of the machine while the body runs."""
    seen: set[bytes] = set()

    def look() -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                seen.add(path.read_bytes())

    with polling(look, every_s=0.2):
        yield seen


@pytest.mark.filterwarnings(
    "ignore:.*hold 0 and 1 but are not used:headsweep.errors.HeadsweepWarning"
)
def test_run_with_a_sentinel_password_stores_and_shows_it_nowhere(
    postgres, database, tmp_path, monkeypatch, headsweep
):
    """Run every command with every form, then search all files, tables and command lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSWEEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PGPASSWORD", raising=False)
    secrets = tmp_path.with_name(f"{tmp_path.name}-secret")
    secrets.mkdir()
    sizes = {"patients_train": 24, "patients_valid": 12, "patients_test": 12}
    synthesize(tmp_path / "ct", **sizes, width=96, seed=0, progress=False)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    roots = [f"paths.data_root={tmp_path}/ct/features"]
    roots += [f"paths.manifest_dir={tmp_path}/ct/manifests"]
    told = []
    with watched() as lines:
        for name, (url, environment) in ways(postgres.port, database, secrets).items():
            with monkeypatch.context() as patch:
                for key, value in environment.items():
                    patch.setenv(key, value)
                patch.setenv("HEADSWEEP_STORAGE", url)
                commands = [["status", "--json"]]
                if name == "quoted":
                    commands = [["run", "study.yaml", *roots, "--workers", "1"], ["status"]]
                    commands += [["export", "tiny", "-o", "best.yaml"]]
                for command in commands:
                    ended = headsweep(*command)
                    assert ended.code == 0, (name, command, ended.err)
                    told.append(ended)
                told += [headsweep("export", "none", "-o", "x.yaml", "--debug")]
        for url in refused(postgres.port, database):
            told.append(headsweep("status", "--debug", "--storage", url))
            assert told[-1].code == 2, url
    for ended in told:
        assert_silent((ended.out + ended.err).encode(), ended)
    assert any(b"worker\0tiny" in line for line in lines)
    for line in lines:
        assert_silent(line, "process list")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {".html", ".json", ".yaml", ".parquet", ".log", ".safetensors", ".png", ".md"} <= {
        path.suffix for path in files
    }
    for path in files:
        assert_silent(path.read_bytes(), path)
        assert_silent(os.fsencode(path), path)
    with psycopg.connect(postgres.url(database)) as connection:
        for table in ("study_user_attributes", "study_system_attributes", "trial_user_attributes"):
            rows = connection.execute(f"SELECT * FROM {table}".encode()).fetchall()
            assert_silent(repr(rows).encode(), table)
