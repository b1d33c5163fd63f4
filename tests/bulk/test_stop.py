"""When a bulk run ends before its input does."""

from __future__ import annotations

import pytest

from adapty_async._bulk.outcome import StopPolicy
from adapty_async.bulk import Outcome, OutcomeStatus, StopReason
from adapty_async.errors import (
    AdaptyError,
    ApiError,
    AuthenticationError,
    CircuitOpenError,
    ConflictError,
    ConnectError,
    DecodeError,
    ErrorItem,
    InvalidInputError,
    NotFoundError,
    RateLimitError,
    RequestRejectedError,
    ServerError,
)


def answered(kind: type[ApiError], status: int, *, recognised: bool = True) -> ApiError:
    """Return the error of a response."""
    error = kind(f"status {status}", status=status)
    error.recognised = recognised
    return error


REJECTED = answered(AuthenticationError, 401)
PAGE = answered(RequestRejectedError, 404, recognised=False)
UNREADABLE = DecodeError("status 200", status=200)
MISSING = answered(NotFoundError, 404)
DOWN = answered(ServerError, 503, recognised=False)
BROKEN = answered(ServerError, 500, recognised=False)
THROTTLED = answered(RateLimitError, 429, recognised=False)
REFUSED = ConnectError("refused")
UNSENT = InvalidInputError("id", "must not be empty")
UNTRUSTED = ConnectError("the server's certificate is not accepted", permanent=True)
UNKNOWN_LEVEL = answered(RequestRejectedError, 400)
UNKNOWN_LEVEL.error_code = NO_LEVEL = "paid_access_level_does_not_exist"
ALREADY_THERE = answered(ConflictError, 409)
ALREADY_THERE.error_code = "duplicate_source_transaction"


def invalid(text: str, *fields: str | None, code: str = "base_error") -> ApiError:
    """Return the error of an item that the API finds invalid, with one entry for each field."""
    error = answered(RequestRejectedError, 400)
    error.error_code = code
    error.errors = tuple(ErrorItem(text, field_name=field) for field in fields)
    return error


LEVELS = [
    invalid(
        f"Paid access level `{name}` does not exist", None, code="paid_access_level_does_not_exist"
    )
    for name in ("gold", "silver")
]
THROTTLED_BY_API = answered(RateLimitError, 429)


def judged(*errors: Exception | None) -> list[StopReason | None]:
    """Return the decision of the policy after each of these outcomes; None is a success."""
    rules = StopPolicy()
    return [
        rules.check(
            Outcome(
                index,
                None,
                OutcomeStatus.DONE if error is None else OutcomeStatus.FAILED,
                0 if error is UNSENT else 1,
                error=error,
            )
        )
        for index, error in enumerate(errors)
    ]


