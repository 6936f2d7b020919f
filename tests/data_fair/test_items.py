import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_fair import DEFAULT_TEXT_FIELDS, read_items
from data_fair.item_text import clean, field_text, short_title


def jsonl(*records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def write(path, raw):
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


RECORDS = [
    {"id": 2, "title": "Salt &amp;  pepper\n mill", "brand": "Mila", "categories": [["Home", "Kitchen"], ["Gifts"]]},
    {"id": 1, "title": "Kettle", "year": 1999.0, "genres": ["A", "B"], "price": 3, "brand": None, "description": []},
]
EXPECTED = [
    {
        "item_id": "2",
        "title": "Salt & pepper mill",
        "text": "Salt & pepper mill. Mila. Home > Kitchen, Gifts",
    },
    {"item_id": "1", "title": "Kettle", "text": "Kettle. A, B. 1999"},
]


@pytest.mark.parametrize("name", ["items.jsonl", "items.json.gz"])
def test_reads_json_lines(tmp_path, cache, name):
    assert read_items(write(tmp_path / name, jsonl(*RECORDS)), cache_dir=cache).to_list() == EXPECTED


def test_reads_csv_and_parquet(tmp_path, cache):
    comma = write(tmp_path / "items.csv.gz", b'asin,title,brand,price\nB1,"Mill, large",Mila,3\nB0,,Mila,4\n')
    table = pa.table({"asin": ["B2", "B3"], "title": ["Pan", None], "brand": [None, "Orto"], "year": [1999.0, None]})
    pq.write_table(table, tmp_path / "items.parquet")
    assert read_items([comma, tmp_path / "items.parquet"], cache_dir=cache).to_list() == [
        {"item_id": "B1", "title": "Mill, large", "text": "Mill, large. Mila"},
        {"item_id": "B0", "title": "Mila", "text": "Mila"},
        {"item_id": "B2", "title": "Pan", "text": "Pan. 1999"},
        {"item_id": "B3", "title": "Orto", "text": "Orto"},
    ]


def test_id_columns_in_order_of_preference_and_by_name(tmp_path, cache):
    path = write(tmp_path / "items.jsonl", jsonl({"asin": "A", "id": 1, "sku": "S", "title": "t"}))
    assert read_items(path, cache_dir=cache)["item_id"][:] == ["1"]
    assert read_items(path, id_column="sku", cache_dir=cache)["item_id"][:] == ["S"]


def test_text_fields_and_title_column(tmp_path, cache):
    path = write(tmp_path / "items.jsonl", jsonl({"id": 1, "name": "Mill", "brand": "Mila", "note": "x"}))
    assert read_items(path, title_column="name", cache_dir=cache)[0]["text"] == "Mill. Mila"
    chosen = read_items(path, title_column="name", text_fields=["note", "name"], cache_dir=cache)
    assert chosen[0] == {"item_id": "1", "title": "Mill", "text": "x. Mill"}


def test_a_text_field_that_no_file_has_is_named(tmp_path, cache):
    (tmp_path / "a.csv").write_text("id,title\n1,tent\n")
    (tmp_path / "b.csv").write_text("id,title,note\n2,lamp,small\n")
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    assert read_items(files, text_fields=["title", "note"], cache_dir=cache)["text"][1] == "lamp. small"
    with pytest.raises(ValueError, match="No items file has nota"):
        read_items(files, text_fields=["title", "nota"], cache_dir=cache)


def test_items_that_have_vectors_need_no_text_field(tmp_path, cache):
    (tmp_path / "items.csv").write_text("item_id\n1\n2\n")
    items = read_items(tmp_path / "items.csv", allow_items_without_text=True, cache_dir=cache)
    assert items["title"][:] == ["1", "2"] and items["text"][:] == ["", ""]


def test_items_without_text_only_where_allowed(tmp_path, cache, left_behind):
    path = write(tmp_path / "items.jsonl", jsonl(RECORDS[0], {"id": "bare", "title": "  "}))
    with pytest.raises(ValueError, match=r"line 2.*'bare' has no text.*allow_items_without_text"):
        read_items(path, cache_dir=cache)
    assert left_behind() == []
    bare = read_items(path, allow_items_without_text=True, cache_dir=cache)[1]
    assert bare == {"item_id": "bare", "title": "bare", "text": ""}


TWICE = jsonl({"id": 1, "title": "a"}, {"id": 2, "title": "b"}, {"id": "1", "title": "c"})
BAD_FILES = {
    "id twice": ("items.jsonl", TWICE, ["line 3", "'1' again", "line 1"]),
    "no id column": ("items.csv", b"sku,title\n1,a\n", ["no id column", "asin", "'sku'", "id_column"]),
    "no id": ("items.jsonl", jsonl({"id": 1, "title": "a"}, {"title": "b"}), ["line 2", "no item id"]),
    "no text fields": ("items.csv", b"id,price\n1,2\n", ["none of the text fields", "'price'", "text_fields"]),
    "empty": ("items.jsonl", b"", ["is empty"]),
    "header only": ("items.csv", b"id,title\n", ["is empty"]),
    "cut gzip": ("items.jsonl.gz", gzip.compress(TWICE)[:-9], ["broken gzip"]),
    "not UTF-8": ("items.csv", b"id,title\n1,a\n2,\xe9t\xe9\n", ["line 3", "UTF-8"]),
    "malformed json": ("items.jsonl", b'{"id": 1, "title": "a"}\n{"id": 2,\n', ["line 2", "malformed JSON"]),
    "long row": ("items.csv", b"id,title\n1,a\n2,b,c\n", ["line 3", "3 fields"]),
    "open quote": ("items.csv", b'id,title\n1,a\n2,"b\n', ["line 3", "malformed CSV"]),
    "unknown extension": ("items.xml", b"<a/>", ["unknown extension"]),
    "no parquet": ("items.parquet", b"PAR1", ["Parquet"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_give_one_sentence_and_leave_nothing(tmp_path, cache, left_behind, case):
    name, raw, expected = BAD_FILES[case]
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(ValueError) as error:
        read_items(path, cache_dir=cache)
    assert all(part in str(error.value) for part in (str(path), *expected)), error.value
    assert len(str(error.value).splitlines()) == 1
    assert left_behind() == []


def test_wrong_arguments(tmp_path, cache):
    path = write(tmp_path / "items.jsonl", jsonl(*RECORDS))
    with pytest.raises(ValueError, match="'sku'.*set id_column"):
        read_items(path, id_column="sku", cache_dir=cache)
    with pytest.raises(ValueError, match="'name'.*set title_column"):
        read_items(path, title_column="name", cache_dir=cache)
    with pytest.raises(ValueError, match="none of the text fields.*'story'"):
        read_items(path, text_fields=["story"], cache_dir=cache)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_items(tmp_path / "nowhere.csv", cache_dir=cache)


def test_an_id_twice_in_two_files_names_both(tmp_path, cache):
    first = write(tmp_path / "a.jsonl", jsonl({"id": 1, "title": "a"}))
    second = write(tmp_path / "b.csv", b"id,title\n2,b\n1,a\n")
    with pytest.raises(ValueError, match=r"b\.csv, line 3 .*a\.jsonl, line 1"):
        read_items([first, second], cache_dir=cache)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("categories", ["Home", "Kitchen"], "Home > Kitchen"),
        ("categories", [["Home", "", "Kitchen"], ["Gifts"]], "Home > Kitchen, Gifts"),
        ("features", ["red", None, "small"], "red, small"),
        ("details", {"Color": "red", "Size": 3}, "red, 3"),
        ("year", float("nan"), ""),
        ("price", 3.5, "3.5"),
    ],
)
def test_fields_as_text(name, value, expected):
    assert field_text(name, value) == expected


@given(st.text())
def test_cleaned_text_has_single_spaces_and_titles_are_short(text):
    cleaned = clean(text)
    assert cleaned == " ".join(cleaned.split())
    title = short_title(cleaned)
    assert len(title) <= 80 and cleaned.startswith(title) and bool(title) == bool(cleaned)


@pytest.mark.parametrize(("name", "items"), [("beauty", 12_101), ("sports", 18_357), ("ml-100k", 1_682)])
def test_real_items_all_have_text(real_data, cache, name, items):
    dataset = read_items(real_data / name / "items.jsonl.gz", cache_dir=cache)
    assert dataset["item_id"][:] == [str(k) for k in range(1, items + 1)]
    assert all(dataset["text"][:]) and all(dataset["title"][:])


def test_default_fields_start_with_the_title():
    assert DEFAULT_TEXT_FIELDS[:3] == ("title", "brand", "categories")
