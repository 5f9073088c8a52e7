"""Every exception of headsweep, and the exit code each one ends a command with.

    HeadsweepError
    ├── InputError                 exit 2: the user can fix it; nothing was written
    │   ├── ConfigError          a config key, value or override
    │   ├── StudyError           a study file, or a study that exists with another definition
    │   ├── ManifestError        a manifest: a missing file or column, a bad row
    │   ├── FeatureError         a feature file: missing, wrong shape, not finite
    │   ├── StorageError         a storage URL that cannot be opened, or holds something else
    │   ├── LaunchError          workers that cannot be started where they were asked for
    │   └── OutputError          a folder that cannot be written
    └── WorkError               exit 1: the work began and did not succeed
        ├── TrialError          one trial diverged or did not fit; its state is FAIL
        ├── SearchError          too many trials failed, or no trial finished
        ├── StudyDeletedError   a study was deleted or replaced while it was worked on
        ├── WorkerError         worker processes crashed again and again
        └── VerificationError   a leaderboard differs from what training again gives

A message is one line: where (`file:key`, `file:row`), what is wrong, what was expected, the fix.
"""

WARNING_PREFIX = "Warning: "
"""Begins the line with which a command shows a `HeadsweepWarning`."""
ERROR_PREFIX = "Error: "
"""Begins the line with which a command, and so a worker's log, ends on an error."""


class HeadsweepError(Exception):
    """Base of every error that headsweep raises on purpose."""

    exit_code = 1


class InputError(HeadsweepError):
    """Something the user gave is not acceptable."""

    exit_code = 2


class ConfigError(InputError):
    """A config key or value is not allowed."""


class StudyError(InputError):
    """A study file breaks its schema, or the stored study is another one."""


class ManifestError(InputError):
    """A manifest cannot be used."""


class FeatureError(InputError):
    """A feature file cannot be used."""


class StorageError(InputError):
    """The Optuna storage cannot be opened or is not what it should be."""


class UnreachableStorageError(StorageError):
    """The Optuna storage cannot be reached at present; it may come back."""


class LaunchError(InputError):
    """A scheduler is missing, or refuses the workers."""


class OutputError(InputError):
    """Results cannot be written where they were asked for."""


class WorkError(HeadsweepError):
    """Work had begun and did not succeed."""


class TrialError(WorkError):
    """One trial failed by itself."""


class SearchError(WorkError):
    """A study cannot go on."""


class StudyDeletedError(WorkError):
    """A study was deleted, renamed or replaced while a process worked on it."""


class WorkerError(WorkError):
    """Worker processes ended before the study did."""


class VerificationError(WorkError):
    """A finished study does not reproduce."""


class HeadsweepWarning(UserWarning):
    """Something given is accepted but probably not meant; the command line shows it as one line."""
