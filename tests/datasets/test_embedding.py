"""Texts become vectors: those of the model, in the rows of the table, as prepare reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from p5dist.cli.main import app
from p5dist.datasets.embedding import Embedding, run, texts
from p5dist.errors import ConfigError, DataError, P5Error, StorageError

WORDS = ["red", "blue", "lamp", "chair", "old", "new"]
CSV = 'id,title,maker\n007,Red lamp,ACME\n8,,\n9,"old, blue chair",\n10,  ,new\n'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of one layer and 8 numbers with random weights, over six words."""
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer, models
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]))
    plain = folder / "plain"
    BertTokenizerFast(
        tokenizer_object=BertWordPieceTokenizer(str(folder / "vocab.txt"))._tokenizer
    ).save_pretrained(plain)
    config = BertConfig(
        vocab_size=len(special) + len(WORDS), hidden_size=8, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(plain)
    words = models.Transformer(str(plain), max_seq_length=16)
    whole = SentenceTransformer(modules=[words, models.Pooling(8)], device="cpu")
    whole.save(str(folder / "whole"))
    return str(folder / "whole")


def test_joined_texts() -> None:
    table = pa.table({"a": ["x", None, " ", "u "], "b": [1, 2, None, None]})
    assert texts(table, ("a", "b")).to_pylist() == ["x. 1", "2", "", "u"]
    assert texts(table, ("b",)).to_pylist() == ["1", "2", "", ""]


def test_every_row_has_the_vector_of_its_text(
    model: str, tmp_path: Path, ray_session: None
) -> None:
    from sentence_transformers import SentenceTransformer

    (tmp_path / "items.csv").write_text(CSV)
    out = tmp_path / "out"
    words = ["embed", str(tmp_path / "items.csv"), str(out), "--column", "title", "--column",
             "maker", "--model", model, "--batch-size", "3", "--actors", "1", "--json"]  # fmt: skip
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"out": str(out), "rows": 4, "embedded": 3, "width": 8, "files": 1}
    table = pq.read_table(out)
    assert table["id"].to_pylist() == ["007", "8", "9", "10"], "ids stay what they are"
    assert table["maker"].to_pylist()[0] == "ACME"
    expected = SentenceTransformer(model, device="cpu").encode(
        ["Red lamp. ACME", "old, blue chair", "new"]
    )
    found = table["vector"].to_pylist()
    assert found[1] is None
    np.testing.assert_allclose([found[0], *found[2:]], expected, atol=1e-5)
    with pytest.raises(StorageError, match="has files"):
        run(str(tmp_path / "items.csv"), str(out), Embedding(("title",), model))


@pytest.mark.parametrize(
    ("given", "kind", "match"),
    [
        ({"columns": ("name",)}, DataError, "no such column"),
        ({"vector": "maker"}, DataError, "this name already"),
        ({"model": "/no/such/folder"}, ConfigError, "cannot be loaded"),
    ],
)
def test_mistakes(
    given: dict[str, Any], kind: type[P5Error], match: str, model: str, tmp_path: Path,
    ray_session: None,
) -> None:  # fmt: skip
    (tmp_path / "items.csv").write_text(CSV)
    wanted = Embedding(**{"columns": ("title",), "model": model} | given)
    with pytest.raises(kind, match=match):
        run(str(tmp_path / "items.csv"), str(tmp_path / "out"), wanted, actors=1)


def test_a_format_that_the_name_does_not_tell(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ConfigError, match="format of the table"):
        run(str(tmp_path / "items.dat"), str(tmp_path / "out"), Embedding(("title",), "x"))
