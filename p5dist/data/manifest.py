"""The manifest of prepared data: what the shards hold and where every row of the log went.

``prepare/manifest.json`` is written last; without it the prepare folder does not exist. Layout::

    prepare/manifest.json
    prepare/shards/part-00000.parquet …        columns.shard_schema
    prepare/vocabulary/item.parquet user.parquet       columns.VOCABULARY
    prepare/vocabulary/item.<attribute>.parquet …      columns.VOCABULARY of attribute values
    prepare/attributes/item.parquet user.parquet       columns.attribute_schema
    prepare/rejected/range-*.parquet shard-*.parquet   columns.REJECTED, if clean.keep_rejected
    prepare/profile.json                       counts and distributions for the report
    prepare/result.json                        versions, machine, time taken
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from p5dist.errors import ShardError
from p5dist.storage import Folder

MANIFEST = "manifest.json"
SCHEMA_VERSION = 4
NEW = ".new"


class ShardFile(BaseModel):
    """One Parquet file of histories."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    """Relative to the prepare folder."""
    bytes: int
    first_row: int
    """Number of its first row in the whole data set; row numbers identify histories."""
    groups: tuple[int, ...]
    """Rows of each row group, in file order."""

    @property
    def rows(self) -> int:
        return sum(self.groups)

    @field_validator("path")
    @classmethod
    def _below_prepare(cls, path: str) -> str:
        if path.startswith("/") or "://" in path or ".." in path.split("/"):
            raise ValueError(f"the path of a shard leaves the prepare folder: {path!r}")
        return path


class InputFile(BaseModel):
    """A raw file that the data was made from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    setting: str
    """Key of the job file that names the file."""
    url: str
    """Absolute path or URL, or ``dataset:NAME/FILE``."""
    bytes: int
    version: str
    """Time of the last change in nanoseconds since 1970; of a remote file its ETag, if there is
    one."""
    digest: str
    """SHA-256 of name, size and content; of a remote file name, size and version."""
    snapshot: str = ""
    """The version of the table that the file is a part of, such as ``delta:/events@12``."""


