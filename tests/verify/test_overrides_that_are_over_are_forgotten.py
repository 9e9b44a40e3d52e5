from sessions_app.selectors.replay_limits import KEPT_US, InForce, Limit, Override


def test_overrides_that_are_over_for_a_day_are_forgotten_and_no_others() -> None:
    in_force = InForce()
    in_force.put(Limit(1, "tenant", 7, 10))
    for number in range(1_000):
        in_force.override(Override(number, f"override {number}", 7, "burst", 1, number, number + 1), now_us=number)
    in_force.override(Override(1_000, "override late", 8, "burst", 1, 0, 5 * KEPT_US), now_us=1_500)
    assert len(in_force._overrides[7]) == 1_000
    assert in_force.of_tenant(7, 500) == (10, 1)
    # The clock was set back in between: nothing is forgotten that may still count.
    in_force.override(Override(1_001, "override 3", 7, "burst", 4, 0, 3 * KEPT_US), now_us=KEPT_US)
    in_force.override(Override(1_002, "override 4", 9, "burst", 1, 0, 4 * KEPT_US), now_us=2 * KEPT_US)
    assert {tenant: list(each) for tenant, each in in_force._overrides.items()} == {
        7: ["override 3"],
        8: ["override late"],
        9: ["override 4"],
    }
    assert in_force.of_tenant(7, 2 * KEPT_US) == (10, 4)
    in_force.override(Override(1_003, "override 4", 9, "burst", 0, 0, 4 * KEPT_US), now_us=9 * KEPT_US)
    assert not in_force._overrides