@pytest.mark.parametrize(
    ("errors", "last"),
    [
        pytest.param([REJECTED] * 4, None, id="four rejections"),
        pytest.param([REJECTED] * 5, StopReason.KEY_REJECTED, id="five rejections"),
        pytest.param([None, *[REJECTED] * 4], None, id="four after a success"),
        pytest.param([None, *[REJECTED] * 5], StopReason.KEY_REJECTED, id="five after a success"),
        pytest.param([*[REJECTED] * 4, None, REJECTED], None, id="a success in between"),
        pytest.param([*[REJECTED] * 4, MISSING, REJECTED], None, id="a missing one in between"),
        pytest.param([MISSING, *[REJECTED] * 4], None, id="four after a missing one"),
        pytest.param(
            [*[REJECTED] * 4, UNSENT, REJECTED], StopReason.KEY_REJECTED, id="a bad item in between"
        ),
        pytest.param([PAGE] * 19, None, id="nineteen pages"),
        pytest.param([PAGE] * 20, StopReason.WRONG_ADDRESS, id="twenty pages"),
        pytest.param(
            [PAGE, UNREADABLE] * 10, StopReason.WRONG_ADDRESS, id="pages with and without error"
        ),
        pytest.param(
            [UNSENT, *[PAGE] * 20], StopReason.WRONG_ADDRESS, id="twenty pages after a bad item"
        ),
        pytest.param([None, *[PAGE] * 30], None, id="pages after a success: an outage"),
        pytest.param([None, *[UNREADABLE] * 19], None, id="nineteen unreadable later"),
        pytest.param(
            [None, *[UNREADABLE] * 20], StopReason.WRONG_ADDRESS, id="twenty unreadable later"
        ),
        pytest.param([*[PAGE] * 19, MISSING, *[PAGE] * 20], None, id="the API answers the 20th"),
        pytest.param([UNTRUSTED], StopReason.WRONG_ADDRESS, id="a certificate"),
        pytest.param([None, UNTRUSTED], StopReason.WRONG_ADDRESS, id="a certificate later"),
        pytest.param([MISSING] * 49, None, id="49 of the same"),
        pytest.param([MISSING] * 50, StopReason.SAME_ERROR, id="50 of the same"),
        pytest.param([invalid("bad", None)] * 50, StopReason.SAME_ERROR, id="same text"),
        pytest.param(
            [invalid("no number", None), invalid("too long", None)] * 50, None, id="other texts"
        ),
        pytest.param(
            [invalid("required", "a", "b"), invalid("required", "a", "c")] * 50,
            None,
            id="other fields",
        ),
        pytest.param(LEVELS * 25, StopReason.SAME_ERROR, id="a text that quotes the item"),
        pytest.param([ALREADY_THERE] * 100, None, id="conflicts"),
        pytest.param([None, *[MISSING] * 50], StopReason.SAME_ERROR, id="50 of the same later"),
        pytest.param([*[MISSING] * 49, None, *[MISSING] * 49], None, id="a success in 98"),
        pytest.param([*[MISSING] * 49, DOWN, MISSING], None, id="an outage in 50"),
        pytest.param([*[MISSING] * 49, UNSENT, MISSING], StopReason.SAME_ERROR, id="one unsent"),
        pytest.param([MISSING, UNKNOWN_LEVEL] * 40, None, id="by turns"),
        pytest.param([THROTTLED_BY_API] * 60, None, id="throttled"),
        pytest.param([DOWN] * 30, None, id="an outage"),
        pytest.param([BROKEN] * 30, None, id="a server that fails"),
        pytest.param([THROTTLED] * 30, None, id="throttling"),
        pytest.param([REFUSED] * 30, None, id="no connection"),
        pytest.param([MISSING] * 30, None, id="missing profiles"),
        pytest.param([UNSENT] * 30, None, id="bad items"),
        pytest.param([], None, id="nothing"),
    ],
)
def test_a_run_ends_only_where_going_on_is_pointless(
    errors: list[AdaptyError | None], last: StopReason | None
) -> None:
    """Rejected keys, responses that are not the API's, and the same error for all end a run."""
    reasons = judged(*errors)

    assert reasons[-1:] == ([last] if errors else [])
    assert set(reasons[:-1]) <= {None}


def test_a_defect_ends_the_run_loudly() -> None:
    """An exception that is none of ours, such as a hook's, is raised as it is."""
    with pytest.raises(LookupError, match="from the hook"):
        judged(LookupError("from the hook"))


def test_absent_items_end_no_run() -> None:
    """For a deletion or a read, "not found" is no failure, however often it comes."""
    rules = StopPolicy()
    absent: list[Outcome[None, None]] = [
        Outcome(index, None, OutcomeStatus.ABSENT, 1, error=MISSING) for index in range(200)
    ]

    assert {rules.check(outcome) for outcome in absent} == {None}


def test_an_outage_that_outlasts_the_run_ends_it() -> None:
    """An item that was given up in an outage ends the run, whatever came before."""
    assert judged(None, CircuitOpenError("no service for longer than 900 s")) == [
        None,
        StopReason.OUTAGE,
    ]
