"""The contracts: one row for each of Adapty's OpenAPI documents whose API the library has."""

from __future__ import annotations

from tests.contract import export, mail, server_side_v2, web_app
from tests.contract.contract import Contract

CONTRACTS: dict[str, Contract] = {
    contract.name: contract
    for contract in (server_side_v2.CONTRACT, mail.CONTRACT, web_app.CONTRACT, export.CONTRACT)
}
#: The modules of the library whose contract is missing above, for as long as they are missing too.
MODULES = {
    "server-side-api-v2": "adapty_async.v2",
    "mail-api": "adapty_async.mail",
    "web-api": "adapty_async.web",
    "export-analytics-api": "adapty_async.export",
}
