"""Trials whose params are given in advance: they wait, and any worker runs each of them once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection

from headsweep.errors import StudyError
from headsweep.search.given_params import FIXED_PARAMS
from headsweep.storage.bulk_writes import Changes, detail_rows, insert_trials, upsert
from headsweep.storage.claims import count_states
from headsweep.studies.study_attributes import read_study_attrs, write_study_attrs

ENQUEUED = "headsweep:enqueued"
"""Study attribute: the entries of `study.enqueue` that were enqueued."""
ENQUEUE_TOKEN = "headsweep:enqueue_token"
"""Study attribute: names the last call of `enqueue_once`, which may be repeated after an outage."""
ENQUEUED_BY = "enqueued_by"
"""Trial attribute: who enqueued the trial."""
FROM_FILE = "study file"


def enqueue(
    connection: Connection, study_id: int, params: Sequence[Mapping[str, Any]], *, by: str
) -> list[int]:
    """Add waiting trials; call it in a transaction under the study's lock.

    Args:
        connection: in a transaction.
        study_id: id of the study.
        params: of each trial, as Optuna stores them.
        by: who enqueues them.

    Returns:
        Numbers of the trials.
    """
    first = sum(count_states(connection, study_id).values())
    ids = insert_trials(connection, study_id, len(params), first, TrialState.WAITING, None)
    changes = {
        trial_id: Changes(user_attrs={ENQUEUED_BY: by}, system_attrs={FIXED_PARAMS: dict(one)})
        for trial_id, one in zip(ids, params, strict=True)
    }
    upsert(connection, detail_rows(changes))
    return [first + i for i in range(len(ids))]


def enqueue_once(
    connection: Connection,
    study_id: int,
    params: Sequence[Mapping[str, Any]],
    *,
    by: str,
    token: str,
) -> list[int]:
    """Add waiting trials as `enqueue` does, unless a call with this token has added them.

    Args:
        connection: in a transaction.
        study_id: id of the study.
        params: of each trial, as Optuna stores them.
        by: who enqueues them.
        token: of this call, and of its repetition after an outage.

    Returns:
        Numbers of the trials.
    """
    last = read_study_attrs(connection, study_id).get(ENQUEUE_TOKEN)
    if isinstance(last, list) and last[0] == token:  # written before the connection broke
        return list(last[1])
    numbers = enqueue(connection, study_id, params, by=by)
    write_study_attrs(connection, study_id, {ENQUEUE_TOKEN: [token, numbers]})
    return numbers


def new_entries(
    name: str, listed: Sequence[Mapping[str, Any]], done: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the entries of `study.enqueue` that were not enqueued before.

    Args:
        name: of the study.
        listed: the entries of the study file.
        done: those that were enqueued.

    Returns:
        The entries that were added at the end of the list.

    Raises:
        StudyError: an entry that was enqueued has changed or is gone.
    """
    if json.dumps(list(done), sort_keys=True) != json.dumps(
        list(listed[: len(done)]), sort_keys=True
    ):
        raise StudyError(
            f"study {name!r}: study.enqueue may only grow at its end; its first {len(done)} "
            "entries were enqueued already"
        )
    return list(listed[len(done) :])
