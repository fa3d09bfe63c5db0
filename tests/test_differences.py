"""The difference of two scores on the same rows: McNemar's test and the limits, by hand."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from hfxfer.differences import SIGNIFICANT, bootstrapped, calibration_noise, mcnemar, share_difference
from hfxfer.metrics._resampling import Atoms, resample


@pytest.mark.parametrize(("first_only", "second_only", "p_value"), [
    (0, 0, 1.0), (0, 1, 1.0), (0, 5, 2 / 32), (0, 6, 2 / 64), (6, 0, 2 / 64), (3, 3, 1.0),
    (1, 8, 2 * (1 + 9) / 2**9), (2, 10, 2 * (1 + 12 + 66) / 2**12)])
def test_mcnemar_by_hand(first_only, second_only, p_value):
    assert mcnemar(first_only, second_only) == pytest.approx(p_value)
    both = first_only + second_only
    assert mcnemar(first_only, second_only) == pytest.approx(scipy.stats.binomtest(first_only, both).pvalue if both else 1.0)


def test_the_interval_of_accuracy_holds_0_exactly_where_the_test_does_not_reject():
    for differing in range(1, 400):
        for fewer in range(differing // 2 + 1):
            found = share_difference(fewer, differing - fewer, 10 * differing)
            assert found.established == (found.p_value < SIGNIFICANT) == (found.low > 0), found


def test_the_limits_alone_never_hold_0_where_the_test_rejects():
    # The two tell one story only since the exact test is the stricter one: here with up to 3,000 rows that differ.
    for both in range(1, 3000):
        fewer = np.arange(both // 2 + 1)
        rejected = 2 * scipy.special.bdtr(fewer, both, 0.5) < SIGNIFICANT
        net = both - 2 * fewer[rejected]
        for rows in (both, 10**7):
            assert (net / (rows + 2) > 1.959964 * np.sqrt(((both + 2) / (rows + 2) - (net / (rows + 2)) ** 2) / (rows + 2))).all()


def test_the_limits_of_a_difference_of_shares_by_hand():
    # 10 and 30 of 98: p = 11/100 and 31/100, so 0.2 ± 1.96 · sqrt((0.42 - 0.04) / 100) = 0.2 ± 0.12082
    found = share_difference(10, 30, 98)
    assert (found.difference, found.low, found.high) == pytest.approx((20 / 98, 0.07918, 0.32082), abs=1e-5)
    back = share_difference(30, 10, 98)
    assert (back.difference, back.low, back.high) == pytest.approx((-20 / 98, -0.32082, -0.07918), abs=1e-5)


def test_without_a_row_that_differs_there_is_nothing_to_measure():
    found = share_difference(0, 0, 40, differing=0)
    assert (found.difference, found.low, found.high, found.p_value, found.method) == (0.0, 0.0, 0.0, 1.0, "no row differs")
    # Different answers, both wrong: Bonett and Price, 0 and the variance (2/42) / 42.
    found = share_difference(0, 0, 40, differing=3)
    assert (found.low, found.high) == pytest.approx((-1.959964 * 2**0.5 / 42, 1.959964 * 2**0.5 / 42), abs=1e-6)


def share(right_in_first, right_in_second, num_resamples=2000):
    """The same difference of shares through the bootstrap."""
    pair = np.stack([right_in_first, right_in_second], axis=1).astype(float)
    rows = np.concatenate([pair, np.ones((len(pair), 1))], axis=1)
    drawn = resample(Atoms(lambda block: rows[block], np.ones(len(rows), np.int64)), num_resamples, np.random.default_rng(0))
    return bootstrapped("recall_macro", drawn, lambda sums: (sums[:, 1] - sums[:, 0]) / sums[:, 2], int((right_in_first != right_in_second).sum()))


@pytest.mark.parametrize("second_only", [4, 6, 8])
def test_few_rows_are_limited_as_shares_are(second_only):
    first, second = np.zeros(100, bool), np.arange(100) < second_only
    few, exact = share(first, second, 20_000), share_difference(0, second_only, 100)
    assert few.method == "few rows" and few.established == exact.established == (second_only >= 6)
    if exact.established:
        assert (few.low, few.high) == pytest.approx((exact.low, exact.high), abs=2e-3)


def test_many_rows_give_the_bootstrap_and_agree_with_the_share():
    draw = np.random.default_rng(1)
    first, second = draw.random(500) < 0.6, draw.random(500) < 0.7
    many, exact = share(first, second), share_difference(int((first & ~second).sum()), int((second & ~first).sum()), 500)
    assert many.method == "paired bootstrap" and many.difference == pytest.approx(exact.difference)
    assert (many.low, many.high) == pytest.approx((exact.low, exact.high), abs=0.006)


def test_one_heavy_row_establishes_nothing():
    # 200 rows with small differences of either sign, and one that outweighs them all.
    rows = np.stack([np.append(np.tile([0.01, -0.01], 100), 10.0), np.ones(201)], axis=1)
    drawn = resample(Atoms(lambda block: rows[block], np.ones(201, np.int64)), 500, np.random.default_rng(0))
    found = bootstrapped("log_loss", drawn, lambda sums: sums[:, 0] / sums[:, 1], 201)
    assert found.difference > 0.04 and found.low < 0 and (found.method, found.established) == ("few rows", False)


def test_the_noise_of_a_calibrated_bin_is_the_mean_size_of_a_normal_value():
    # One bin, 100 rows, gaps of ±1: standard deviation 10, its mean size 10 √(2/π), a hundredth of it a row.
    gaps = np.zeros((100, 15))
    gaps[:, 3] = np.tile([1.0, -1.0], 50)
    expected = 10 * np.sqrt(2 / np.pi) / 100
    assert calibration_noise(gaps, 100) == pytest.approx((expected, expected))
    # A gap far from 0 is no noise: next to nothing at least, the same at most.
    gaps[:, 3] = 1.0
    assert calibration_noise(gaps, 100) == pytest.approx((0.0, expected), abs=1e-9)
