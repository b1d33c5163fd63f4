"""
Requests as code: Python with the client library, and curl. It does no I/O.

The code has the names of environment variables in the place of keys. It is built from what a
client sent, so each value is quoted, and nothing of it can end a string or a line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

import msgspec

from . import _rules, _v2_app, _v2_rules, _web
from ._rules import Invalid
from ._server_side import BASE as _V2
from ._server_side import HEADERS as _IDS
from ._service import decoded

#: The headers of a request that code has.
SENT_HEADERS = (
    *_IDS.values(),
    "adapty-platform",
    "Adapty-Tz",
    "Idempotency-Key",
    "Content-Type",
)
_OF_CLIENT = ("Idempotency-Key", "Content-Type")  # the client has other means for them

_WEB, _MAIL, _EXPORT = "/api/v2/web-api/", "/api/v1/profile/", "/api/v1/client-api/"
_PAYWALL = f"{_v2_app.PAYWALLS}*"
_PURCHASES = {"subscription": "SubscriptionPurchase", "one_time_purchase": "OneTimePurchase"}
# The structs of the library inside others, by field.
_NESTED = {
    "installation_meta": "InstallationMeta",
    "price": "Price",
    "offer": "Offer",
    "device_info": "DeviceInfo",
}


class Sent(msgspec.Struct, frozen=True):
    """
    A request as the page shows it.

    Attributes:
        target: the path and the query, percent-encoded.
        headers: those of `SENT_HEADERS` that it has.
        body: the body; `None` if it is not UTF-8, or larger than the sandbox keeps.
        size: the length of the body in bytes.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: str | None
    size: int


class _Api(NamedTuple):
    """The client of an API, and how its key is sent."""

    client: str
    variable: str
    scheme: str = "Api-Key"


_SERVER_SIDE = _Api("AdaptyClient", "ADAPTY_API_KEY")
_APIS = {
    _WEB: _Api("AdaptyClient", "ADAPTY_PUBLIC_KEY"),
    _MAIL: _Api("AdaptyMailClient", "ADAPTY_MAIL_API_KEY", "Bearer"),
    _EXPORT: _Api("AdaptyExportClient", "ADAPTY_API_KEY"),
}
# The methods that return nothing, in addition to those of the Mail API.
_WITHOUT_RESULT = {
    "v1.profiles.delete",
    "v2.profiles.delete",
    "v2.integrations.set",
    "v2.purchases.validate_stripe",
    "web.paywalls.record_view",
    "web.attribution.add",
}


class _UnsuitableError(Exception):
    """An exception for a request that the code in question cannot send."""


# From bodies to arguments; `module` is that of the structs


def _keywords(_module: str, body: Mapping[str, Any]) -> list[str]:
    return [f"{name}={_literal(value)}" for name, value in body.items()]


def _struct(name: str) -> Callable[[str, Any], list[str]]:
    def arguments(module: str, body: Mapping[str, Any]) -> list[str]:
        return [_built(module, name, body)] if body else []

    return arguments


def _with_ids(name: str) -> Callable[[str, Any], list[str]]:
    """Return the function for a struct whose body has the ids of the profile as well."""

    def arguments(module: str, body: Mapping[str, Any]) -> list[str]:
        fields = {field: value for field, value in body.items() if field not in _IDS}
        ids = {field: value for field, value in body.items() if field in _IDS}
        return [_built(module, name, fields), *_keywords(module, ids)]

    return arguments


def _transaction(module: str, body: Mapping[str, Any]) -> list[str]:
    fields = {name: value for name, value in body.items() if name != "purchase_type"}
    return [_built(module, _PURCHASES[body["purchase_type"]], fields)]


def _stripe(module: str, body: Mapping[str, Any]) -> list[str]:
    return _keywords(module, body["data"]["attributes"])


def _currencies(module: str, body: Mapping[str, Any]) -> list[str]:
    rest = {name: value for name, value in body.items() if name != "items"}
    items = _list(module, "VirtualCurrencyBalanceAdjustment", body["items"])
    return [items, *_keywords(module, rest)]


