"""An attribute kind of a user, named in the job file by its path, through the whole stage."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from p5dist.config import dump_job, parse_job
from p5dist.errors import ConfigError
from tests.prepare.runs import make_job, prepared

OWN = "tests.prepare.attribute_kinds.own"
CODES = ["AB1", "AB2", "C1", "", "AB3", "C2"]
PATHS = ["home > kitchen > knife", "home > kitchen", "home", "", "toys", "home > bath"]


def test_kinds_of_a_user(tmp_path: Path) -> None:
    log = "".join(f"u{n},{(n + m) % 6},{CODES[m]}\n" for n in range(4) for m in range(6))
    (tmp_path / "log.csv").write_text(f"user,item,code\n{log}")
    rows = "".join(f"{i},{code},{PATHS[i]}\n" for i, code in enumerate(CODES))
    (tmp_path / "items.csv").write_text(f"id,code,path\n{rows}")
    prefix = {"kind": f"{OWN}:Prefix", "length": 2}
    columns = {"user": "user", "item": "item", "context": {"shop": {**prefix, "column": "code"}}}
    items = {
        "files": str(tmp_path / "items.csv"), "id": "id",
        "attributes": {"code": prefix, "path": {"kind": f"{OWN}:Ancestors", "min_count": 2}},
    }  # fmt: skip
    job = make_job(tmp_path, {"files": str(tmp_path / "log.csv"), "columns": columns}, items=items)
    assert parse_job(dump_job(job)) == parse_job(dump_job(job, defaults=False)) == job
    manifest, folder = prepared(job)
    assert manifest.item_attributes == {"code": 3, "path": 2}
    assert manifest.context == {"context.shop": 3}

    def values(name: str) -> list[tuple[str, int]]:
        table = pq.read_table(folder / f"vocabulary/{name}.parquet")
        return list(zip(table["external_id"].to_pylist(), table["count"].to_pylist(), strict=True))

    assert values("item.code") == [("AB", 3), ("C1", 1), ("C2", 1)]
    assert values("item.path") == [("home", 4), ("home > kitchen", 2)]
    assert sorted(name for name, _ in values("context.shop")) == ["AB", "C1", "C2"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{length: 2, lenght: 3}", "attributes.code.lenght: unknown key"),
        ("{}", "attributes.code.length: missing"),
        ("{length: 0}", "attributes.code.length: Input should be greater than 0"),
    ],
)
def test_settings_of_a_kind_of_a_user_are_checked(settings: str, said: str) -> None:
    text = (
        "name: small\nprepare:\n  source: {files: log.csv}\n"
        f"  items: {{files: i.csv, id: i, attributes: {{code: {{kind: '{OWN}:Prefix', "
        f"{settings[1:]}}}}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        parse_job(text)
    assert caught.value.what == f"prepare.items.{said}"
