"""Figures: judged by the median, set against their limits run by run."""

from bench.figures import Figure, at_least, at_most, distribution, percentile, ratios


def test_a_figure_is_judged_by_its_median() -> None:
    assert at_least("rate", "events/s", [1.0, 9.0, 10.0], 9).met
    assert not at_least("rate", "events/s", [1.0, 8.0, 100.0], 9).met
    assert at_most("delay", "ms", [1.0, 9.0, 100.0], 9).met
    assert not at_most("delay", "ms", [1.0, 10.0, 10.0], 9).met
    assert Figure("rate", "events/s", (1.0,)).met is None


def test_a_share_of_the_limit_is_taken_run_by_run() -> None:
    figure = at_least("rate", "events/s", [50.0, 90.0, 30.0], 1, [100.0, 100.0, 40.0])
    assert figure.of_limit == 0.75
    assert figure.median / 100.0 == 0.5  # the medians' quotient would say something else
    assert Figure("rate", "events/s", (1.0,)).of_limit is None


def test_json_holds_what_is_derived_too() -> None:
    assert at_least("rate", "events/s", [3.0, 1.0, 2.0], 2000, [4.0, 4.0, 4.0]).as_json() == {
        "name": "rate",
        "unit": "events/s",
        "values": [3.0, 1.0, 2.0],
        "median": 2.0,
        "min": 1.0,
        "max": 3.0,
        "limit": 4.0,
        "of_limit": 0.5,
        "target": ">= 2,000",
        "met": False,
    }


def test_percentiles_are_values_that_were_measured() -> None:
    assert [percentile([4.0, 1.0, 3.0, 2.0], p) for p in (0, 50, 75, 99, 100)] == [1, 2, 3, 4, 4]


def test_a_distribution_ends_with_the_largest_value() -> None:
    curve = distribution("latency", "all", [float(n) for n in range(1000, 0, -1)])
    assert curve.points[0] == (10.0, 1)
    assert curve.points[-1] == (1000.0, 100)


def test_ratios_pair_up_the_runs() -> None:
    assert ratios([1.0, 4.0], [2.0, 1.0]) == (0.5, 4.0)
