"""python -m launcher, and the command `launcher`."""

from __future__ import annotations

import gc


def main() -> None:
    """Runs the command line and leaves with its exit code.

    Garbage is not collected: what a verb imports and reads stays until its end, and looking through
    it again and again takes a quarter of a status. Verbs that go on turn that on again.
    """
    gc.disable()
    from launcher.cli import main as run

    try:
        run()
    finally:
        gc.freeze()  # the interpreter's end looks through what is not


if __name__ == "__main__":
    main()
