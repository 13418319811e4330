"""Tables of every kind give the same federated data."""

import csv
import math

import numpy as np
import pandas
import polars
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfed.data import FederatedData, _tables
from tests.data.test_federated_data import assert_same

KINDS = ["mapping", "pandas", "polars", "pyarrow", "csv"]
TABLE = {
    "age": [30, 41, 52, 63, 29],
    "site": ["b", "a", "b", "c", "a"],
    "dose": [0.5, 1.25, -3.0, 1e-3, 2e6],
    "sick": [0, 1, 1, 0, 1],
}


def read(kind, columns, path, **options):
    """Builds from the same columns as one kind of table."""
    options = {"client": "site", "label": "sick"} | options
    if kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(
                ["" if value is None else value for value in row]
                for row in zip(*columns.values(), strict=True)
            )
        return FederatedData.from_csv(path, **options)
    build = {
        "mapping": dict,
        "pandas": pandas.DataFrame,
        "polars": lambda c: polars.DataFrame(c, strict=False),
        "pyarrow": pyarrow.table,
    }[kind]
    return FederatedData.from_frame(build(columns), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_values_go_where_they_belong(kind, tmp_path):
    data = read(kind, TABLE, tmp_path / "t.csv")
    assert data.client_ids.tolist() == ["a", "b", "c"]
    assert data.client_ids.dtype.kind == "U"
    assert data.arrays["x"].dtype == np.float32
    assert data.arrays["y"].dtype == np.int32
    expected = {
        "a": ([[41, 1.25], [29, 2e6]], [1, 1]),
        "b": ([[30, 0.5], [52, -3.0]], [0, 1]),
        "c": ([[63, 1e-3]], [0]),
    }
    for client, (x, y) in expected.items():
        np.testing.assert_array_equal(data.client(client)["x"], np.float32(x))
        np.testing.assert_array_equal(data.client(client)["y"], y)


@pytest.mark.parametrize("kind", KINDS)
def test_features_come_in_the_asked_order(kind, tmp_path):
    data = read(kind, TABLE, tmp_path / "t.csv", features=["dose", "age"])
    np.testing.assert_array_equal(data.client("c")["x"], np.float32([[1e-3, 63]]))
    one = read(kind, TABLE, tmp_path / "u.csv", features=("age",))
    np.testing.assert_array_equal(one.client("a")["x"], [[41], [29]])


@pytest.mark.parametrize("kind", KINDS)
def test_integer_clients_stay_integers(kind, tmp_path):
    columns = TABLE | {"site": [2**40, -7, 2**40, 0, -7]}
    data = read(kind, columns, tmp_path / "t.csv")
    assert data.client_ids.tolist() == [-7, 0, 2**40]
    assert data.client_ids.dtype.kind == "i"
    np.testing.assert_array_equal(data.client(-7)["x"][:, 0], [41, 29])


@pytest.mark.parametrize("kind", KINDS)
def test_labels_keep_their_kind(kind, tmp_path):
    numbers = read(kind, TABLE | {"sick": [0.5, 1.0, 2.0, 0.0, 1.0]}, tmp_path / "t")
    assert numbers.arrays["y"].dtype == np.float32
    np.testing.assert_array_equal(numbers.client("b")["y"], [0.5, 2.0])
    if kind != "csv":  # a CSV file has no booleans
        flags = read(kind, TABLE | {"sick": [False, True, True, False, True]}, None)
        assert_same(flags, read(kind, TABLE, None))


@st.composite
def tables(draw):
    count = draw(st.integers(1, 8))

    def column(values):
        return draw(st.lists(values, min_size=count, max_size=count))

    words = st.text("abcz é-,\"'", min_size=1, max_size=5).filter(str.strip)
    return {
        "site": column(words) if draw(st.booleans()) else column(st.integers(-9, 99)),
        "a": column(st.floats(width=32, allow_nan=False, allow_infinity=False)),
        "b": column(st.integers(-(2**24), 2**24)),
        "sick": column(st.integers(0, 9)),
    }


@given(tables())
def test_every_kind_of_table_gives_the_same_data(tmp_path_factory, columns):
    path = tmp_path_factory.getbasetemp() / "table.csv"
    mapping = read("mapping", columns, None)
    expected = FederatedData.from_arrays(
        {
            "x": np.array([columns["a"], columns["b"]], np.float32).T,
            "y": np.array(columns["sick"], np.int32),
        },
        client=columns["site"],
    )
    assert_same(mapping, expected)
    for kind in KINDS[1:]:
        assert_same(read(kind, columns, path), mapping)


def test_columns_of_arrays_and_indexes_change_nothing():
    plain = FederatedData.from_frame(TABLE, client="site", label="sick")
    arrays = {name: np.array(values) for name, values in TABLE.items()}
    assert_same(FederatedData.from_frame(arrays, client="site", label="sick"), plain)
    shuffled = pandas.DataFrame(TABLE, index=[9, 9, 1, 0, 4])
    assert_same(FederatedData.from_frame(shuffled, client="site", label="sick"), plain)
    categories = shuffled.assign(site=shuffled["site"].astype("category"))
    assert_same(
        FederatedData.from_frame(categories, client="site", label="sick"), plain
    )
    halves = pyarrow.concat_tables([pyarrow.table(TABLE)[:2], pyarrow.table(TABLE)[2:]])
    assert_same(FederatedData.from_frame(halves, client="site", label="sick"), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_table_gives_can_be_saved(kind, tmp_path):
    data = read(kind, TABLE, tmp_path / "t.csv")
    data.save(tmp_path / "data")
    assert_same(FederatedData.open(tmp_path / "data"), data)


# ---- refusals


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"client": "sites"}, r"no column 'sites'; did you mean 'site'\?$"),
        ({}, {"label": "outcome"}, r"no column 'outcome'; columns are \['age', 's"),
        ({}, {"features": ["age", "dos"]}, r"no column 'dos'; did you mean 'dose'\?"),
        ({}, {"features": []}, "no feature columns; add one or name them"),
        ({}, {"features": ["age", "sick"]}, "must not hold the label 'sick'"),
        (
            {"dose": ["low", "high", "low", "low", "low"]},
            {},
            "column 'dose' holds 'low', which is no number; encode it",
        ),
        (
            {"sick": ["yes", "no", "no", "no", "no"]},
            {},
            "column 'sick' holds 'yes', which is no number; encode it",
        ),
        (
            {"dose": [0.5, None, 1.0, 2.0, 3.0]},
            {},
            "array 'x' of client 'a' has NaN or infinity in its row 0; drop the row",
        ),
        (
            {"age": [1, 2, 3, 4, None]},
            {},
            "array 'x' of client 'a' has NaN or infinity in its row 1; drop the row",
        ),
        (
            {"sick": [0, 1, None, 1, 0]},
            {},
            "array 'y' of client 'b' has NaN or infinity in its row 1",
        ),
        (
            {"site": [1, 2, None, 1, 2]},
            {},
            "client must hold integers or strings, got .*(float|NoneType)|"
            "column 'site' names no client in row 2; fill it in or drop the row",
        ),
        ({"sick": [0, 1, 2**31, 1, 0]}, {}, "'sick' holds labels outside int32, 0 to"),
    ],
)
def test_a_refusal_says_what_to_do(kind, changes, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(kind, TABLE | changes, tmp_path / "t.csv", **options)


def test_a_name_where_a_list_belongs():
    with pytest.raises(TypeError, match=r"list of column names, got 'age'; pass \["):
        FederatedData.from_frame(TABLE, client="site", label="sick", features="age")


@pytest.mark.parametrize("frame", [np.ones((2, 2)), [1, 2], None, "table.csv"])
def test_what_is_no_table_is_refused(frame):
    with pytest.raises(TypeError, match=r"table with named columns, got \w+; pass a p"):
        FederatedData.from_frame(frame, client="site", label="sick")


def test_columns_without_distinct_words_for_names_are_refused():
    frame = pandas.DataFrame(TABLE)
    numbered = frame.rename(columns={"age": 0})
    with pytest.raises(ValueError, match=r"named by words, got 0; .*astype\(str\)"):
        FederatedData.from_frame(numbered, client="site", label="sick")
    repeated = frame.rename(columns={"age": "dose"})
    with pytest.raises(ValueError, match=r"different names, got .*'dose'.*rename"):
        FederatedData.from_frame(repeated, client="site", label="sick")


def test_mixed_values_show_the_odd_one():
    columns = TABLE | {"age": np.array([1, 2.5, None, "old", 3], object)}
    with pytest.raises(ValueError, match="'age' holds 'old', which is no number"):
        FederatedData.from_frame(columns, client="site", label="sick")


# ---- CSV


def test_csv_columns_become_the_narrowest_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        '\ufeffwhole,part,gap,word,"a, b"\n1,1,1,1,-2\n\n-2,0.5,,x,1e3\n',
        encoding="utf-8",
    )
    found = _tables.read_csv(path, "id")
    assert list(found) == ["whole", "part", "gap", "word", "a, b"]
    assert found["whole"].dtype == np.int64
    assert found["whole"].tolist() == [1, -2]
    assert found["part"].dtype == np.float64
    assert found["part"].tolist() == [1.0, 0.5]
    assert found["gap"][0] == 1.0
    assert math.isnan(found["gap"][1])
    assert found["word"].tolist() == ["1", "x"]
    assert found["a, b"].tolist() == [-2.0, 1000.0]


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        (["7", "-8", "0"], [-8, 0, 7]),
        (["7", "007", "07"], ["007", "07", "7"]),
        (["1_12", "11_2", "112"], ["112", "11_2", "1_12"]),
        (["1", "1.0", "1e0"], ["1", "1.0", "1e0"]),
        (["nan", "inf", " 1"], [" 1", "inf", "nan"]),
    ],
)
def test_csv_never_merges_clients_that_are_written_differently(written, ids, tmp_path):
    path = tmp_path / "t.csv"
    lines = [f"{name},{i},0" for i, name in enumerate(written)]
    path.write_text("\n".join(["site,age,sick", *lines]))
    data = FederatedData.from_csv(path, client="site", label="sick")
    assert data.client_ids.tolist() == ids
    for i, name in enumerate(written):
        client = int(name) if isinstance(ids[0], int) else name
        assert data.client(client)["x"].tolist() == [[i]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_nobody_is_refused(kind, tmp_path):
    columns = TABLE | {"site": ["b", "a", "b", "", "a"]}
    with pytest.raises(ValueError, match="'site' names no client in row 3; fill it in"):
        read(kind, columns, tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no examples; it needs a header and one line"),
        ("site,age,sick\n", "has no examples"),
        ("site,age,sick\n\n\n", "has no examples"),
        ("site,age,sick\na,1,0\nb,2\n", "has 2 values in example 2 but 3 columns"),
        ("site,age,sick\na,1,0,9\n", "has 4 values in example 1 but 3 columns; mend"),
        ("site,age,age,sick\na,1,2,0\n", "has two columns 'age'; rename one"),
    ],
)
def test_a_broken_file_is_refused(text, message, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        FederatedData.from_csv(path, client="site", label="sick")
    assert "table.csv" in str(caught.value)
