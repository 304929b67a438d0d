"""The zip archive of a submission: p5dist's own code and the resolved job."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import p5dist

JOB_FILE = "job.yaml"

_CODE = Path(p5dist.__file__).parent
_TIME = (1980, 1, 1, 0, 0, 0)  # fixed, so that the same content gives the same archive


def build_archive(job: str, *, code: bool) -> tuple[str, bytes]:
    """Name and bytes of the archive; the name is a hash of the content.

    Args:
        job: text of the job file.
        code: include the installed files of the package p5dist.
    """
    files = {JOB_FILE: job.encode()}
    if code:
        files |= {f"p5dist/{p.relative_to(_CODE).as_posix()}": p.read_bytes() for p in _sources()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, _TIME)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name])
    digest = hashlib.sha256(b"".join(n.encode() + b"\0" + files[n] for n in sorted(files)))
    return f"_ray_pkg_{digest.hexdigest()[:16]}.zip", buffer.getvalue()


def _sources() -> list[Path]:
    """Installed files of the package, without hidden files and __pycache__."""
    found = []
    for path in _CODE.rglob("*"):
        inside = path.relative_to(_CODE).parts
        if path.is_file() and not any(p.startswith(".") or p == "__pycache__" for p in inside):
            found.append(path)
    return found