def _remote_configs(module: str, body: Mapping[str, Any]) -> list[str]:
    return [_list(module, "RemoteConfig", body["remote_configs"])]


def _list(module: str, struct: str, items: list[Mapping[str, Any]]) -> str:
    return f"[{', '.join(_built(module, struct, item) for item in items)}]"


def _built(module: str, struct: str, fields: Mapping[str, Any]) -> str:
    values = ", ".join(
        f"{name}={_built(module, _NESTED[name], value)}"
        if name in _NESTED and isinstance(value, dict)
        else f"{name}={_literal(value)}"
        for name, value in fields.items()
    )
    return f"{module}.{struct}({values})"


class _Method(NamedTuple):
    """
    A method of the library: `arguments` makes the text of its arguments from the body.

    `rule` checks the body; a body that breaks it, or has more than it knows, needs other code.
    """

    name: str
    rule: Callable[[Any], Any] = _rules.record({})
    arguments: Callable[[str, Any], list[str]] = lambda _module, _body: []

    @property
    def has_result(self) -> bool:
        """Whether it returns more than `None`."""
        return self.name not in _WITHOUT_RESULT and not self.name.startswith("mail.")


_PROFILE, _V1_PROFILE = f"{_V2}/profile/", "/api/v1/server-side-api/profiles/"
_REFUNDS = f"{_V2}/purchase/profile/refund-saver/settings/"
_IDENTIFIERS = f"{_V2}/integration/profile/set/integration-identifiers/"
_PURCHASE, _CURRENCIES = f"{_V2}/purchase", f"{_V2}/vc"
_attributes = _struct("ProfileAttributes")
# The methods of the library, by HTTP method and path.
_METHODS = {
    f"GET {_PROFILE}": _Method("v2.profiles.get"),
    f"DELETE {_PROFILE}": _Method("v2.profiles.delete"),
    f"POST {_PROFILE}": _Method("v2.profiles.create", _v2_rules.profile, _attributes),
    f"PATCH {_PROFILE}": _Method("v2.profiles.update", _v2_rules.profile, _attributes),
    f"POST {_PURCHASE}/set/transaction/": _Method(
        "v2.transactions.set", _v2_rules.transaction, _transaction
    ),
    f"POST {_PURCHASE}/profile/grant/access-level/": _Method(
        "v2.access_levels.grant", _v2_rules.grant, _keywords
    ),
    f"POST {_PURCHASE}/profile/revoke/access-level/": _Method(
        "v2.access_levels.revoke", _v2_rules.revocation, _keywords
    ),
    f"GET {_REFUNDS}": _Method("v2.refund_saver.get"),
    f"POST {_REFUNDS}": _Method("v2.refund_saver.set", _v2_rules.refund_saver, _keywords),
    f"GET {_IDENTIFIERS}": _Method("v2.integrations.get"),
    f"POST {_IDENTIFIERS}": _Method(
        "v2.integrations.set", _v2_rules.identifiers, _struct("IntegrationIdentifiers")
    ),
    f"POST {_PURCHASE}/paddle/token/validate/": _Method(
        "v2.purchases.validate_paddle", _v2_rules.paddle, _keywords
    ),
    "POST /api/v1/sdk/purchase/stripe/token/validate/": _Method(
        "v2.purchases.validate_stripe", _v2_rules.stripe, _stripe
    ),
    f"GET {_CURRENCIES}/balances/": _Method("v2.virtual_currencies.list_balances"),
    f"POST {_CURRENCIES}/transactions/": _Method(
        "v2.virtual_currencies.create_transaction", _v2_rules.currency_transaction, _currencies
    ),
    f"GET {_PAYWALL}": _Method("v2.paywalls.get"),
    f"PUT {_PAYWALL}": _Method("v2.paywalls.update", _v2_rules.paywall, _remote_configs),
    f"GET {_V1_PROFILE}": _Method("v1.profiles.get"),
    f"DELETE {_V1_PROFILE}": _Method("v1.profiles.delete"),
    f"POST {_V1_PROFILE}": _Method("v1.profiles.create", _rules.v1_profile, _attributes),
    f"PATCH {_V1_PROFILE}": _Method("v1.profiles.update", _rules.v1_profile, _attributes),
    f"POST {_MAIL}save/": _Method(
        "mail.profiles.save", _rules.mail_profile, _struct("MailProfile")
    ),
    f"POST {_MAIL}delete/": _Method("mail.profiles.delete", _rules.mail_identifiers, _keywords),
    f"POST {_MAIL}transaction-event/save/": _Method(
        "mail.events.save", _rules.mail_event, _struct("TransactionEvent")
    ),
    f"POST {_WEB}paywall/": _Method("web.paywalls.get", _web.paywall_rule, _keywords),
    f"POST {_WEB}paywall/visit/": _Method("web.paywalls.record_view", _web.visit_rule, _keywords),
    f"POST {_WEB}attribution/": _Method(
        "web.attribution.add", _web.attribution_rule, _with_ids("Attribution")
    ),
}


