"""What the launcher refuses or fails at, and the exit code each has.

LauncherError (1)      failed at run time
├── UsageError (2)     wrong flags, settings or job file; nothing was done
├── NotFound (3)       no such job
├── Refused (4)        the budget says no
├── Conflict (5)       exists already, or changed meanwhile
├── TimedOut (6)       waited long enough
├── JobFailed (7)      the job itself ended in failure
├── Unreachable (1)    the API server does not answer, or not as one
├── Forbidden (1)      its credentials or rights do not suffice
└── Rejected (1)       the API server, a quota or a webhook does not take the object

Each is one line on stderr: what is wrong with its value, where, what is allowed, what to do.
Anything else that escapes is a defect and keeps its traceback. The trainer's ConfigError counts as
UsageError, its StorageError as LauncherError.
"""


class LauncherError(Exception):
    """Something outside refused or failed; one line tells what and where."""

    exit_code = 1


class UsageError(LauncherError):
    """Flags, settings or a job file are wrong; nothing was done."""

    exit_code = 2


class NotFound(LauncherError):
    """There is no such job."""

    exit_code = 3


class Refused(LauncherError):
    """The budget does not allow it. kind: the word that such refusals are counted by."""

    exit_code = 4

    def __init__(self, reason: str, kind: str = "NotAllowed") -> None:
        super().__init__(reason)
        self.kind = kind


class Conflict(LauncherError):
    """It exists already, or somebody else changed it meanwhile."""

    exit_code = 5


class TimedOut(LauncherError):
    """The wait is over and the job is not."""

    exit_code = 6


class JobFailed(LauncherError):
    """The job ended in failure."""

    exit_code = 7


class Unreachable(LauncherError):
    """The API server does not answer in time, or what answers is none; trying again may help."""


class Forbidden(LauncherError):
    """The API server knows who asks, and does not allow it; or does not know who asks."""


class Rejected(LauncherError):
    """The API server, a quota or an admission webhook does not take the object."""
