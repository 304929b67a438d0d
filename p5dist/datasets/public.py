"""Public data sets by name: fetched once into the user's cache, the same files from every source.

Job files name them as ``dataset:NAME/FILE``. No data set is part of p5dist: its licence is shown
when it is fetched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from p5dist.environment.console import console
from p5dist.errors import ConfigError, InstallError

SCHEME = "dataset:"
MARKER = "complete.sha256"
"""Written last, one line ``digest  file`` per file; a folder without it is fetched again."""

_SECONDS = 10.0
"""Limit of the time to connect, and between two reads."""


@dataclass(frozen=True)
class Dataset:
    """A public data set that p5dist can fetch."""

    name: str
    title: str
    homepage: str
    licence: str
    interactions: int
    megabytes: float
    """Size of the files in the cache."""
    files: dict[str, str]
    """File name → SHA-256; the same for every source."""
    sources: tuple[Callable[[Path], dict[str, bytes]], ...]
    """Tried in order. Each gets a scratch folder and returns the files, or raises InstallError."""


def known() -> list[Dataset]:
    """The data sets that :func:`get` knows."""
    return list(_KNOWN.values())


def show(as_json: bool = False) -> None:
    """Print the known data sets, as text or as a JSON list on stdout."""
    if as_json:
        fields = ("name", "title", "homepage", "licence", "interactions", "megabytes", "files")
        rows = [{field: getattr(d, field) for field in fields} for d in known()]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for d in known():
        print(f"{d.name}: {d.title}")
        print(f"  from     {d.homepage}")
        print(f"  size     {d.interactions:,} interactions, {d.megabytes} MB")
        print(f"  files    {', '.join(f'{SCHEME}{d.name}/{file}' for file in d.files)}")
        print(f"  licence  {d.licence}")


def get(name: str, *, cache: Path | None = None) -> Path:
    """The folder with the files of data set ``name``, fetched now if it is not in the cache.

    Args:
        name: for example ``ml-100k``.
        cache: cache folder; left out: the folder of ``P5DIST_CACHE``, else the user's cache folder.

    Raises:
        ConfigError: no such data set.
        InstallError: no source can be reached, or the download has the wrong checksum.
    """
    dataset = _find(name)
    folder = (cache or _cache()) / "datasets" / name
    if (folder / MARKER).exists():
        return folder
    console.print(f"Fetching {dataset.title} into {folder}")
    console.print(f"  licence: {dataset.licence}", style="dim")
    _store(_fetch(dataset), folder)
    return folder


def resolve(files: str) -> str:
    """``dataset:NAME/FILE`` → its path in the cache, fetched if missing; other paths unchanged.

    Raises:
        ConfigError: no such data set or file.
        InstallError: as :func:`get`.
    """
    if not files.startswith(SCHEME):
        return files
    name, _, file = files.removeprefix(SCHEME).partition("/")
    dataset = _find(name)
    if file not in dataset.files:
        raise ConfigError(
            f"data set {name} has no such file", value=files,
            rule=f"it has: {', '.join(dataset.files)}", fix=f"write {SCHEME}{name}/FILE",
        )  # fmt: skip
    return str(get(name) / file)


def _find(name: str) -> Dataset:
    if name not in _KNOWN:
        raise ConfigError(
            "unknown data set", value=name, rule=f"known: {', '.join(_KNOWN)}",
            fix="use a known name, or give the path of your own files",
        )  # fmt: skip
    return _KNOWN[name]


def _cache() -> Path:
    chosen = os.environ.get("P5DIST_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("p5dist"))


def _fetch(dataset: Dataset) -> dict[str, bytes]:
    """Name → content from the first source that gives the right files."""
    failures: list[str] = []
    for source in dataset.sources:
        try:
            with tempfile.TemporaryDirectory(prefix="p5dist-") as scratch:
                files = source(Path(scratch))
            for name, digest in dataset.files.items():
                _check(files[name], digest, name)
        except InstallError as e:
            failures.append(f"{e.what} ({e.where})" if e.where else e.what)
            console.print(f"  {e.what}", style="yellow")
        else:
            return files
    raise InstallError(
        f"data set {dataset.name} cannot be fetched",
        value="; ".join(failures),
        fix="check the network or proxy and try again; or put the files into "
        f"{_cache() / 'datasets' / dataset.name} on a machine with a network, and copy the folder",
    )


def _download(url: str, digest: str, server: str, scratch: Path) -> Path:
    """Download the file at ``url`` and check its SHA-256 ``digest``; tried twice.

    Raises:
        InstallError: the server cannot be reached, or the file has another digest.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")  # the data set and its licence are shown already
    name = url.rsplit("/", 1)[1]
    files = pooch.create(
        scratch, base_url="", registry={name: f"sha256:{digest}"}, urls={name: url},
        retry_if_failed=1,
    )  # fmt: skip
    try:
        return Path(files.fetch(name, downloader=pooch.HTTPDownloader(timeout=_SECONDS)))
    except OSError as e:  # every error of requests is an OSError
        cause = str(getattr(e.args[0] if e.args else e, "reason", e))
        cause = cause.partition("): ")[2] or cause  # without the repr with host and port
        raise InstallError(f"{server} cannot be reached: {cause}", where=url) from e
    except ValueError as e:
        raise _other_file(name, str(e), digest) from e