def python(sent: Sent, base_url: str) -> str:
    """Return a program that sends the request, or a comment that says why there is none."""
    api = _api(sent)
    try:
        try:
            imports, call = _method_call(sent)
        except _UnsuitableError:
            imports, call = _endpoint_call(sent)
    except _UnsuitableError as reason:
        return f"# No Python for this request: {reason}. Use curl.\n"
    lines = [
        "import asyncio",
        "",
        *imports,
        "",
        "",
        "async def main() -> None:",
        f"    # The key is that of the environment variable {api.variable}.",
        f"    async with {api.client}(base_url={_literal(base_url)}) as adapty:",
        f"        {call}",
        "",
        "",
        "asyncio.run(main())",
        "",
    ]
    return "\n".join(lines)


def _method_call(sent: Sent) -> tuple[list[str], str]:
    """Return the imports and the call of the method of the library for this request."""
    path, _, query = sent.target.partition("?")
    pattern = _v2_app.pattern(path)
    paywall_id = [] if pattern == path else [unquote(path.split("/")[-2])]
    method = _METHODS.get(f"{sent.method} {pattern}")
    if method is None or query or sent.body is None or "Adapty-Tz" in sent.headers:
        raise _UnsuitableError
    body = _clean(method, sent.body)
    api = method.name.partition(".")[0]
    arguments = [*map(_literal, paywall_id), *method.arguments(api, body), *_from_headers(sent)]

    def has_struct(argument: str) -> bool:
        return argument.startswith((f"{api}.", f"[{api}."))

    names = [_api(sent).client, *([api] if any(map(has_struct, arguments)) else [])]
    name = method.name.removeprefix("mail.")
    call = f"await adapty.{name}({_laid(arguments)})"
    call = f"print({call})" if method.has_result else call
    return [f"from adapty_async import {', '.join(names)}"], call


def _clean(method: _Method, text: str) -> Any:
    """Return the body as the sandbox stores it, if that is all that it has."""
    try:
        body = decoded(text.encode() or b"{}")
        clean = method.rule(body)
    except (Invalid, UnicodeEncodeError):
        raise _UnsuitableError from None
    if not _has_same_names(body, clean):
        raise _UnsuitableError
    return clean


def _has_same_names(body: Any, clean: Any) -> bool:
    if isinstance(body, dict) and isinstance(clean, dict):
        return body.keys() == clean.keys() and all(
            _has_same_names(value, clean[name]) for name, value in body.items()
        )
    return True


def _from_headers(sent: Sent) -> list[str]:
    names = {header: name for name, header in _IDS.items()}
    names |= {"adapty-platform": "platform", "Idempotency-Key": "idempotency_key"}
    return [
        f"{names[header]}={_literal(value)}"
        for header, value in sent.headers.items()
        if header in names
    ]


