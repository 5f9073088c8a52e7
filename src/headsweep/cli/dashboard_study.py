"""optuna-dashboard's answer for one study, faster and smaller.

Its page asks for all trials of a study in one answer of about 2 kB a trial, and then every few
seconds for the new ones. For both, optuna-dashboard reads every trial again.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from optuna.trial import FrozenTrial

from headsweep.cli.dashboard_subset import Subset, state_omissions
from headsweep.cli.dashboard_trials import StudyTrials, ask, encode
from headsweep.cli.deflated import Piece, compress, decompress, stream
from headsweep.storage.batched_storage import BatchedStorage
from headsweep.storage.optuna_tables import FrozenStudy, id_of_study
from headsweep.storage.trial_cache import collection_paused

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_STUDY = re.compile(r"/api/studies/(\d{1,18})", re.ASCII)
_logger = logging.getLogger("optuna_dashboard")


def quick(
    app: WSGIApplication, storage: BatchedStorage, *, all_points: bool = False
) -> WSGIApplication:
    """Wrap optuna-dashboard so that the JSON of trials is kept between requests.

    Other requests, and those for studies with several objectives or with preferences instead of
    values, are answered by optuna-dashboard itself.

    Args:
        app: optuna-dashboard on the storage.
        storage: the storage.
        all_points: whether pages of large studies get every trial and its learning curve.

    Returns:
        The wrapped application, with the same answers but for large studies.
    """
    details = StudyDetails(storage, all_points=all_points)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked = _asked(environ)
        try:
            pieces = None if asked is None else details.answer(*asked)
        except Exception as error:  # as optuna-dashboard does: the page asks again by itself
            _logger.error("Exception: %s", error)
            body = [encode({"reason": "internal server error"}).encode()]
            return _send(start_response, "500 Internal Server Error", body)
        if pieces is None:
            return app(environ, start_response)
        if _accepts_deflate(environ):
            return _send(start_response, "200 OK", stream(pieces), ("Content-Encoding", "deflate"))
        size = sum(piece.length for piece in pieces)
        return _send(start_response, "200 OK", decompress(pieces), size=size)

    return answer


class StudyDetails:
    """The answers for all studies of a storage."""

    def __init__(self, storage: BatchedStorage, *, all_points: bool = False) -> None:
        self._storage = storage
        self._all_points = all_points
        self._trials: dict[int, StudyTrials] = {}
        self._subsets: dict[int, Subset] = {}
        self._stated: set[str] = set()
        self._lock = threading.Lock()

    def answer(self, study_id: int, after: int) -> list[Piece] | None:
        """Return the JSON of a study without the first `after` trials that the page shows.

        Args:
            study_id: id of the study.
            after: number of trials that are left out.

        Returns:
            The JSON in pieces; None if optuna-dashboard has to answer.
        """
        with self._lock:
            study = self._study(study_id)
            if study is None or ask(study, [])["is_preferential"]:
                self._trials.pop(study_id, None)
                return None
            trials = self._trials.setdefault(study_id, StudyTrials())
            with suppress(KeyError):  # deleted since
                everything = self._storage.get_all_trials(study_id, deepcopy=False)
                with collection_paused():
                    shown = everything if self._all_points else self._subset(study, everything)
                    trials.update(study, shown)
                samples = trials.samples(study)
                detail = ask(study, samples, after=len(samples))
                del detail["trials"]
                if not self._all_points:
                    self._state(study, detail, len(shown), len(everything))
                head = compress(f'{encode(detail)[:-1]},"trials":['.encode())
                return [head, *trials.pieces(study, after), compress(b"]}")]
            return None

    def _subset(self, study: FrozenStudy, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        return self._subsets.setdefault(id_of_study(study), Subset()).choose(study, trials)

    def _state(self, study: FrozenStudy, detail: dict[str, Any], shown: int, total: int) -> None:
        """State what is left out: on the page always, in the terminal once."""
        statement = state_omissions(detail, shown=shown, total=total)
        if statement is not None and study.study_name not in self._stated:
            self._stated.add(study.study_name)
            _logger.warning(
                "The page of study %s shows %s, so that a browser can draw it. "
                "--all-points shows everything.",
                study.study_name,
                statement,
            )

    def _study(self, study_id: int) -> FrozenStudy | None:
        """Return a study with one objective."""
        for study in self._storage.get_all_studies():
            if id_of_study(study) == study_id and len(study.directions) == 1:
                return study
        return None


def _asked(environ: WSGIEnvironment) -> tuple[int, int] | None:
    """Return the study of a request, and how many trials the page has already."""
    matched = _STUDY.fullmatch(environ["PATH_INFO"].rstrip("/"))
    if environ["REQUEST_METHOD"] != "GET" or matched is None:
        return None
    after = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True).get("after", ["0"])
    if not re.fullmatch(r"\d{1,18}", after[-1], re.ASCII):
        return None
    return int(matched[1]), int(after[-1])


def _accepts_deflate(environ: WSGIEnvironment) -> bool:
    accepted = environ.get("HTTP_ACCEPT_ENCODING", "").lower().replace(" ", "").split(",")
    return "deflate" in accepted


def _send(
    start_response: StartResponse,
    status: str,
    body: Iterable[bytes],
    *headers: tuple[str, str],
    size: int | None = None,
) -> Iterable[bytes]:
    if size is None:
        size = sum(map(len, body))
    start_response(
        status,
        [
            ("Content-Type", "application/json"),
            ("Content-Length", str(size)),
            ("Vary", "Accept-Encoding"),
            *headers,
        ],
    )
    return body
