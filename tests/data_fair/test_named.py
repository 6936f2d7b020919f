import gzip
import json
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import datasets
import pytest

from data_fair import load_named, named


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that is served as if it were the owners' sites, to a session that is not offline."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for constant in ("AMAZON_2014_URL", "MOVIELENS_URL"):
            monkeypatch.setattr(named, constant, f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()


def put_amazon(site):
    reviews = [("u1", "B2", 86400), ("u1", "B1", 0), ("u2", "B3", 0), ("u1", "B3", 0)]
    lines = [json.dumps({"reviewerID": u, "asin": i, "unixReviewTime": t}) + "\n" for u, i, t in reviews]
    (site / "reviews_Toys_5.json.gz").write_bytes(gzip.compress("".join(lines).encode()))
    metadata = [
        "{'asin': 'B9', 'title': 'Not reviewed'}\n",
        "{'asin': 'B1', 'title': 'Robot', 'categories': [['Toys', 'New']]}\n",
        "{'asin': 'B2', 'price': 3.5}\n",
    ]
    (site / "meta_Toys.json.gz").write_bytes(gzip.compress("".join(metadata).encode()))


def put_movielens(site, members=("u.data", "u.item")):
    flags = ["0"] * 19
    flags[3] = flags[18] = "1"
    texts = {
        "u.data": "196\t2\t3\t881250949\n186\t1\t3\t891717742\n196\t1\t1\t881250949\n",
        "u.item": "1|Toy Train (1995)|01-Jan-1995||http://x|" + "|".join(flags) + "\n"
        "2|Café Noir, Le|01-Jan-1993||http://y|" + "|".join(["0"] * 19) + "\n",
    }
    with zipfile.ZipFile(site / "ml-100k.zip", "w") as archive:
        for name in members:
            archive.writestr(f"ml-100k/{name}", texts[name].encode("latin-1"))


def test_amazon_2014_keeps_the_whole_catalogue(site, cache):
    put_amazon(site)
    sequences, items = load_named("amazon_2014:Toys", cache)
    assert sequences.to_list() == [
        {"user_id": "u1", "item_ids": ["B1", "B3", "B2"], "timestamps": [0, 0, 86400]},
        {"user_id": "u2", "item_ids": ["B3"], "timestamps": [0]},
    ]
    assert items.to_list() == [
        {"item_id": "B1", "title": "Robot", "text": "Robot. Toys > New"},
        {"item_id": "B2", "title": "B2", "text": ""},
        {"item_id": "B3", "title": "B3", "text": ""},
    ]


def test_movielens(site, cache):
    put_movielens(site)
    sequences, items = load_named("movielens:100k", cache)
    assert sequences.to_list() == [
        {"user_id": "196", "item_ids": ["2", "1"], "timestamps": [881250949, 881250949]},
        {"user_id": "186", "item_ids": ["1"], "timestamps": [891717742]},
    ]
    assert items.to_list() == [
        {"item_id": "1", "title": "Toy Train", "text": "Toy Train. Animation, Western. 1995"},
        {"item_id": "2", "title": "Café Noir, Le", "text": "Café Noir, Le"},
    ]


def test_files_are_fetched_once(site, cache, monkeypatch):
    put_amazon(site)
    first = load_named("amazon_2014:Toys", cache)
    monkeypatch.setattr(named, "AMAZON_2014_URL", "http://127.0.0.1:9/gone")
    again = load_named("amazon_2014:Toys", cache)
    assert [part.to_list() for part in again] == [part.to_list() for part in first]


def test_a_file_put_by_hand_is_read_without_a_network(site, cache, monkeypatch):
    put_movielens(site)
    monkeypatch.setattr(named, "MOVIELENS_URL", "http://127.0.0.1:9/gone")
    with pytest.raises(ConnectionError) as error:
        load_named("movielens:100k", cache)
    wanted = cache / "fair" / "downloads" / "ml-100k.zip"
    assert "http://127.0.0.1:9/gone/ml-100k.zip" in str(error.value) and str(wanted) in str(error.value)
    (site / "ml-100k.zip").rename(wanted)
    assert len(load_named("movielens:100k", cache)[1]) == 2


def test_an_unknown_category_names_its_url_and_leaves_nothing(site, cache, left_behind):
    with pytest.raises(ConnectionError, match=r"reviews_Nothing_5\.json\.gz could not be fetched.*by hand"):
        load_named("amazon_2014:Nothing", cache)
    assert left_behind() == []


def test_an_incomplete_archive_is_named(site, cache):
    put_movielens(site, members=["u.data"])
    with pytest.raises(ValueError, match=r"ml-100k\.zip is no complete.*u\.item"):
        load_named("movielens:100k", cache)
    assert not list(cache.rglob("ml-100k-*"))


@pytest.mark.parametrize("name", ["", "beauty", "amazon_2014:", "amazon_2014:../x", "movielens:1m", "demo:big"])
def test_unknown_names_list_those_known(cache, name):
    with pytest.raises(ValueError, match="demo, amazon_2014:<Category>, movielens:100k"):
        load_named(name, cache)


def test_the_demo_needs_no_network():
    sequences, items = load_named("demo")
    assert {"user_id", "item_ids", "timestamps", "irrelevant"} <= set(sequences.column_names)
    assert {"item_id", "title", "text"} <= set(items.column_names)
