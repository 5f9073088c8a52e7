"""Every exception of headsweep, and the exit code each one ends a command with.

    HeadsweepError
    ├── BadInput                 exit 2: the user can mend it; nothing was written
    │   ├── ConfigError          a config key, value or override
    │   ├── StudyError           a study file, or a study that exists with another definition
    │   ├── ManifestError        a manifest: a missing file or column, a bad row
    │   ├── FeatureError         a feature file: missing, wrong shape, not finite
    │   ├── StorageError         a storage URL that cannot be opened, or holds something else
    │   └── OutputError          a folder that cannot be written
    └── WorkFailed               exit 1: the work began and did not succeed
        ├── TrialFailed          one trial diverged or did not fit; its state is FAIL
        ├── StudyFailed          too many trials failed, or no trial finished
        ├── WorkerFailed         worker processes died again and again
        └── VerificationFailed   a leaderboard differs from what training again gives

A message is one line: what must hold, what was found, and where (`file:key`, `file:row`).
"""


class HeadsweepError(Exception):
    """Base of every error that headsweep raises on purpose."""

    exit_code = 1


class BadInput(HeadsweepError):
    """Something the user gave is not acceptable."""

    exit_code = 2


class ConfigError(BadInput):
    """A config key or value breaks its law."""


class StudyError(BadInput):
    """A study file breaks its schema, or the stored study is another one."""


class ManifestError(BadInput):
    """A manifest cannot be used."""


class FeatureError(BadInput):
    """A feature file cannot be used."""


class StorageError(BadInput):
    """The Optuna storage cannot be opened or is not what it should be."""


class OutputError(BadInput):
    """Results cannot be written where they were asked for."""


class WorkFailed(HeadsweepError):
    """Work had begun and did not succeed."""


class TrialFailed(WorkFailed):
    """One trial failed by itself."""


class StudyFailed(WorkFailed):
    """A study cannot go on."""


class WorkerFailed(WorkFailed):
    """Worker processes ended before the study did."""


class VerificationFailed(WorkFailed):
    """A finished study does not reproduce."""
