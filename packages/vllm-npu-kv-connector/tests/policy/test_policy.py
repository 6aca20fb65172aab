"""Which way a prefix comes: the one that was measured to be faster."""

from __future__ import annotations

from vllm_npu_kv_connector.policy.policy import Decision, LoadMode, LoadPolicy

DISK = "1:npu_fs"


def policy(compute: float | None, host: float | None, disk: float | None) -> LoadPolicy:
    """With these seconds measured for a hundred tokens each."""
    made = LoadPolicy(LoadMode.AUTO, margin=0.9)
    ways = {made.costs.compute: compute, made.costs.host: host, made.costs.tier(DISK): disk}
    for average, seconds in ways.items():
        if seconds is not None:
            average.add(9.0, 100)  # the first is left out
            average.add(seconds, 100)
    return made


def test_what_was_not_measured_is_tried() -> None:
    assert policy(None, None, None).decide([DISK]) == Decision(True, frozenset({DISK}))
    assert policy(1.0, 0.1, None).decide([DISK]) == Decision(True, frozenset({DISK}))


def test_the_first_measurement_is_left_out() -> None:
    made = LoadPolicy(LoadMode.AUTO, margin=0.9)
    made.costs.compute.add(1.0, 100)
    made.costs.host.add(5.0, 100)
    assert made.costs.host.value is made.costs.compute.value is None
    assert made.decide([]).host


def test_the_faster_way_wins() -> None:
    assert policy(1.0, 0.1, 0.2).decide([DISK]) == Decision(True, frozenset({DISK}))


def test_a_slow_tier_is_passed_over() -> None:
    assert policy(1.0, 0.1, 2.0).decide([DISK]) == Decision(True, frozenset())


def test_a_tiers_read_and_the_copy_to_the_device_count_together() -> None:
    assert policy(1.0, 0.5, 0.5).decide([DISK]) == Decision(True, frozenset())


def test_where_even_host_memory_is_slow_nothing_is_loaded() -> None:
    assert policy(1.0, 0.95, 0.1).decide([DISK]) == Decision(False, frozenset())


def test_a_slow_way_is_tried_again_now_and_then() -> None:
    slow = policy(1.0, 5.0, None)
    decisions = [slow.decide([]).host for _ in range(32)]
    assert decisions.count(True) == 2


def test_new_measurements_change_the_decision() -> None:
    changing = policy(1.0, 5.0, None)
    for _ in range(20):
        changing.costs.host.add(0.1, 100)
    assert changing.decide([]).host


def test_a_measurement_of_few_tokens_counts_little() -> None:
    steady = policy(1.0, 0.5, None)
    steady.costs.compute.add(1.0, 2)
    assert steady.costs.compute.value is not None
    assert steady.costs.compute.value < 0.012


def test_forced_on_and_off() -> None:
    for mode, wanted in ((LoadMode.ALWAYS, True), (LoadMode.NEVER, False)):
        forced = LoadPolicy(mode, margin=0.9)
        for _ in range(2):
            forced.costs.compute.add(1.0, 100)
            forced.costs.host.add(5.0 if wanted else 0.1, 100)
        assert forced.decide([DISK]) == Decision(wanted, frozenset({DISK} if wanted else ()))
