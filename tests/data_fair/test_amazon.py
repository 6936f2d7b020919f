import gzip
import json

import pytest

from data_fair import amazon_interactions, amazon_items


def write(path, lines):
    path.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))
    return path


def review(year, user, item, time):
    if year == 2023:
        return json.dumps({"rating": 5.0, "user_id": user, "asin": "other", "parent_asin": item, "timestamp": time})
    return json.dumps({"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": time})


METADATA = {
    2014: [
        "{'asin': 'B2', 'title': \"Nail &amp; polish\", 'brand': 'Opa', 'categories': [['Beauty', 'Nails']]}",
        "{'asin': 'B1', 'description': 'It\\'s soap', 'related': {'also_bought': ['B2']}}",
        "{'asin': 'B3'}",
    ],
    2018: [
        json.dumps({"asin": "B2", "title": "Nail & polish", "brand": "Opa", "category": ["Beauty", "Nails"]}),
        json.dumps({"asin": "B1", "feature": ["It's soap"]}),
        json.dumps({"asin": "B2", "title": "Later line of the same item"}),
        json.dumps({"asin": "B3"}),
    ],
    2023: [
        json.dumps({"parent_asin": "B2", "title": "Nail & polish", "store": "Opa", "categories": ["Beauty", "Nails"]}),
        json.dumps({"parent_asin": "B1", "description": ["It's soap"], "details": {"asin": "B9"}}),
        json.dumps({"parent_asin": "B3", "title": None}),
    ],
}
YEARS = list(METADATA)
EXPECTED = [
    {"item_id": "B2", "title": "Nail & polish", "text": "Nail & polish. Opa. Beauty > Nails"},
    {"item_id": "B1", "title": "It's soap", "text": "It's soap"},
]


@pytest.mark.parametrize("year", YEARS)
def test_reviews_become_sequences(tmp_path, cache, year):
    lines = [review(year, "u", "B2", 50), review(year, "u", "B1", 50), review(year, "u", "B3", 7)]
    dataset = amazon_interactions(write(tmp_path / "reviews.json.gz", lines), year, cache_dir=cache)
    assert dataset.to_list() == [{"user_id": "u", "item_ids": ["B3", "B2", "B1"], "timestamps": [7, 50, 50]}]


def test_reviews_with_k_core(tmp_path, cache):
    lines = [review(2018, user, item, 1) for user, item in ("ax", "ay", "bx", "by", "cz")]
    path = write(tmp_path / "reviews.json.gz", lines)
    assert amazon_interactions(path, 2018, cache, k_core=2)["user_id"][:] == ["a", "b"]


@pytest.mark.parametrize("year", YEARS)
def test_metadata_becomes_items(tmp_path, cache, year):
    path = write(tmp_path / "meta.json.gz", METADATA[year])
    assert amazon_items(path, year, keep={"B1", "B2"}, cache_dir=cache).to_list() == EXPECTED
    every = amazon_items(path, year, allow_items_without_text=True, cache_dir=cache)
    assert every.to_list() == [*EXPECTED, {"item_id": "B3", "title": "B3", "text": ""}]
    assert amazon_items(path, year, ["B2"], text_fields=["brand"], cache_dir=cache)[0]["text"] == "Opa"


def test_items_to_keep_that_the_file_lacks(tmp_path, cache, left_behind):
    path = write(tmp_path / "meta.json.gz", METADATA[2014])
    keep = {"B2", "Z9", "Z1"}
    with pytest.raises(ValueError, match="lacks 2 of the items to keep, 'Z1'.*allow_items_without_text"):
        amazon_items(path, 2014, keep, cache_dir=cache)
    assert left_behind() == []
    items = amazon_items(path, 2014, keep, allow_items_without_text=True, cache_dir=cache)
    assert items["item_id"][:] == ["B2", "Z1", "Z9"]
    assert items[1] == {"item_id": "Z1", "title": "Z1", "text": ""}


@pytest.mark.parametrize(
    "line", ["{'asin': 'B1', 'title': __import__('os').getcwd()}", "{'asin': ", "['asin']", "{[]: 1}", "(" * 10_000]
)
def test_lines_that_are_no_literal_are_not_run_but_named(tmp_path, cache, left_behind, line):
    path = write(tmp_path / "meta.json.gz", [METADATA[2014][0], line])
    with pytest.raises(ValueError, match=r"meta\.json\.gz, line 2 is no Python"):
        amazon_items(path, 2014, cache_dir=cache)
    assert left_behind() == []


def test_files_of_another_year(tmp_path, cache):
    old, new = (write(tmp_path / f"meta_{year}.json.gz", METADATA[year]) for year in (2014, 2023))
    with pytest.raises(ValueError, match="line 1 is malformed JSON"):
        amazon_items(old, 2018, cache_dir=cache)
    with pytest.raises(ValueError, match="no field 'asin'.*another year than 2018"):
        amazon_items(new, 2018, cache_dir=cache)
    with pytest.raises(ValueError, match="year is 2020"):
        amazon_items(new, 2020, cache_dir=cache)
    reviews = write(tmp_path / "reviews.json.gz", [review(2023, "u", "B1", 1)])
    with pytest.raises(ValueError, match="no column 'reviewerID'"):
        amazon_interactions(reviews, 2018, cache)
    with pytest.raises(ValueError, match="year is 2020"):
        amazon_interactions(reviews, 2020, cache)
