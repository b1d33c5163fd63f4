"""The seed file: profiles to start with, one JSON value per line; see `Sandbox.seed_file`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec

from . import _v2_rules as rules
from ._rules import Invalid, Problem, identifier, mail_profile, record, text, updated, wrong
from ._shop import Shop
from ._store import Store, StoredProfile
from ._v2_profiles import ProfilesV2

_MAIL_ID = "external_profile_id"
_IDS = ("customer_user_id", "profile_id")
_ids = record({"customer_user_id": identifier, "profile_id": rules.uuid})
_access = record({"access_levels": rules.list_of(rules.grant)})


class Seed(NamedTuple):
    """One profile of a seed file and its line; one of the Mail API has its id among `ids`."""

    line: int
    ids: Mapping[str, str]
    attributes: Mapping[str, Any]
    access_levels: list[dict[str, Any]]


def parsed(content: bytes) -> list[Seed]:
    """
    Return the profiles of a seed file.

    Raises:
        ValueError: a line is wrong; the message names the line, the field and the rule.
    """
    seeds: list[Seed] = []
    lines: dict[tuple[str, str], int] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        if not line.strip():
            continue
        try:
            seed = _seed(number, msgspec.json.decode(line))
            for key in seed.ids.items():
                if lines.setdefault(key, number) != number:
                    raise Invalid(Problem(f"Also on line {lines[key]}", key[0]))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"line {number}: not JSON: {error}") from None
        except Invalid as invalid:
            message, field = invalid.problems[0]
            place = f"{field}: " if field else ""
            raise ValueError(f"line {number}: {place}{message}") from None
        seeds.append(seed)
    return seeds


def apply(seeds: Iterable[Seed], store: Store, shop: Shop) -> int:
    """
    Store the profiles in one transaction, and return their number.

    Raises:
        ValueError: an access level is none of the app's, or two profiles have one id.
    """
    profiles = ProfilesV2(store, shop)
    count = 0
    with store.transaction():
        for seed in seeds:
            try:
                _put(seed, store, shop, profiles)
            except Invalid as invalid:
                raise ValueError(f"line {seed.line}: {invalid.problems[0].message}") from None
            count += 1
    return count


def _put(seed: Seed, store: Store, shop: Shop, profiles: ProfilesV2) -> None:
    if _MAIL_ID in seed.ids:
        store.save_mail(seed.attributes)
        return
    found = [store.find(by, value) for by, value in seed.ids.items()]
    known = next(filter(None, found), StoredProfile(str(uuid4()), None, {}))
    profile_id = seed.ids.get("profile_id", known.profile_id)
    if any(profile is not None and profile.profile_id != profile_id for profile in found):
        raise wrong("The customer user id is that of another profile")
    customer_user_id = seed.ids.get("customer_user_id", known.customer_user_id)
    profile = StoredProfile(profile_id, customer_user_id, dict(seed.attributes))
    store.put(profile)
    for grant in seed.access_levels:
        if not shop.has_access_level(grant["access_level_id"]):
            raise wrong(f"The app has no access level `{grant['access_level_id']}`")
        profiles.grant(profile, grant)


def _seed(line: int, value: Any) -> Seed:
    if isinstance(value, str):
        return Seed(line, {"customer_user_id": identifier(value)}, {}, [])
    if not isinstance(value, dict):
        raise wrong("Input should be a customer user id or an object")
    if _MAIL_ID in value:
        fields = _known(value, mail_profile(value))
        return Seed(line, {_MAIL_ID: fields[_MAIL_ID]}, fields, [])
    ids = _ids(value)
    if not ids:
        raise wrong(f"One of {', '.join(_IDS)} and {_MAIL_ID} is required")
    attributes, access = rules.profile(value), _access(value)
    _known(value, {**ids, **attributes, **access})
    return Seed(line, ids, updated({}, attributes), access.get("access_levels", []))


def _known(value: Mapping[str, Any], clean: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the clean fields; an unknown one is a mistake in a file, other than in a request."""
    for name in value:
        if name not in clean:
            raise Invalid(Problem("Unknown field", text(name)))
    return clean
