"""Exception groups of one."""

from deepio_adapters.groups import unwrapped


def caught(error, own=None):
    try:
        with unwrapped() as known:
            known.own = own
            raise error
    except BaseException as came:  # noqa: BLE001 - whatever it is, it is looked at
        return came


def test_a_group_of_one_is_the_one():
    one = ValueError("one")
    one.__cause__ = KeyError("cause")
    assert caught(ExceptionGroup("a", [ExceptionGroup("b", [one])])) is one
    assert isinstance(one.__cause__, KeyError)
    assert one.__suppress_context__


def test_what_is_no_group_passes():
    one = ValueError("one")
    assert caught(one) is one


def test_a_group_of_two_stays_and_loses_what_is_around_it():
    two = ExceptionGroup("two", [ValueError(1), ValueError(2)])
    assert caught(two) is two
    assert caught(ExceptionGroup("around", [two])) is two


def test_a_group_of_one_that_is_the_applications_own_stays():
    own = ExceptionGroup("own", [ValueError(1)])
    assert caught(ExceptionGroup("around", [own]), own=own) is own
    assert caught(own, own=own) is own


def test_without_an_error_nothing_happens():
    with unwrapped():
        pass
