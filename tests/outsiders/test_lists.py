"""The lists that the runs with tools of others need: mends of the documents, and departures."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.documents import DOCUMENTS
from tests.outsiders.departures import DEPARTURES, Departure, Failure, explained
from tests.outsiders.mended import EVERYWHERE, Mend, mended, nodes, profiles_exist

FAILURE = Failure(
    check="status_code_conformance",
    document="mail-api",
    operation="saveProfile",
    broken="",
    status=415,
    code="unsupported_media_type",
    field="",
    message='Unsupported media type "" in request.',
)


@pytest.mark.parametrize("mend", EVERYWHERE, ids=lambda mend: mend.__name__)
def test_a_mend_is_still_needed(mend: Mend) -> None:
    """Each mend changes a document; one that Adapty has mended itself is noticed."""
    changed = [
        name for name, document in DOCUMENTS.items() if mended(name, (mend,)) != document.content
    ]

    assert changed


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_mended_document_has_types_of_openapi_3_1(name: str) -> None:
    """Null is a type, and every mapping of a discriminator leads to a schema."""
    content = mended(name, EVERYWHERE)

    assert not [one for one in nodes(content) if one.get("nullable") is True]
    mappings: list[dict[str, Any]] = [
        one["discriminator"]["mapping"] for one in nodes(content) if "discriminator" in one
    ]
    for mapping in mappings:
        for reference in mapping.values():
            assert reference.rpartition("/")[2] in content["components"]["schemas"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_profiles_are_named_where_an_operation_is_about_one(name: str) -> None:
    """No tool has to guess an identifier: the ids that exist are the values of its schema."""
    content = mended(name, (profiles_exist(["p"], ["u"], ["e"]),))
    named = {
        parameter["name"]: parameter["schema"]["enum"]
        for one in nodes(content["paths"])
        for parameter in one.get("parameters", ())
        if "enum" in parameter["schema"]
    }

    assert set(map(tuple, named.values())) <= {("p",), ("u",), ("e",)}
    assert ("adapty-customer-user-id" in named) == (name == "server-side-api-v2")


def test_a_failure_is_explained_by_the_row_that_matches_it() -> None:
    """A row matches what it names, and nothing else."""
    row = explained(FAILURE)

    assert row is not None
    assert "media type" in row.reason
    assert explained(FAILURE._replace(status=500)) is None
    assert explained(FAILURE._replace(check="not_a_server_error")) is None
    assert Departure("", FAILURE.check, (), messages=("other",)).matches(FAILURE) is False


def test_every_departure_has_its_reason_and_bounds() -> None:
    """Rows state a sentence, a check and statuses below 500."""
    for row in DEPARTURES:
        assert row.reason.endswith(".")
        assert row.statuses
        assert max(row.statuses) < 500
    assert len({row.reason for row in DEPARTURES}) == len(DEPARTURES)
