"""The seed file: profiles that a sandbox starts with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapty_async.sandbox import Sandbox

from .conftest import Api
from .test_mail import PROFILE as MAIL

ID = "3286abd3-48b0-4e9c-a5f6-ac0a006804a6"


def written(folder: Path, *values: Any) -> Path:
    """Return a file with a JSON value per line; text in bytes is written as it is."""
    lines = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in values]
    path = folder / "seed.ndjson"
    path.write_bytes(b"\n".join(lines))
    return path


async def test_profiles_of_every_kind_are_added(sandbox: Sandbox, tmp_path: Path) -> None:
    """Ids, attributes, access levels and profiles of the Mail API are there without a request."""
    path = written(
        tmp_path,
        b'\xef\xbb\xbf"anna"',
        b"  ",
        {"customer_user_id": "ben", "first_name": "Ben", "custom_attributes": {"a": 1}},
        {"profile_id": ID, "access_levels": [{"access_level_id": "premium"}]},
        MAIL,
    )

    assert sandbox.seed_file(path) == 4
    assert sandbox.customer_user_ids() == {"anna", "ben"}
    ben = sandbox.profile(customer_user_id="ben")
    assert ben is not None
    assert ben["first_name"] == "Ben"
    assert ben["custom_attributes"] == [{"key": "a", "value": 1.0}]
    reply = await Api(sandbox).v2(
        "GET", "profile/", adapty_customer_user_id=None, adapty_profile_id=ID
    )
    assert [one["access_level_id"] for one in reply.body["data"]["access_levels"]] == ["premium"]
    assert sandbox.mail_profile_ids() == {MAIL["external_profile_id"]}
    assert len(sandbox.arrivals()) == 1


async def test_a_profile_that_exists_is_changed(sandbox: Sandbox, tmp_path: Path) -> None:
    """A second file changes attributes and ids of a profile, and keeps the id it does not have."""
    sandbox.seed_file(written(tmp_path, {"customer_user_id": "u1", "profile_id": ID}))
    sandbox.seed_file(written(tmp_path, {"profile_id": ID, "first_name": "Ann"}))
    sandbox.seed_file(written(tmp_path, {"customer_user_id": "u1", "last_name": "Lee"}))

    profile = sandbox.profile(customer_user_id="u1")
    assert profile is not None
    assert (profile["profile_id"], profile["last_name"]) == (ID, "Lee")
    assert "first_name" not in profile


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(b"{", "not JSON: ", id="json"),
        pytest.param(b'"\xff"', "not JSON: ", id="utf-8"),
        pytest.param(b"[" * 10_000, "not JSON: ", id="depth"),
        pytest.param(5, "Input should be a customer user id or an object$", id="number"),
        pytest.param("", "String should have at least 1 character$", id="empty"),
        pytest.param("u1", "customer_user_id: Also on line 1$", id="repeated"),
        pytest.param(
            {**MAIL, "external_profile_id": "m1"},
            "external_profile_id: Also on line 2$",
            id="mail-repeated",
        ),
        pytest.param({}, "One of customer_user_id, profile_id and external_", id="no-id"),
        pytest.param({"customer_user_id": ""}, "customer_user_id: String should", id="id"),
        pytest.param({"profile_id": "x"}, "profile_id: Input should be a valid UUID$", id="uuid"),
        pytest.param(
            {"customer_user_id": "u2", "gender": "x"}, "gender: Input should be", id="rule"
        ),
        pytest.param({"customer_user_id": "u2", "nick": "x"}, "nick: Unknown field$", id="field"),
        pytest.param({**MAIL, "nick": "x"}, "nick: Unknown field$", id="mail-field"),
        pytest.param({**MAIL, "email": "x"}, "email: Input should be", id="mail-rule"),
        pytest.param(
            {"customer_user_id": "u2", "access_levels": [{}]},
            "access_levels.access_level_id: Field required$",
            id="access",
        ),
        pytest.param(
            {"customer_user_id": "u2", "access_levels": [{"access_level_id": "gold"}]},
            "The app has no access level `gold`$",
            id="level",
        ),
        pytest.param(
            {"customer_user_id": "u9", "profile_id": ID},
            "The customer user id is that of another profile$",
            id="two",
        ),
        pytest.param(
            {
                "customer_user_id": "u9",
                "profile_id": ID.replace("3", "4"),
                "access_levels": [{"access_level_id": "premium"}],
            },
            "The customer user id is that of another profile$",
            id="another",
        ),
    ],
)
async def test_a_wrong_line_is_named_and_nothing_is_added(
    sandbox: Sandbox, tmp_path: Path, value: Any, message: str
) -> None:
    """The line, the field and the rule are in the error, and no profile of the file is there."""
    sandbox.seed_file(written(tmp_path, "u9", {"profile_id": ID}))
    path = written(tmp_path, "u1", {**MAIL, "external_profile_id": "m1"}, value)

    with pytest.raises(ValueError, match=f"^line 3: {message}"):
        sandbox.seed_file(path)
    assert sandbox.customer_user_ids() == {"u9"}
    assert sandbox.mail_profile_ids() == set()


async def test_a_file_has_to_be_there(sandbox: Sandbox, tmp_path: Path) -> None:
    """A file that cannot be read is the system's error."""
    with pytest.raises(FileNotFoundError):
        sandbox.seed_file(tmp_path / "none")
