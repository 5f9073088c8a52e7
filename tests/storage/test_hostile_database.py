"""An untrusted database is refused in one line or shown as text; nothing in it is executed."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import CmaEsSampler, RandomSampler
from optuna.trial import create_trial
from optuna_dashboard import save_note

from headsweep.search.samplers.cmaes import GENERATION
from headsweep.search.spec import StudySpec, spec_to_json
from headsweep.settings import WorkerSettings
from headsweep.storage.optuna_tables import trial_id
from headsweep.studies.storages import open_storage
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import join
from tests.helpers.chromium import browse
from tests.helpers.command_line import Ended
from tests.helpers.dashboard import ask, open_page, served
from tests.helpers.study_specs import make_spec

pytestmark = pytest.mark.hardening

EVIL = "<script>ran=1</script><img src=x onerror=ran=1>\x1b]0;owned\x07[/bold]{{7*7}}‮"
WRONG = (json.dumps(EVIL), json.dumps({"a": 1}), "-1", "NaN", "[" * 100_000)
STUDY_ATTRS = (
    *("headsweep:definition", "headsweep:fingerprint", "headsweep:n_trials"),
    *("headsweep:n_workers", "headsweep:data", "effort:one", "dashboard:note_str:0"),
)
TRIAL_ATTRS = (
    *("tape_position", "epochs_trained", "worker", "host", "failure", "retries", "retry_of"),
    *("lost", "anything"),
)
RUNGS = ("completed_rung_0", "completed_rung_x", "completed_rung_-1", GENERATION, "lost_x")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file whose study has complete, pruned, failed, running and waiting trials."""
    folder = tmp_path_factory.mktemp("sound")
    url = f"sqlite:///{folder}/study.db"
    with contextlib.closing(open_storage(url, create=True).database):
        StoredStudy.create(make_spec(folder), open_storage(url))
    with join("probe", url, WorkerSettings(), worker="one") as session:
        best, pruned, failed, handed_back = map(trial_id, session.claim(4).trials)
        for key in (best, pruned):
            session.report(key, 1, 0.5)
        session.trials_to_prune([best, pruned])
        for key in (best, pruned):
            session.record_admission(session.storage.get_trial(key), 0)
        session.complete(best, 0.75, epochs=1)
        session.prune(pruned, epochs=1)
        session.fail(failed, "it diverged")
        session.flush()
        session.abandon()
        del handed_back
    with sqlite3.connect(folder / "study.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return folder / "study.db"


class Store:
    """Copies of the valid storage, into which a test writes wrong values."""

    def __init__(self, sound: Path, folder: Path) -> None:
        self._sound, self._folder, self._n = sound, folder, 0

    @property
    def url(self) -> str:
        return f"sqlite:///{self._folder}/{self._n}.db"

    def again(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        """Make a new copy and run some statements on it. Copies opened earlier stay open."""
        for file in self._folder.glob(f"{self._n}.db*"):
            file.unlink()
        self._n += 1
        file = self._folder / f"{self._n}.db"
        shutil.copy(self._sound, file)
        with contextlib.closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("PRAGMA synchronous=OFF")
            for text, values in statements:
                connection.execute(text, values)


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Store:
    return Store(sound, tmp_path)


def study_attr(name: str, text: str) -> tuple[str, tuple[Any, ...]]:
    return (
        "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (1, ?, ?) "
        "ON CONFLICT (study_id, key) DO UPDATE SET value_json = excluded.value_json",
        (name, text),
    )


def trial_attr(name: str, text: str, *, kind: str = "user") -> tuple[str, tuple[Any, ...]]:
    return (
        f"INSERT INTO trial_{kind}_attributes (trial_id, key, value_json) "
        "SELECT trial_id, ?, ? FROM trials WHERE true "
        "ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json",
        (name, text),
    )


def corruptions(spec: StudySpec) -> Iterator[tuple[str, list[tuple[str, tuple[Any, ...]]]]]:
    """Yield wrong values: a name and the statements that write them."""
    for turn, text in enumerate(WRONG):
        for name in STUDY_ATTRS:
            yield f"study {name}={text[:40]}", [study_attr(name, text)]
        for name in itertools.islice(TRIAL_ATTRS, turn % 2, None, 2):
            yield f"trial {name}={text[:40]}", [trial_attr(name, text)]
        for name in itertools.islice(RUNGS, turn % 2, None, 2):
            yield f"rung {name}={text[:40]}", [trial_attr(name, text, kind="system")]
        change = "UPDATE trial_params SET distribution_json = ?"
        yield f"distribution {text[:40]}", [(change, (text,))]
    definition = json.loads(spec_to_json(spec))
    for section, value in itertools.product(definition, (None, {"_target_": EVIL})):
        spoilt = json.dumps(json.dumps(definition | {section: value}))
        yield f"definition {section}={value}", [study_attr("headsweep:definition", spoilt)]
    for column, table in {
        "param_value": "trial_params",
        "intermediate_value": "trial_intermediate_values",
        "value": "trial_values",
        "number": "trials",
        "state": "trials",
        "datetime_start": "trials",
        "datetime_complete": "trials",
        "value_type": "trial_values",
        "intermediate_value_type": "trial_intermediate_values",
        "step": "trial_intermediate_values",
        "objective": "trial_values",
        "heartbeat": "trial_heartbeats",
        "direction": "study_directions",
        "version_num": "alembic_version",
        "schema_version": "version_info",
        "study_name": "studies",
    }.items():
        for value in (b"\xff\xfe", EVIL):
            # The schema's constraints refuse some of these values.
            yield (
                f"{table}.{column}={value!r}"[:60],
                [(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))],
            )


def assert_tame(ended: Ended) -> None:
    """Check that a command succeeded or failed with one line, and printed no control characters."""
    told = ended.out + ended.err
    assert "\x1b" not in told
    assert "\x07" not in told
    if ended.code == 0:
        return
    assert ended.code in (1, 2)
    assert ended.err.startswith("Error: ")
    assert ended.err.count("\n") == 1
    assert "--debug shows where" not in ended.err


def test_commands_on_a_database_with_wrong_values_succeed_or_fail_in_one_line(
    store, tmp_path, headsweep
):
    """Write hundreds of wrong values: each is ignored or refused in one line."""
    n, faults = 0, []
    for name, statements in corruptions(make_spec(tmp_path)):
        with contextlib.suppress(sqlite3.IntegrityError):  # a constraint of the schema
            store.again(*statements)
        commands = [("status",), ("export", "probe", "-o", str(tmp_path / "x"))]
        for command in commands[: 1 + (n % 3 == 0)]:
            ended = headsweep(*command, "--storage", store.url)
            n += 1
            try:
                assert_tame(ended)
            except AssertionError:
                faults.append((name, command[0], ended.err[-200:]))
                print("FAULT", faults[-1])
    print(f"{n} commands on databases of a stranger")
    assert faults == []


def test_claim_with_a_stored_pickle_beside_a_stock_study_never_runs_it(tmp_path, headsweep):
    """The database also has a study of stock Optuna with two objectives, and a stored pickle."""
    canary = tmp_path / "canary"
    url = f"sqlite:///{tmp_path}/study.db"
    storage = open_storage(url, create=True)
    optuna.create_study(study_name="other", directions=["minimize", "maximize"], storage=url)
    other = optuna.load_study(study_name="other", storage=url, sampler=RandomSampler())
    other.add_trial(create_trial(values=[1.0, 2.0]))
    spec = make_spec(tmp_path, sampler={"name": "cmaes"}, pruner={"name": "none"})
    study_id = StoredStudy.create(spec, storage).study_id
    gadget = f"csystem\n(S'touch {canary}'\ntR.".replace("csystem", "cos\nsystem").encode().hex()
    ours = optuna.load_study(study_name="probe", storage=url, sampler=RandomSampler())
    space = {"training.learning_rate": FloatDistribution(1e-5, 1e-1, log=True)}
    for generation in (0, 0, 0, 1):
        ours.add_trial(
            create_trial(
                value=0.5,
                params={"training.learning_rate": 1e-3},
                distributions=space,
                system_attrs={GENERATION: generation, "cma:optimizer:0": gadget},
            )
        )
    with join("probe", url, WorkerSettings(), worker="one") as session:
        assert len(session.claim(3).trials) == 3
    assert not canary.exists()
    # The pickle works: Optuna's own sampler executes it.
    fallen = optuna.load_study(study_name="probe", storage=url, sampler=CmaEsSampler())
    with contextlib.suppress(Exception):
        fallen.sampler._restore_optimizer(fallen.trials[:4])
    assert canary.exists()
    assert headsweep("status", "--storage", url).out.count("probe") >= 1
    assert headsweep("status", "other", "--storage", url).code == 2
    assert study_id != other._study_id
    storage.database.close()


def test_dashboard_with_scripts_in_names_and_notes_shows_them_as_text(tmp_path, chromium):
    """No script in study names, params, attributes or notes runs in Chromium."""
    script = "<img src=x onerror='window.ran=1'><script>window.ran=1</script>"
    url = f"sqlite:///{tmp_path}/study.db"
    storage = open_storage(url, create=True)
    study = optuna.create_study(study_name=f"seen{script}", storage=url)
    link = f"{script}\n\n[a](javascript:window.ran=1)\n\n<svg onload='window.ran=1'/>\n\nthe note"
    save_note(study, link)
    study.set_user_attr(script, script)
    for _ in range(2):
        study.add_trial(
            create_trial(
                value=0.5,
                params={script: script},
                distributions={script: CategoricalDistribution([script, "b"])},
                user_attrs={script: script},
            )
        )
    with served(open_storage(url)) as port, browse(tmp_path / "profile") as page:
        for path, text in {
            "": "seen",
            "/studies/1": "History",
            "/studies/1/note": "the note",
            "/studies/1/trials?numbers=0": "Trial 0",
        }.items():
            open_page(page, port, path)
            page.wait_for(text)
            assert page.value("window.ran === undefined"), path
        assert page.value("[...document.links].every(a => a.protocol !== 'javascript:')")
        status, body = ask(port, "GET", "/csv/1")
        assert (status, script in body.decode().replace('""', '"')) == (200, True)
    storage.database.close()
