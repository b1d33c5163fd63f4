"""The APIs that delete profiles, the kinds of their ids, and the option that chooses one."""

from __future__ import annotations

import click

__all__ = ("ALL_BY", "KINDS", "api_option", "require_kind")

#: The kinds of ids by API, the default first.
KINDS = {
    "v2": ("customer-user-id", "profile-id"),
    "v1": ("customer-user-id", "profile-id"),
    "mail": ("external-profile-id", "customer-user-id", "email"),
}
#: The kinds of ids of all APIs.
ALL_BY = sorted({name for names in KINDS.values() for name in names})
#: The option of the API of a deletion.
api_option = click.option(
    "--api",
    type=click.Choice(list(KINDS)),
    default="v2",
    show_default=True,
    help="The API to call: version 2 or 1 of the server-side API, or the Mail API.",
)


def require_kind(api: str, by: str) -> None:
    """
    Validate that an API knows a kind of ids.

    Raises:
        click.UsageError: it does not; the message names the ones that it knows.
    """
    if by not in KINDS[api]:
        is_mail_only = by not in {*KINDS["v1"], *KINDS["v2"]}
        other = f"; {by} needs --api mail" if is_mail_only else ""
        raise click.UsageError(f"--by for --api {api} is one of {', '.join(KINDS[api])}{other}")
