"""Make a leaderboard from a finished search: confirm, open test once, write the folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from threadpoolctl import threadpool_limits

from headsweep.atomic_files import write_json
from headsweep.config.schema import Config
from headsweep.data.dataset import (
    Dataset,
    Split,
    in_order,
    required_inputs,
    search_fingerprints,
)
from headsweep.data.folds import Folds
from headsweep.engine.slots import EpochReport
from headsweep.errors import SearchError, StudyError, VerificationError
from headsweep.evaluation.paired_tests import compare_rows
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.evaluation.subgroups import SUBGROUPS, Attributes, write_subgroups
from headsweep.leaderboard.cohorts import COHORTS, write_cohorts
from headsweep.leaderboard.cross_validation import (
    FOLDS_FILE,
    CrossValidation,
    confirm_folds,
    write_folds,
)
from headsweep.leaderboard.ensembles.files import (
    ensembles_markdown,
    heads_of,
    table_rows,
    write_ensemble_predictor,
    write_ensembles,
)
from headsweep.leaderboard.ensembles.rows import Ensembles, build_ensembles
from headsweep.leaderboard.feature_health import FEATURE_HEALTH, health_of
from headsweep.leaderboard.finalists import (
    Confirmed,
    Finalist,
    choose_finalists,
    confirm,
    ranked,
)
from headsweep.leaderboard.provenance import (
    COMPARISONS,
    DATA_ROWS,
    StudyFacts,
    changed_files,
    data_fingerprint,
    describe,
    file_digests,
    fingerprints,
    read_provenance,
    write_data_rows,
)
from headsweep.leaderboard.references.chosen import References
from headsweep.leaderboard.references.files import references_markdown, write_references
from headsweep.leaderboard.references.rows import (
    ComparedReferences,
    add_references,
    load_references,
    score_references,
)
from headsweep.leaderboard.report.drawing_process import Figures, figures_drawn_aside
from headsweep.leaderboard.report.html import write_report
from headsweep.leaderboard.report.sections import (
    Section,
    drawn_by,
    result_sections,
    search_sections,
)
from headsweep.leaderboard.results import FinalistResult, evaluate, write_result
from headsweep.leaderboard.search_facts import SearchFacts
from headsweep.leaderboard.side_thread import start_aside
from headsweep.leaderboard.staging import PROVENANCE, staging
from headsweep.leaderboard.table import FINGERPRINT_SHOWN, leaderboard_row, write_tables
from headsweep.leaderboard.unblinding import (
    is_to_be_reopened,
    load_test_subgroups,
    open_test,
    with_content,
)
from headsweep.metrics.ensemble_selection import Selection
from headsweep.progress import progress_bar
from headsweep.search.objective import is_feasible, none_feasible
from headsweep.search.spec import StudySpec
from headsweep.settings import EngineSettings
from headsweep.storage.optuna_tables import SearchStudy, trial_id
from headsweep.studies.folds import FOLDS
from headsweep.studies.pinned_data import DATA
from headsweep.studies.references import with_references
from headsweep.studies.study import StoredStudy
from headsweep.studies.trials import FINISHED


def finalize(
    stored: StoredStudy,
    out_dir: Path | None,
    settings: EngineSettings,
    *,
    data: Dataset | None = None,
    reopen: str | None = None,
) -> Path:
    """Confirm the finalists of a study, open test once, and write its leaderboard.

    Does nothing when the folder already holds the leaderboard of these trials and data.

    Args:
        stored: a study that has complete trials.
        out_dir: the leaderboard's folder; None is `outputs/<study>`.
        settings: of the engine that trains the finalists.
        data: what the study was searched on; None is what its config names.
        reopen: why test is opened although it was opened for other trials before.

    Returns:
        The leaderboard's folder.

    Raises:
        StudyError: test was opened for other trials.
        SearchError: no trial is complete that fits the space.
        TrialError: a finalist diverged under a seed.
        InputError: the data or the folder cannot be used.
    """
    prepared = _prepare(stored, data)
    out = out_dir or Path(stored.spec.config.paths.output_dir) / stored.name
    # NumPy's products are small here: threads of its BLAS would wait longer than they compute.
    with staging(out) as folder, threadpool_limits(1, user_api="blas"):
        if _is_done(prepared, out, reopen):
            return out
        with figures_drawn_aside() as figures:
            _write_leaderboard(prepared, folder, figures, settings, reopen)
    return out


@dataclass(frozen=True)
class _Prepared:
    """What a leaderboard is made of, before its finalists are trained and test is opened."""

    stored: StoredStudy
    study: SearchStudy
    finalists: Sequence[Finalist]
    data: Dataset
    inputs: tuple[str, ...]
    train: Split
    valid: Split
    facts: StudyFacts

    @property
    def trial_numbers(self) -> list[int]:
        """Numbers of the finalists' trials."""
        return [finalist.trial for finalist in self.finalists]


