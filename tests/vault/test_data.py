"""A client's own data: four kinds of sources, one shape, and no value in a message."""

import sqlite3

import numpy as np
import pytest

from jaxfed.vault import _data
from jaxfed.vault._errors import DataError
from jaxfed.vault._plan import Named
from jaxfed.vault._types import Type

ROWS = (
    Named("x", Type("float32", (2,))),
    Named("y", Type("int32", ())),
)
X = np.array([[1.5, 2.0], [-3.0, 4.25], [0.0, 1e3]], np.float32)
Y = np.array([0, 1, 1], np.int32)
SECRET = "8675309.25"  # must be in no message


def csv(folder, text=None):
    path = folder / "data.csv"
    path.write_text(text or "x0,y,x1,name\n1.5,0,2.0,a\n-3,1,4.25,b\n0,1,1e3,c\n")
    return str(path)


def database(folder):
    path = folder / "data.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x0 REAL, x1 REAL, y INTEGER, name TEXT)")
        rows = [(*map(float, x), int(y), "a") for x, y in zip(X, Y, strict=True)]
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows)
    connection.close()
    return str(path)


def archive(folder):
    np.savez(folder / "data.npz", x=X.astype(np.float64), y=Y.astype(np.int64))
    return str(folder / "data.npz")


def function(folder):
    path = folder / "own.py"
    path.write_text(
        "def rows():\n"
        "    return {'x': [[1.5, 2.0], [-3.0, 4.25], [0.0, 1e3]], 'y': [0, 1, 1]}\n"
    )
    return f"{path}:rows"


@pytest.mark.parametrize("source", [csv, database, archive, function])
def test_every_source_gives_the_same_examples(source, tmp_path):
    found = _data.reader(source(tmp_path))(ROWS)
    assert set(found) == {"x", "y"}
    assert found["x"].dtype == np.float32
    assert found["y"].dtype == np.int32
    np.testing.assert_array_equal(found["x"], X)
    np.testing.assert_array_equal(found["y"], Y)


def test_columns_are_named_by_their_owner(tmp_path):
    path = tmp_path / "columns.json"
    path.write_text('{"x": ["x1", "x0"], "y": "y"}')
    read = _data.reader(csv(tmp_path), columns=_data.columns_of(path))
    np.testing.assert_array_equal(read(ROWS)["x"], X[:, ::-1])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x0,y\n1,0\n", r"must have the columns \['x1'\]"),
        ("x0,x0,x1,y\n1,1,2,0\n", "two columns 'x0'"),
        (f"x0,x1,y\n1,{SECRET}a,0\n", "column 'x1' must hold numbers, but example 1"),
        ("x0,x1,y\n1,2,0\n1,,0\n", "but example 2 holds none"),
        (f"x0,x1,y\n1,2,0\n{SECRET},2\n", "line 3, must have 3 columns, got 2"),
        ("x0,x1,y\n1,nan,0\n", "example 1"),
        ("x0,x1,y\n1,1e39,0\n", "beyond its type"),
        (f"x0,x1,y\n1,2,{SECRET}\n", "no int32"),
        ("x0,x1,y\n1,2,3000000000\n", "no int32"),
    ],
)
def test_wrong_csv_is_refused_without_its_values(text, match, tmp_path):
    with pytest.raises(DataError, match=match) as caught:
        _data.reader(csv(tmp_path, text))(ROWS)
    assert "8675309" not in str(caught.value)


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="must be a file"):
        _data.reader(str(tmp_path / "none.csv"))
    (tmp_path / "data.xls").write_text("")
    with pytest.raises(DataError, match="must end in one of"):
        _data.reader(str(tmp_path / "data.xls"))
    np.savez(tmp_path / "bad.npz", x=np.array([{"a": 1}], object), y=Y)
    with pytest.raises(DataError, match="without objects"):
        _data.reader(str(tmp_path / "bad.npz"))(ROWS)
    (tmp_path / "no.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="npz file"):
        _data.reader(str(tmp_path / "no.npz"))(ROWS)
    (tmp_path / "no.db").write_bytes(b"no database")
    with pytest.raises(DataError, match="SQLite file"):
        _data.reader(str(tmp_path / "no.db"))(ROWS)
    with pytest.raises(DataError, match="--table"):
        _data.reader(database(tmp_path), table="other")(ROWS)
    np.savez(tmp_path / "short.npz", x=X[:2], y=Y)
    with pytest.raises(DataError, match="as many examples"):
        _data.reader(str(tmp_path / "short.npz"))(ROWS)
    np.savez(tmp_path / "flat.npz", x=X[:, :1], y=Y)
    with pytest.raises(DataError, match="of shape"):
        _data.reader(str(tmp_path / "flat.npz"))(ROWS)
    with pytest.raises(DataError, match="must have a function"):
        _data.reader(function(tmp_path).replace(":rows", ":other"))(ROWS)
    for text in ("{", "[]", '{"x": 3}'):
        (tmp_path / "columns.json").write_text(text)
        with pytest.raises(DataError):
            _data.columns_of(tmp_path / "columns.json")


def test_a_function_that_fails_says_no_value(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(f"def rows():\n    raise ValueError('{SECRET}')\n")
    with pytest.raises(DataError, match="failed: ValueError; run it alone") as caught:
        _data.reader(f"{path}:rows")(ROWS)
    assert SECRET not in str(caught.value)


def test_a_table_name_is_no_sql(tmp_path):
    path = database(tmp_path)
    with pytest.raises(DataError, match="--table"):
        _data.reader(path, table='t"; DROP TABLE t; --')(ROWS)
    assert len(_data.reader(path)(ROWS)["y"]) == 3


def test_an_empty_client_has_no_examples(tmp_path):
    found = _data.reader(csv(tmp_path, "x0,x1,y\n"))(ROWS)
    assert found["x"].shape == (0, 2)


@pytest.mark.parametrize("source", [csv, database])
def test_a_plan_cannot_ask_for_endless_columns(source, tmp_path):
    read = _data.reader(source(tmp_path))
    wide = Named("x", Type("uint8", (10**6, 200)))
    with pytest.raises(DataError, match="at most 32,768 columns, got 200,000,000"):
        read((wide,))


def test_a_module_that_fails_prints_no_value(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(f"ROWS = float('{SECRET}a')\ndef rows():\n    return ROWS\n")
    with pytest.raises(DataError, match="failed: ValueError; run it alone") as caught:
        _data.reader(f"{path}:rows")(ROWS)
    assert SECRET not in str(caught.value)
    path.write_text("X = 1\n")
    with pytest.raises(DataError, match="must have a function 'rows'"):
        _data.reader(f"{path}:rows")(ROWS)
