import pytest

from tokenization_fair.catalogue_fair import Catalogue


def test_save_equals_load(tmp_path, items):
    catalogue = Catalogue(items)
    catalogue.save(tmp_path / "catalogue.jsonl")
    loaded = Catalogue.load(tmp_path / "catalogue.jsonl")
    assert loaded.items == catalogue.items and loaded.rows == catalogue.rows


def test_rows_follow_the_order_of_items():
    catalogue = Catalogue([{"item_id": 7, "title": "seven"}, {"item_id": "b"}])
    assert catalogue.rows == {"7": 0, "b": 1}
    assert catalogue.remove(["7"]) == [1]
    assert catalogue.rows == {"b": 0}


@pytest.mark.parametrize(
    "new, named",
    [([{"item_id": "a"}], "'a'"), ([{"item_id": "c"}, {"item_id": "c"}], "'c'"), ([{"title": "x"}], "item_id")],
)
def test_a_refused_item_leaves_the_catalogue_as_it_was(new, named):
    catalogue = Catalogue([{"item_id": "a"}, {"item_id": "b"}])
    with pytest.raises(ValueError, match=named):
        catalogue.add([{"item_id": "fine"}, *new])
    assert catalogue.rows == {"a": 0, "b": 1}


def test_unknown_items_are_named():
    catalogue = Catalogue([{"item_id": "a"}])
    with pytest.raises(ValueError, match="'z'"):
        catalogue.remove(["a", "z"])
    assert len(catalogue) == 1


@pytest.mark.parametrize("line", ["{half", "[1, 2]"])
def test_a_broken_file_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "catalogue.jsonl"
    path.write_text('{"item_id": "a"}\n' + line + "\n")
    with pytest.raises(ValueError, match="catalogue.jsonl, line 2"):
        Catalogue.load(path)