def _prepare(stored: StoredStudy, data: Dataset | None) -> _Prepared:
    """Return the finalists, and the data that they are trained on."""
    spec = stored.spec
    study, searched = _searched(stored)
    _refuse_infeasible(stored, spec)
    finalists = choose_finalists(
        study.get_trials(deepcopy=False), stored.config_of, spec.finalists.top_k
    )
    inputs = with_references(spec, union_of_inputs([finalist.config for finalist in finalists]))
    data = data or Dataset.from_config(spec.config, progress=True)
    train, valid = data.search_splits(spec.config, inputs=inputs)
    cross_validation = CrossValidation.of(spec.objective, spec.seed, train, valid)
    folds = {} if cross_validation is None else {FOLDS: cross_validation.folds.fingerprint}
    refuse_other_data(study, search_fingerprints(train, valid) | folds)
    references = load_references(spec.references, spec.config, train)
    facts = _facts(stored, searched, references, cross_validation)
    return _Prepared(stored, study, finalists, data, inputs, train, valid, facts)


def _is_done(prepared: _Prepared, out: Path, reopen: str | None) -> bool:
    """Return whether the folder holds this leaderboard, and test is not to be opened again."""
    splits = (prepared.train, prepared.valid)
    current = is_current(out, prepared.facts, prepared.finalists, splits)
    stored, trials = prepared.stored, prepared.trial_numbers
    config = stored.spec.config
    return current and not is_to_be_reopened(stored, trials, prepared.data, config, reopen)


def _write_leaderboard(
    prepared: _Prepared,
    folder: Path,
    figures: Figures,
    settings: EngineSettings,
    reopen: str | None,
) -> None:
    """Train the finalists, open test, and write all files of the folder."""
    stored, facts, train, valid = prepared.stored, prepared.facts, prepared.train, prepared.valid
    config, cross_validation = stored.spec.config, facts.cross_validation
    folds = None if cross_validation is None else cross_validation.folds
    of_search, of_results = drawn_by(figures, search_sections(prepared.study)), list[Section]()
    confirmed = ranked(
        confirm_with_progress(
            *(prepared.finalists, facts.seeds, train, valid, settings),
            cross_validation=cross_validation,
        )
    )
    openings, tests = open_test(
        stored, prepared.trial_numbers, prepared.data, config, prepared.inputs, reopen=reopen
    )
    subgroups = load_test_subgroups(prepared.data, config, tests)
    subgroups = with_content(subgroups, seen_rows(train, folds), tests)
    results, compared, extra = write_board(
        *(folder, confirmed, facts, train, valid, tests, subgroups),
        on_measured=lambda found: of_results.extend(drawn_by(figures, result_sections(found))),
    )
    splits = board_splits(train, valid, tests, folds)
    provenance = describe(
        facts, [result.finalist for result in results], openings, splits, settings
    )
    write_data_rows((train, valid, *tests), folder / DATA_ROWS)
    write_cohorts(provenance["cohorts"], folder / COHORTS)
    health = health_of((train, valid, *tests))
    write_json(folder / FEATURE_HEALTH, health)
    sections = [*of_results, *of_search]
    write_report(folder, prepared.study, results, compared, provenance, *extra, health, sections)
    write_json(folder / PROVENANCE, provenance | {"files": file_digests(folder)})


def _searched(stored: StoredStudy) -> tuple[SearchStudy, int]:
    """Return the study without trials that do not fit its space, and its number of finished trials.

    Trials that do not fit count in the number.
    """
    finished = stored.trials(FINISHED)
    unfit = {trial_id(trial) for trial in finished if not stored.fits(trial)}
    study = SearchStudy(
        *(stored.name, stored.storage, RandomSampler(), NopPruner()), hidden=lambda: unfit
    )
    return study, len(finished)


def _facts(
    stored: StoredStudy,
    searched: int,
    references: References,
    cross_validation: CrossValidation | None,
) -> StudyFacts:
    """Return what the leaderboard states about a study of which so many trials were searched."""
    spec = stored.spec
    return StudyFacts(
        *(stored.name, spec.fingerprint(), searched, tuple(sorted(spec.finalists.seeds))),
        search=SearchFacts.of(stored.summary(), spec),
        references=references,
        selection=Selection() if spec.finalists.ensemble else None,
        shows_unseen=True,
        cross_validation=cross_validation,
    )


def _refuse_infeasible(stored: StoredStudy, spec: StudySpec) -> None:
    """Raise if there are complete trials, but none meets the study's constraint.

    Raises:
        SearchError: none does; names the nearest.
    """
    complete = [t for t in stored.trials((TrialState.COMPLETE,)) if stored.fits(t)]
    if complete and not any(map(is_feasible, complete)):
        text = none_feasible(complete, spec.objective.constraint)
        raise SearchError(f"study {stored.name!r}: {text}")


def refuse_other_data(study: optuna.Study, found: Mapping[str, str]) -> None:
    """Raise unless the data are those that the study's workers searched on.

    Raises:
        StudyError: a manifest or the features of a split have changed since.
    """
    searched = study.user_attrs.get(DATA, {})
    for name in sorted(searched.keys() & found.keys()):
        if searched[name] != found[name]:
            raise StudyError(
                f"{name}: the data have changed since the search: their fingerprint is "
                f"{found[name][:FINGERPRINT_SHOWN]}, was {searched[name][:FINGERPRINT_SHOWN]}"
            )


