"""The name of a run: parsing gives what a command stated."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapty_async._journal.run_name import RunName

KINDS = ["profile-id", "customer-user-id", "external-profile-id", "email"]
# a level or column may have any text but that of the parts that follow it
TEXT = st.text("abc ,_é\n", min_size=1, max_size=12)
OPERATIONS = st.sampled_from(
    ["v1 delete", "v2 update", "v2 import transactions, create missing,", "v2 create if missing"]
)
ACCESS = TEXT.map(lambda level: f"v2 grant {level} to 2027-01-01T00:00:00Z")
READINGS = st.one_of(
    st.fixed_dictionaries({}, optional={"form": st.sampled_from(["csv", "text", "parquet"])}),
    st.fixed_dictionaries(
        {"form": st.just("csv"), "encoding": st.sampled_from(["cp1252", "latin 1"])}
    ),
    st.fixed_dictionaries({"form": st.just("excel"), "sheet": st.text("ab \"'", max_size=5)}),
)


@given(
    st.one_of(OPERATIONS, ACCESS),
    st.none() | st.sampled_from(KINDS),
    st.none() | TEXT,
    st.none() | st.just("0123456789ab"),
    READINGS,
)
@example("mail save", None, None, None, {"form": "csv"})
@example("v1 delete", "profile-id", "a, columns of it", None, {"form": "csv"})
def test_a_name_is_parsed_as_it_was_made(
    what: str, by: str | None, column: str | None, columns: str | None, reading: dict[str, str]
) -> None:
    """A parsed name equals the one whose text it was."""
    name = RunName(what=what, by=by, column=column, columns=columns, **reading)

    assert RunName.parse(str(name)) == name


@pytest.mark.parametrize(
    ("text", "column", "has_optional_ids", "is_enough"),
    [
        ("v1 delete by profile-id, column id, from csv in cp1252", "id", True, True),
        ("v2 delete by customer-user-id, from excel", "customer_user_id", True, True),
        ("v2 grant vip by profile-id, from csv", "profile_id", True, False),
        ("v2 revoke access levels by profile-id, from text", "profile_id", True, True),
        ("mail save, from ndjson", "external_profile_id", False, False),
        ("mail save, column mail, columns 0123456789ab, from csv", "mail", False, False),
        ("v2 create if missing, column user, from csv", "user", False, False),
        ("v2.profiles.delete by profile_id", "profile_id", False, True),
        ("v2.profiles.get by customer_user_id", "customer_user_id", False, True),
        ("mail.profiles.delete by email", "email", False, True),
        ("v2.profiles.update by profile_id", "profile_id", False, False),
        ("v2.profiles.delete", None, False, False),
        ("tag", None, False, False),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_name_states_its_ids(
    text: str, column: str | None, *, has_optional_ids: bool, is_enough: bool
) -> None:
    """The column of the ids follows from the name, as does whether an id identifies a request."""
    name = RunName.parse(text)

    assert (name.id_column, name.has_optional_ids) == (column, has_optional_ids)
    assert name.is_id_enough == is_enough


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("v2 create if missing", True),
        ("v2 import transactions, create missing,", True),
        ("v2 create", False),
    ],
)
def test_a_name_states_whether_a_profile_is_looked_up_first(what: str, *, expected: bool) -> None:
    """Only a run that looks profiles up finds those whose creation was lost."""
    assert RunName(what=what).looks_first is expected
