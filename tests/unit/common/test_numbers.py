import math

from fa_lightning.common.numbers import widest


def test_several_intervals_reach_from_their_lowest_end_to_their_highest_if_all_are_known():
    assert widest([(0.9, 1.0), (0.8, 0.95)]) == (0.8, 1.0)
    assert all(map(math.isnan, widest([(0.9, 1.0), (math.nan, math.nan)])))
    assert all(map(math.isnan, widest([])))
