"""When to start a lost process again, and when it is in vain. Pure: time comes in as an argument.

A process that ends is started again without limit, as OnFailure does, as long as it gets somewhere.
The run fails instead, with the reason, when

- a message begins with `fatal: ` or an exit code is 2: the configuration or the state is wrong, and
  will be wrong the next time;
- one process ended FAILURES_MOST times in a row, each time within HEALTHY_S of its start;
- one worker left the same termination message REPEATS_MOST times in a row, each within REPEAT_S of
  the one before. the agent starts trainers again by itself, so its own end comes late or never.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass

FIRST_BACK_OFF_S = 1.0
LONGEST_BACK_OFF_S = 30.0
"""The kubelet goes up to 300 s: its causes last longer than those on one machine."""
HEALTHY_S = 20.0
"""A process that ran this long has started properly; its next failure counts as the first."""
FAILURES_MOST = 6
"""As a Kubernetes Job's backoffLimit; with the back-off between them about a minute."""
REPEATS_MOST = 5
REPEAT_S = 60.0
FATAL = "fatal: "
"""A termination message that begins so says that repeating is in vain."""
EXIT_USAGE = 2

_ERROR = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b.*")


def back_off_s(failures: int) -> float:
    """The wait before the next start after so many failures in a row: 1 s, doubling to 30 s."""
    return min(LONGEST_BACK_OFF_S, FIRST_BACK_OFF_S * 2.0 ** min(failures - 1, 10))


@dataclass
class Record:
    """What one process has done lately."""

    failures: int = 0
    """In a row, each soon after the start."""
    message: str = ""
    repeats: int = 0
    told_at: float = 0.0

    def told(self, message: str, now: float) -> str:
        """A termination message was written. Returns why the run must fail, or an empty string."""
        is_repeated = message == self.message and now - self.told_at < REPEAT_S
        self.repeats = self.repeats + 1 if is_repeated else 1
        self.message, self.told_at = message, now
        if message.startswith(FATAL):
            return message.removeprefix(FATAL)
        if self.repeats >= REPEATS_MOST:
            return f"{message} ({self.repeats} times in a row)"
        return ""

    def ended(self, ran_s: float, code: int, reason: str) -> str:
        """The process ended, not with success. Returns why the run must fail, or an empty string.

        code: as subprocess gives it, below 0 for a signal.
        """
        self.failures = self.failures + 1 if ran_s < HEALTHY_S else 1
        if code == EXIT_USAGE:
            return reason
        if self.failures >= FAILURES_MOST:
            return f"{reason} ({self.failures} times in a row, each within {HEALTHY_S:.0f} s)"
        return ""


def last_words(lines: Iterable[str]) -> str:
    """The line of a log that best tells why its process failed: the last error, else the last line.

    torchrun closes with its own error, a table and a hint about tracebacks, none of which is it.
    """
    error = last = ""
    for line in lines:
        text = line.strip()
        if not text or set(text) <= set("=-~^* "):
            continue
        last = text
        # Workers' lines may carry torchrun's prefix "[rank0]: " or "[default0]:"
        text = re.sub(r"^\[\w+\]:\s*", "", text)
        if _ERROR.match(text) and not text.startswith("torch.distributed.elastic"):
            error = text
    return (error or last)[:500]


def describe(code: int) -> str:
    """An exit code as subprocess gives it, in words."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
