import pytest

from visit import Entry, Visit

CATALOGUE = [f"p{i}" for i in range(6)]


def test_items_are_added_at_the_end_once_and_removed():
    visit = Visit().add("p1").add("p2").add("p1")
    assert visit.item_ids == ["p2", "p1"]
    assert visit.remove("p2").item_ids == ["p1"]
    assert Visit().item_ids == []


def test_an_example_takes_the_place_of_the_history():
    visit = Visit().add("p5").start(["p1", "p2"])
    assert visit.item_ids == ["p1", "p2"] and visit.examples == 1


def test_injected_items_are_new_seeded_and_never_last():
    visit = once_more = Visit().add("p1").add("p2")
    for count in range(1, 5):
        visit, once_more = visit.inject(CATALOGUE), once_more.inject(CATALOGUE)
        assert visit == once_more
        assert sum(entry.injected for entry in visit.history) == count
        assert visit.history[-1] == Entry("p2")
    assert sorted(visit.item_ids) == CATALOGUE


def test_what_is_chosen_again_is_injected_no_more():
    visit = Visit().add("p1").inject(CATALOGUE)
    assert visit.add(visit.item_ids[0]).history[-1] == Entry(visit.item_ids[0])


def test_nothing_is_injected_where_nothing_can_be():
    with pytest.raises(ValueError, match="Add an item first"):
        Visit().inject(CATALOGUE)
    with pytest.raises(ValueError, match="Every item"):
        Visit().start(CATALOGUE).inject(CATALOGUE)