class Targets(BaseModel):
    """Training interactions that follow another training interaction in their history: most
    objectives and tasks predict these."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    total: int
    rated: int
    """With a rating."""
    by_event: dict[str, int]


class Manifest(BaseModel):
    """Everything that later stages must know about the prepared data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    fingerprint: str
    """Of the input files and the prepare section of the job; resuming checks it."""
    shards: tuple[ShardFile, ...]
    inputs: tuple[InputFile, ...] = ()
    """All raw files, in the order in which they were read."""
    inputs_from: str = ""
    """The folder where relative paths of the job file began."""
    rows_in: int
    """Rows of the raw log."""
    rows_kept: int
    rows_rejected: dict[str, int]
    """By reason; rows_in = rows_kept + the sum of these."""
    rows_by_split: dict[str, int]
    """Interactions by split: train, validation, test; they add up to rows_kept."""
    unknown_items_by_split: dict[str, int] = {}
    """Interactions that were rejected as ``unknown_item``, by the split that they would be in;
    empty: not counted, in data of an earlier version."""
    rows_earlier: int = 0
    """Interactions of the run that this one continues; rows_in + rows_earlier = rows_kept +
    rejected rows."""
    users: int
    """Largest user id; the ids of users who were forgotten are not used again."""
    forgotten: int = 0
    """Users who were forgotten (``p5dist forget``): their rows are empty and stay where they were,
    so that the order of training is the same without them."""
    emptied: str = ""
    """Digest of the ids of these users, in the order in which they left: a private training draws
    other noise for other data."""
    pending: tuple[str, ...] = ()
    """Files, relative to the prepare folder, that are being replaced: their new version is beside
    them, with NEW at the end of its name. While there are some, nothing may be read."""
    users_by_split: dict[str, int]
    """Users with at least one interaction of a split."""
    items: int
    """Largest item id; the catalogue (:mod:`p5dist.data.catalogue`) may leave some of 1…items
    out."""
    unnamed_items: int = 0
    """Items of a hashed vocabulary that share the id of a more frequent item, whose external id the
    id has: lists cannot name them."""
    item_attributes: dict[str, int] = {}
    """Number of values of each item attribute; value ids are 1…n."""
    user_attributes: dict[str, int] = {}
    item_vectors: dict[str, int] = {}
    """Width of each vector of items."""
    user_vectors: dict[str, int] = {}
    item_rows: dict[str, int] = {}
    """Rows of the table about items: ``in``, ``kept`` (the first row of each id), and the rows that
    are left out by reason (malformed, null_id, repeated_id)."""
    user_rows: dict[str, int] = {}
    context: dict[str, int] = {}
    """Number of values of each context column; value ids are 1…n, 0 is none."""
    events: dict[str, float] = {}
    """Weight in training of each event, in the order of their codes from 1."""
    targets: Targets | None = None
    """What training can predict; None: not counted."""
    shard_number: int = 0
    """Shards that users are spread over by a hash of their id; some may be empty and have no file.
    0: in data of an earlier version."""
    id_types: dict[str, str] = {}
    """Arrow type of the ids of users and items, which decides about the hash."""
    key_check: str | None = None
    """Tells keys of pseudonyms apart: the beginning of the pseudonym of ``p5dist``. None: ids are
    those of the log."""
    since: int | None = None
    """Training predicts the interactions from this time on (microseconds since 1970); earlier ones
    are input. None: all."""
    held_out_from: int | None = None
    """With a split by time: time from which on interactions do not train."""
    last_time: int | None = None
    """Time of the latest interaction; None in a log without times."""
    longest_history: int
    rating_mean: float | None = None
    """Mean rating of the training interactions; None where the log has no ratings."""
    rating_range: tuple[float, float] | None = None
    """Smallest and largest rating of the training interactions."""
    split: str
    """The split rule in words."""
    made_from: dict[str, str] = {}
    """By part of the data, the interactions that it was made from: whether validation and test
    were among them."""

    @property
    def rows_in_words(self) -> str:
        """Rows of the log, and of earlier runs."""
        more = f" and {self.rows_earlier:,} of earlier runs" if self.rows_earlier else ""
        return f"{self.rows_in:,} rows in{more}"

    @property
    def histories(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @classmethod
    def load(cls, prepare: Folder) -> Manifest:
        """:meth:`read`, and check that every shard has the size that the manifest states: once at
        the start of a stage, not in each of its workers.

        Raises:
            ShardError: as :meth:`read`; a missing or truncated shard.
        """
        manifest = cls.read(prepare)
        manifest.check_shards(prepare)
        return manifest

    def check_shards(self, prepare: Folder) -> None:
        """Every shard has the size that the manifest states.

        Raises:
            ShardError: a missing or truncated shard.
        """
        for shard in self.shards:
            size = (prepare / shard.path).size()
            if size != shard.bytes:
                raise ShardError(
                    "a shard is missing" if size is None else "a shard is truncated or was changed",
                    where=f"{prepare}/{shard.path}",
                    value=f"{size} bytes",
                    rule=f"the manifest states {shard.bytes} bytes",
                    fix="restore the file, or run the prepare stage again with --fresh",
                )

    @classmethod
    def read(cls, prepare: Folder, *, unfinished: bool = False) -> Manifest:
        """Read ``manifest.json``.

        Args:
            unfinished: also while files are being replaced.

        Raises:
            ShardError: no manifest, or one of another schema version; files are being replaced.
        """
        file = prepare / MANIFEST
        if not file.exists():
            raise ShardError(
                "no prepared data here",
                where=str(file),
                rule="prepare writes the manifest last; without it there is no data set",
                fix="run the prepare stage",
            )
        try:
            manifest = cls.model_validate_json(file.read_bytes())
        except ValidationError as e:
            raise ShardError(
                f"the manifest cannot be read: {e.errors()[0]['msg']}",
                where=str(file),
                fix="run the prepare stage again with --fresh",
            ) from e
        if manifest.schema_version != SCHEMA_VERSION:
            raise ShardError(
                "the prepared data has another schema version",
                where=str(file),
                value=manifest.schema_version,
                rule=f"this version of p5dist reads {SCHEMA_VERSION}",
                fix="run the prepare stage again with --fresh",
            )
        if manifest.pending and not unfinished:
            raise ShardError(
                "people are being removed from the prepared data", where=str(file),
                value=f"{len(manifest.pending)} files are not replaced yet",
                rule="nothing is read until they are",
                fix="run the command p5dist forget to its end: it goes on",
            )  # fmt: skip
        return manifest

    def save(self, prepare: Folder) -> None:
        (prepare / MANIFEST).write_text(self.model_dump_json(indent=2) + "\n")