def _endpoint_call(sent: Sent) -> tuple[list[str], str]:
    """Return the imports, and the call of an endpoint that the library does not list."""
    path, _, query = sent.target.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    if not re.fullmatch(r"/(?!/)[A-Za-z0-9/._~!$&'()*+,;=:@%-]*", path):
        raise _UnsuitableError("its path has characters that the library does not send")
    if len(dict(pairs)) < len(pairs):
        raise _UnsuitableError("its query has a name more than once")
    definition = [
        'name="copied.request"',
        f"method={_literal(sent.method)}",
        f"path={_literal(path)}",
    ]
    api = _api(sent)
    definition += ["uses_public_key=True"] if api is _APIS[_WEB] else []
    values = _body_argument(sent)
    headers = {name: one for name, one in sent.headers.items() if name not in _OF_CLIENT}
    values += [f"headers={_literal(headers)}"] if headers else []
    values += [f"parameters={_literal(dict(pairs))}"] if pairs else []
    if "Idempotency-Key" in sent.headers:
        values.append(f"idempotency_key={_literal(sent.headers['Idempotency-Key'])}")
    definition.append("decode=bytes")
    imports = [
        f"from adapty_async import {api.client}",
        "from adapty_async.endpoints import Endpoint",
        "",
        f"ENDPOINT = Endpoint({_laid(definition, indent=0)})",
    ]
    return imports, f"print(await adapty.execute(ENDPOINT({_laid(values)})))"


def _body_argument(sent: Sent) -> list[str]:
    if not sent.size:
        return []
    if sent.body is None:
        raise _UnsuitableError("the sandbox does not keep its body")
    try:
        return [_literal(decoded(sent.body.encode()))]
    except (Invalid, UnicodeEncodeError):
        raise _UnsuitableError("its body is not JSON") from None


def _literal(value: Any) -> str:
    """Return the Python literal of a JSON value, with double quotes where that is shortest."""
    if isinstance(value, str) and '"' not in value:
        quoted = repr(f"'{value}")  # the apostrophe makes the quotes double ones
        return quoted[0] + quoted[2:]
    if isinstance(value, dict):
        pairs = (f"{_literal(name)}: {_literal(one)}" for name, one in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)


def _laid(arguments: list[str], indent: int = 8) -> str:
    """Return the arguments on one line if they are short, and on lines of their own otherwise."""
    line = ", ".join(arguments)
    if len(line) <= 60:
        return line
    inner = " " * (indent + 4)
    return "\n" + "".join(f"{inner}{one},\n" for one in arguments) + " " * indent


def curl(sent: Sent, base_url: str) -> str:
    """Return a command for a POSIX shell that sends the request."""
    api = _api(sent)
    options = [
        *([] if sent.method == "GET" else [f"--request {_quoted(sent.method)}"]),
        f'--header "Authorization: {api.scheme} ${api.variable}"',
        # curl leaves a header out that has a colon and no value.
        *(
            f"--header {_quoted(f'{name}: {value}' if value else f'{name};')}"
            for name, value in sent.headers.items()
        ),
    ]
    comment = ""
    if sent.size and sent.body is not None:
        options.append(f"--data-raw {_quoted(sent.body)}")
    elif sent.size:
        comment = f"# The sandbox does not keep this body of {sent.size} bytes.\n"
        options.append("--data-binary @body")
    if "--data" in options[-1] and "Content-Type" not in sent.headers:
        options.append("--header 'Content-Type:'")
    url = _quoted(base_url + sent.target)
    if not sent.target.startswith("/"):  # such as `OPTIONS *`
        url = f"{_quoted(base_url)} --request-target {_quoted(sent.target)}"
    return comment + " \\\n  ".join([f"curl --globoff --path-as-is {url}", *options]) + "\n"


def _api(sent: Sent) -> _Api:
    return next((api for path, api in _APIS.items() if sent.target.startswith(path)), _SERVER_SIDE)


def _quoted(text: str) -> str:
    """
    Return `text` as one word of a POSIX shell.

    Characters that are not shown are escaped: pasted into a terminal, they would be commands to it.
    """
    if text.replace("\n", "").isprintable():
        return shlex.quote(text)
    lines = text.rstrip("\n")  # a shell removes line breaks at the end of an output
    end = text[len(lines) :]
    printed = f"\"$(printf '{''.join(map(_escaped, lines))}')\""
    return printed + (shlex.quote(end) if end else "")


def _escaped(character: str) -> str:
    """Return a character for a format of `printf` between apostrophes."""
    if character in "\\%":
        return character * 2
    if character == "\n" or (character.isprintable() and character != "'"):
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode())
