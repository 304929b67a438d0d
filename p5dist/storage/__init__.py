"""File systems by URL, atomic files, object storage, and the layout of a run folder."""

from p5dist.storage.folder import Buffer, Folder, open_filesystem
from p5dist.storage.run_folder import RunFolder

__all__ = ["Buffer", "Folder", "RunFolder", "open_filesystem"]
