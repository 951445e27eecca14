import json

from reedit.models.training.incrementation import DynamicIncrementation


def growth(losses: list[float], **changes: float) -> list[int]:
    """The number of passes after each validation, ten steps apart."""
    chain = DynamicIncrementation(
        **{"first": 4, "last": 20, "increment": 2, "window": 20, "improvement": 0.01} | changes
    )
    passes = []
    for number, loss in enumerate(losses, 1):
        before = chain.passes
        assert chain.observe(10 * number, loss) == (chain.passes > before)
        passes.append(chain.passes)
    return passes


def test_it_grows_one_window_after_the_loss_stands_still():
    """At 30 the loss is compared with that of 10, at 60, the window of the new length being full, with that of 40."""
    assert growth([1.0] * 9) == [4, 4, 6, 6, 6, 8, 8, 8, 10]


def test_it_does_not_grow_while_the_loss_falls():
    assert growth([0.9**number for number in range(20)]) == [4] * 20


def test_the_least_improvement_is_a_share_over_the_window():
    """In geometric decay the averaged loss tends to decay alike: by 1 - r² over a window of two validations."""
    for ratio, stands_still in ((0.999, True), (0.99, False)):  # 0.2 % and 2 %, of which 1 % is asked
        grown = growth([ratio**number for number in range(30)])
        assert (grown[-1] > 4) == stands_still


def test_a_rising_loss_makes_it_grow_too():
    assert growth([1.0, 2.0, 3.0])[-1] == 6


def test_one_lucky_validation_does_not_hold_it_back_for_long():
    """The moving average halves the past: 1, 1, .75 at 30 is a fall; 0.875 and 0.9375 after it are none."""
    assert growth([1.0, 1.0, 0.5, 1.0, 1.0, 1.0]) == [4, 4, 4, 4, 6, 6]


def test_it_ends_at_the_last_length_and_the_step_to_it_may_be_shorter():
    assert growth([1.0] * 12, last=7) == [4, 4, 6, 6, 6, 7, 7, 7, 7, 7, 7, 7]
    assert growth([1.0] * 6, first=4, last=4) == [4] * 6


def test_a_loss_that_jumps_with_the_length_is_compared_within_one_length_only():
    """A longer chain has a larger loss: what was reached before says nothing of it."""
    assert growth([1.0, 1.0, 1.0, 5.0, 4.0, 3.0, 2.0, 1.0]) == [4, 4, 6, 6, 6, 6, 6, 6]


def test_its_state_goes_through_json_and_it_goes_on_the_same():
    losses = [1.0, 1.1, 1.2, 2.0, 1.0, 0.7, 1.2, 1.2, 1.2, 1.2, 1.2, 1.2]
    whole = DynamicIncrementation(2, 9, 3, 20, 0.01)
    expected = [(whole.observe(10 * number, loss), whole.passes) for number, loss in enumerate(losses)]
    assert {passes for _, passes in expected} >= {2, 5, 8}  # else the test says little
    for stop in range(len(losses)):
        first, second = (DynamicIncrementation(2, 9, 3, 20, 0.01) for _ in range(2))
        for number in range(stop):
            first.observe(10 * number, losses[number])
        second.load_state(json.loads(json.dumps(first.state())))
        rest = [(second.observe(10 * number, losses[number]), second.passes) for number in range(stop, len(losses))]
        assert rest == expected[stop:] and second.state() == whole.state()
