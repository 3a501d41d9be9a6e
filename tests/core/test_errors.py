"""Errors name cause and remedy, and survive what processes and loggers do to them."""

import copy
import pickle

import pytest

from deepio_core.errors import AddressError, DeepIOError, LocalProtocolError, RemoteProtocolError

KINDS = [DeepIOError, LocalProtocolError, RemoteProtocolError, AddressError]


@pytest.mark.parametrize("kind", KINDS)
def test_cause_and_remedy(kind: type[DeepIOError]) -> None:
    error = kind("It is broken.", remedy="Mend it.")
    assert (error.message, error.remedy) == ("It is broken.", "Mend it.")
    assert str(error) == "It is broken. Mend it."
    assert str(kind("It is broken.")) == "It is broken."
    assert kind("It is broken.").remedy == ""


def test_one_base_for_all() -> None:
    assert all(issubclass(kind, DeepIOError) for kind in KINDS)
    assert issubclass(AddressError, LocalProtocolError)
    assert issubclass(AddressError, ValueError), "so that a caller of a constructor may expect what Python has"
    assert not issubclass(RemoteProtocolError, LocalProtocolError)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_cross_processes(kind: type[DeepIOError]) -> None:
    error = kind("It is broken.", remedy="Mend it.")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert (twin.message, twin.remedy) == ("It is broken.", "Mend it.")
