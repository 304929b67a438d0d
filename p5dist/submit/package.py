"""What a submission sends: p5dist's own code and the resolved job, as one zip archive."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import p5dist

JOB_FILE = "job.yaml"

_CODE = Path(p5dist.__file__).parent
_TIME = (1980, 1, 1, 0, 0, 0)  # the same content is the same archive, which is sent once


def build_archive(job: str, *, code: bool) -> tuple[str, bytes]:
    """Name and bytes of the archive; the name follows the content.

    Args:
        job: text of the job file.
        code: with the package p5dist: its modules and templates, nothing else.
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
    """Files of the package as it is installed; what runs leave behind is not in there."""
    found = []
    for path in _CODE.rglob("*"):
        inside = path.relative_to(_CODE).parts
        if path.is_file() and not any(p.startswith(".") or p == "__pycache__" for p in inside):
            found.append(path)
    return found