def write_board(
    folder: Path,
    confirmed: Sequence[Confirmed],
    facts: StudyFacts,
    train: Split,
    valid: Split,
    tests: Sequence[Split],
    subgroups: Mapping[str, Attributes],
    *,
    on_measured: Callable[[Sequence[FinalistResult]], None] = lambda _: None,
) -> tuple[list[FinalistResult], dict[str, Any], tuple[ComparedReferences, Ensembles]]:
    """Measure the finalists in the order of their ranks; write all but report and provenance.

    `on_measured` is called with the results before anything else is computed from them.

    Returns:
        The results, their paired comparisons, and the references and ensembles.
    """
    folds = None if facts.cross_validation is None else facts.cross_validation.folds
    splits = (valid if folds is None else folds.rows, *tests)
    best_config = confirmed[0].finalist.config
    scores = start_aside(
        lambda: score_references(facts.references, best_config, train, splits, folds)
    )
    results = evaluate(confirmed, splits[0], tests, subgroups, facts.rules)
    on_measured(results)
    if folds is not None:
        write_folds(folds, folder / FOLDS_FILE)
    if any(subgroups.values()):
        named = {test.name: (test.volumes, subgroups[test.name]) for test in tests}
        write_subgroups(named, folder / SUBGROUPS)
    for result in results:
        write_result(result, folder / result.folder, study=facts.name)
    data = data_fingerprint(board_splits(train, valid, tests, folds))
    compared = compare_rows(
        [str(result.rank) for result in results],
        [[seed.predictions for seed in result.seeds] for result in results],
        [result.metrics for result in results],
        [result.draws for result in results],
        facts.rules,
    )
    write_json(folder / COMPARISONS, compared)
    references = add_references(scores.result(), results[0], splits, subgroups, facts.rules)
    write_references(references, folder)
    best = (results[0].metrics, results[0].draws)
    ensembles = build_ensembles(
        heads_of(results), best, facts.selection, facts.rules, subgroups=subgroups
    )
    write_ensembles(ensembles, folder)
    write_ensemble_predictor(ensembles, results, folder, study=facts.name)
    names = [test.name for test in tests]
    write_tables(
        [leaderboard_row(result, facts, splits[0].name, data) for result in results],
        folder,
        facts.rules,
        note=facts.note,
        sections=[
            *references_markdown(references, names),
            *ensembles_markdown(table_rows(ensembles), names),
        ],
    )
    return results, compared, (references, ensembles)


def confirm_with_progress(
    finalists: Sequence[Finalist],
    seeds: Sequence[int],
    train: Split,
    valid: Split,
    settings: EngineSettings,
    rules: Rules = CURRENT,
    *,
    cross_validation: CrossValidation | None = None,
) -> list[Confirmed]:
    """Call `confirm`, or `confirm_folds`, with a progress bar that counts heads.

    Returns:
        What `confirm` returns.
    """
    title = f"confirming {len(finalists)} finalists with {len(seeds)} seeds"
    with progress_bar(title, len(finalists) * len(seeds), visible=True) as bar:

        def on_epoch(reports: Sequence[EpochReport]) -> None:
            bar.advance(sum(report.finished for report in reports))

        if cross_validation is not None:
            return confirm_folds(
                *(finalists, seeds, cross_validation, settings), rules=rules, on_epoch=on_epoch
            )
        return confirm(finalists, seeds, train, valid, settings, rules=rules, on_epoch=on_epoch)


def board_splits(
    train: Split, valid: Split, tests: Sequence[Split], folds: Folds | None
) -> tuple[Split, ...]:
    """Return the splits that identify a board, train first; with the rows of folds if it has any.

    Boards whose finalists were chosen on other rows are not ranked together.
    """
    return (train, valid, *(() if folds is None else (folds.rows,)), *tests)


def seen_rows(train: Split, folds: Folds | None) -> Split:
    """Return the rows that finalists were trained on: train, or those of all folds."""
    return train if folds is None else folds.rows


def union_of_inputs(configs: Sequence[Config]) -> tuple[str, ...]:
    """Return the inputs that any of the configs reads, in the order of the first config."""
    required = {name for config in configs for name in required_inputs(config)}
    return in_order(required, configs[0])


def is_current(
    out: Path, facts: StudyFacts, finalists: Sequence[Finalist], splits: Sequence[Split]
) -> bool:
    """Return whether a folder holds, unchanged, the leaderboard of this study, trials and data."""
    try:
        recorded = read_provenance(out)
        references = facts.references.to_dict().get("references")
        same = (
            recorded["study_fingerprint"] == facts.fingerprint
            and recorded["n_trials_searched"] == facts.n_trials_searched
            and sorted(one["trial"] for one in recorded["finalists"])
            == sorted(finalist.trial for finalist in finalists)
            and all(recorded["data"][split.name] == fingerprints(split) for split in splits)
            and recorded.get("references", references) == references
        )
        return same and not changed_files(out, recorded["files"])
    except (VerificationError, KeyError, TypeError):
        return False
