import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fair.packing_fair import Packing, _groups

MASKS = st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=9)


@given(MASKS)
@settings(max_examples=50, deadline=None)
def test_every_item_has_one_cell_in_the_order_of_its_history(rows):
    mask = torch.tensor(rows)
    packing = Packing(mask)
    places = torch.arange(mask.numel()).view(mask.shape)
    packed = packing.pack(places[..., None])[:, 0]
    if not mask.any():
        assert (
            packing.groups == [(1, 1)]
            and not packing.is_item.any()
            and not packing.sum_histories(packed[:, None]).any()
        )
        return
    assert packing.is_item.all(), "on a CPU there is no padding at all"
    assert sorted(packed.tolist()) == places[mask].tolist()
    assert torch.equal(packed[packing.packed_cells[mask.flatten()]], places[mask])
    assert torch.equal(packing.histories, packed // 6)
    for row, of_row in enumerate(places):
        mine = packing.histories == row
        assert packed[mine].tolist() == of_row[mask[row]].tolist()
        assert packing.positions()[mine].tolist() == list(range(int(mask[row].sum())))
        if mask[row].any():
            assert packed[packing.last_cells[row]] == of_row[mask[row]][-1]
    sums = packing.sum_histories(packed[:, None].float())[:, 0]
    torch.testing.assert_close(sums, (places * mask).sum(dim=1).float())


def test_attention_runs_on_histories_of_one_length():
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    packing = Packing(mask)
    assert packing.groups == [(1, 1), (2, 3)]
    shapes = []

    def attend(query, key, value):
        shapes.append((query.shape, key.shape))
        return query * value.cumsum(dim=1)[:, -query.shape[1] :]

    values = torch.ones(7, 2)
    assert packing.in_groups(attend, values, values, values)[:, 0].tolist() == [1, 1, 2, 3, 1, 2, 3]
    assert shapes == [((1, 1, 2), (1, 1, 2)), ((2, 3, 2), (2, 3, 2))]
    assert packing.order.tolist() == [1, 0, 2] and packing.is_even
    last = packing.last_cells[packing.order]
    assert packing.in_groups(attend, values[last], values, values)[:, 0].tolist() == [1, 3, 3]
    assert shapes[-1] == ((2, 1, 2), (2, 3, 2))


def test_accelerators_get_few_groups():
    lengths = [0, 1, 1, 2, 3, 5, 8, 13]
    assert _groups(lengths, None) == [(2, 1), (1, 2), (1, 3), (1, 5), (1, 8), (1, 13)]
    assert _groups(lengths, 2) == [(4, 3), (3, 13)]


def test_cells_behind_the_shorter_histories_of_a_group_are_padding(monkeypatch):
    monkeypatch.setattr("modeling_fair.packing_fair._groups", lambda lengths, most: [(2, 3)])
    packing = Packing(torch.tensor([[1, 1, 1], [0, 1, 1]]))
    assert not packing.is_even
    assert packing.is_item.tolist() == [True, True, False, True, True, True]
    assert packing.histories.tolist() == [1, 1, 2, 0, 0, 0]
    assert packing.sum_histories(torch.ones(6, 1))[:, 0].tolist() == [3, 2]
