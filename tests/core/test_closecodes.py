"""The close codes are such that RFC 6455 lets an endpoint send, and mean what they say."""

from http import HTTPStatus

import pytest

from deepio_core import closecodes
from deepio_core.outputs import Cause

CODES = {name: code for name, code in vars(closecodes).items() if type(code) is int}


def test_no_code_means_two_things() -> None:
    assert len(CODES) == 11
    assert len(set(CODES.values())) == len(CODES)


@pytest.mark.parametrize("name", CODES.keys() - {"NO_STATUS", "ABNORMAL"})
def test_can_be_sent(name: str) -> None:
    # RFC 6455 section 7.4: registered ones that may stand in a frame, or private ones
    assert CODES[name] in {1000, 1001, 1008, 1009, 1011} or 4000 <= CODES[name] <= 4999


@pytest.mark.parametrize("name", ["NO_STATUS", "ABNORMAL"])
def test_cannot_be_sent(name: str) -> None:
    assert CODES[name] in {1005, 1006}


@pytest.mark.parametrize(
    ("code", "status", "cause"),
    [
        (closecodes.ADDRESS_REFUSED, HTTPStatus.BAD_REQUEST, Cause.ADDRESS_REFUSED),
        (closecodes.KEY_REFUSED, HTTPStatus.UNAUTHORIZED, Cause.KEY_REFUSED),
        (closecodes.ID_IN_USE, HTTPStatus.CONFLICT, Cause.ID_IN_USE),
        (closecodes.SERVER_FULL, HTTPStatus.SERVICE_UNAVAILABLE, Cause.SERVER_FULL),
    ],
)
def test_private_codes_mirror_http(code: int, status: HTTPStatus, cause: Cause) -> None:
    assert code == 4000 + status
    assert closecodes.CAUSES[code] is cause


def test_every_private_code_has_a_cause() -> None:
    assert set(closecodes.CAUSES) == {code for code in CODES.values() if code >= 4000}
