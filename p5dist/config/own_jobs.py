"""The job files that come with p5dist: the folder jobs/ of the repository, also in a wheel."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent.parent / "jobs"


def names() -> list[str]:
    """The names that stand for a job file of p5dist, such as ``ml-100k``."""
    files = sorted(FOLDER.glob("*.yaml")) + sorted(FOLDER.glob("*/*.yaml"))
    return [file.relative_to(FOLDER).with_suffix("").as_posix() for file in files]


def find(path: str | Path) -> Path:
    """The file of a job: the path itself, or, if there is no such file, the job of p5dist with this
    name."""
    file = Path(path)
    if file.exists() or file.suffix or str(path) not in names():
        return file
    return FOLDER / f"{path}.yaml"
