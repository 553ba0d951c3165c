"""Writes what k8s/ has in common with the chart anew: `make manifests`.

The chart is the home of these objects and of the reasons in their comments. kustomize gets them as
`helm template` prints them for a dedicated namespace and one team, without what tells of Helm.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.tools import packaged

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "charts/launcher"
DEFINITIONS = CHART / "definitions"
"""Our CRDs, plain files that the chart and k8s/crds share."""
HEADER = "# Made of charts/launcher by make manifests: DO NOT EDIT.\n"
RELEASE, NAMESPACE = "launcher", "webvision-system"
VALUES = {
    "crds": {"enabled": False},
    "dashboards": {"enabled": False},
    "networkPolicy": {"defaultDeny": True},
    "teams": [{"namespace": "webvision"}],
}
"""What k8s/base installs, beside the chart's defaults."""
MARKS = ("helm.sh/chart", "app.kubernetes.io/managed-by", "annotations: {helm.sh/resource-policy")
OF_HELM = re.compile(rf"^ *(?:{'|'.join(map(re.escape, MARKS))}):.*\n", re.MULTILINE)


def main() -> None:
    """Writes the files anew where they differ from the chart."""
    for path, text in made().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


def made() -> dict[Path, str]:
    """The text of each file that is made. Raises tools.Unavailable where there is no Helm."""
    texts = {
        ROOT / "k8s/crds" / path.name: HEADER + path.read_text(encoding="utf-8")
        for path in sorted(DEFINITIONS.glob("*.yaml"))
    }
    for source, document in _documents(template(packaged("helm4"))):
        folder, name = Path(source).parts[-2:]
        path = ROOT / "k8s/base" / folder / name
        texts[path] = f"{texts[path]}---\n{document}" if path in texts else HEADER + document
    return texts


def template(helm: Path) -> str:
    """What a Helm makes of the chart for k8s/base."""
    flags = (f"--namespace={NAMESPACE}", "--no-hooks", "--values=-")
    return subprocess.run(
        [str(helm), "template", RELEASE, str(CHART), *flags],
        input=json.dumps(VALUES),
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def _documents(text: str) -> Iterator[tuple[str, str]]:
    """Each object with the template that it comes from, and without what tells of Helm."""
    for document in re.split(r"^---\n", text, flags=re.MULTILINE):
        if found := re.match(r"# Source: (\S+)\n", document):
            yield found[1], OF_HELM.sub("", document[found.end() :]).strip() + "\n"


if __name__ == "__main__":
    main()