def _check(content: bytes, digest: str, name: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise _other_file(name, f"sha256 {found}", digest)


def _other_file(name: str, found: str, digest: str) -> InstallError:
    return InstallError(
        f"{name} has the wrong checksum", value=found, rule=f"sha256 {digest}",
        fix="try again; a proxy may have changed or cut the download",
    )  # fmt: skip


def _store(files: dict[str, bytes], folder: Path) -> None:
    """Write beside the target, then rename, so that a folder of this name is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, content in files.items():
            (new / name).write_bytes(content)
        lines = [f"{hashlib.sha256(content).hexdigest()}  {n}\n" for n, content in files.items()]
        (new / MARKER).write_text("".join(lines))
        new.chmod(0o755)
        if not (folder / MARKER).exists():  # no other process was faster
            shutil.rmtree(folder, ignore_errors=True)
            new.replace(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


# MovieLens-100K: from GroupLens, or from the copy in the package recbole, which can be fetched
# wherever packages can be installed. Both have u.data in its original order.

GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
GROUPLENS_SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
RECBOLE = "recbole==1.2.1"
RECBOLE_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"

_GENRES = (  # noqa: SIM905
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
    "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")
"""In the order of the flags in u.item."""
_TITLE_YEAR = re.compile(r"(.*?) *\((\d{4})\)")


def _from_grouplens(scratch: Path) -> dict[str, bytes]:
    archive_file = _download(GROUPLENS_URL, GROUPLENS_SHA256, "GroupLens", scratch)
    with zipfile.ZipFile(archive_file) as archive:
        log, items, users = (archive.read(f"ml-100k/u.{n}") for n in ("data", "item", "user"))
    rows = []
    for line in items.decode("latin-1").splitlines():
        item, title, _, _, _, *flags = line.split("|")
        genres = [name for name, flag in zip(_GENRES, flags, strict=True) if flag == "1"]
        rows.append((item, *_split_title(title), "|".join(genres)))
    return _ml_100k(log, rows, [line.split("|") for line in users.decode("latin-1").splitlines()])


def _from_recbole(scratch: Path) -> dict[str, bytes]:
    """Reads the package as a zip file; it is never imported or installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--only-binary=:all:", "--retries=1", "--dest", str(scratch), RECBOLE]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except subprocess.SubprocessError as e:
        said = str(getattr(e, "stderr", None) or e).strip().splitlines()[-1]
        raise InstallError(f"pip cannot download {RECBOLE}: {said}") from e
    wheel = next(scratch.glob("recbole-*.whl"))
    _check(wheel.read_bytes(), RECBOLE_SHA256, RECBOLE)
    with zipfile.ZipFile(wheel) as archive:
        log, items, users = (
            archive.read(f"recbole/dataset_example/ml-100k/ml-100k.{name}").split(b"\n", 1)[1]
            for name in ("inter", "item", "user")
        )  # each without its header line
    rows = []
    for line in items.decode().splitlines():
        item, title, year, genres = line.split("\t")
        if not year.isdigit():  # "Title (1995) (V)" was cut before its last bracket
            title, year = _split_title(title)
        title = title.replace("unkonwn", "unknown")
        rows.append((item, title, year, genres.replace(" ", "|")))
    return _ml_100k(log, rows, [line.split("\t") for line in users.decode().splitlines()])


def _split_title(text: str) -> tuple[str, str]:
    """``Toy Story (1995)`` → title and year; without a year the year is empty."""
    match = _TITLE_YEAR.match(text)
    return (match[1], match[2]) if match else (text, "")


def _ml_100k(
    log: bytes, items: Iterable[Iterable[str]], users: Iterable[Iterable[str]]
) -> dict[str, bytes]:
    """The files of the data set. u1.base and u1.test equal the files of GroupLens: the test rows
    are the first 20,000 of the log, and both files are sorted by user and item."""
    rows = log.splitlines(keepends=True)

    def by_user_and_item(part: list[bytes]) -> bytes:
        ordered = sorted(part, key=lambda row: [int(field) for field in row.split()[:2]])
        return b"".join(ordered)

    def table(header: str, lines: Iterable[Iterable[str]]) -> bytes:
        return "".join("\t".join(line) + "\n" for line in [header.split(), *lines]).encode()

    return {
        "u.data": log,
        "u1.base": by_user_and_item(rows[20_000:]),
        "u1.test": by_user_and_item(rows[:20_000]),
        "items.tsv": table("item_id title year genres", items),
        "users.tsv": table("user_id age gender occupation zip_code", users),
    }


_KNOWN = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="ml-100k",
            title="MovieLens-100K, 943 users × 1,682 films, 1997–1998",
            homepage="https://grouplens.org/datasets/movielens/100k/",
            licence="GroupLens: no redistribution, no commercial use without permission; cite "
            "Harper and Konstan (2015), The MovieLens Datasets: History and Context, "
            "https://doi.org/10.1145/2827872",
            interactions=100_000,
            megabytes=4.0,
            files={
                "u.data": "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
                "u1.base": "ce253ec86c448b44fb3ba9a30d12dcfc2e9210cbde71efada3730c22e9ac212a",
                "u1.test": "18c6014a4b2c7324f250a63f8904a7b16b2b19f911129e346141507b0cbac950",
                "items.tsv": "a39728086e0707ccabefe317cd76e24abd1891b9fb9c7232e7f651eaf123d222",
                "users.tsv": "d307879922714236e165fd2bc58ed81651098a488a5090e2de5738e81f2d74ae",
            },
            sources=(_from_grouplens, _from_recbole),
        ),
    )
}
