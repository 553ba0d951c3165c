"""Writes the dashboards' JSON anew: `make dashboards`."""

from __future__ import annotations

from tools.dashboards import budget, fleet, training
from tools.dashboards.panels import render
from tools.dashboards.server import ROOT

FOLDER = ROOT / "charts/launcher/dashboards"
BOARDS = (training.BOARD, budget.BOARD, fleet.BOARD)


def files() -> dict[str, str]:
    """The text of every dashboard by its file's name."""
    return {f"{board.uid}.json": render(board, BOARDS) for board in BOARDS}


def main() -> None:
    """Writes what differs, and removes what is no dashboard any more."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = files()
    for path in FOLDER.glob("*.json"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
