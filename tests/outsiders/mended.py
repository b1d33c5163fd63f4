"""
Adapty's OpenAPI documents with their known defects mended, as tools of others need them.

Each mend has its reason as its docstring. The defects are those of `tests.contract`, which has a
test that each is still there.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.contract.documents import DOCUMENTS

Content = dict[str, Any]
Mend = Callable[[Content], None]


def mended(name: str, mends: tuple[Mend, ...]) -> Content:
    """Return a copy of a document with these mends."""
    content = copy.deepcopy(DOCUMENTS[name].content)
    for mend in mends:
        mend(content)
    return content


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a value, inner ones first."""
    if isinstance(value, list):
        for one in value:
            yield from nodes(one)
    elif isinstance(value, dict):
        for one in list(value.values()):
            yield from nodes(one)
        yield value


def operations(content: Content) -> Iterator[dict[str, Any]]:
    """Yield the operations of a document."""
    for methods in content["paths"].values():
        yield from methods.values()


def nullable_is_a_type(content: Content) -> None:
    """OpenAPI 3.1 has no `nullable`: null is a type."""
    for schema in nodes(content):
        if schema.get("nullable") is not True:
            continue
        del schema["nullable"]
        if "type" in schema:
            schema["type"] = [schema["type"], "null"]
            if "enum" in schema:
                schema["enum"] = [*schema["enum"], None]
        else:
            inner = dict(schema)
            schema.clear()
            schema["oneOf"] = [inner, {"type": "null"}]


def security_scheme_has_no_default(content: Content) -> None:
    """A security scheme has no `default`: strict validators reject the document."""
    for scheme in content["components"]["securitySchemes"].values():
        scheme.pop("default", None)


def discriminator_has_a_mapping(content: Content) -> None:
    """The values of a discriminator are schema names unless there is a mapping."""
    for schema in nodes(content["components"]["schemas"]):
        if "discriminator" in schema:
            name = schema["discriminator"]["propertyName"]
            schema["discriminator"]["mapping"] = {
                _definition(content, one)["properties"][name]["enum"][0]: one["$ref"]
                for one in schema["oneOf"]
            }


def _definition(content: Content, schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return found


def errors_may_be_strings(content: Content) -> None:
    """An entry of `errors` is an object in the schema, and a string in half of the examples."""
    for schema in content["components"]["schemas"].values():
        errors = schema.get("properties", {}).get("errors", {})
        entry = errors.get("items", {})
        if "errors" in entry.get("properties", {}):
            errors["items"] = {"anyOf": [entry, {"type": "string"}]}


def fields_of_errors_may_be_null(content: Content) -> None:
    """`field_name` and `source` are null in examples of errors that are about no field."""
    for schema in nodes(content["components"]["schemas"]):
        for name in ("field_name", "source"):
            if schema.get("properties", {}).get(name) == {"type": "string"}:
                schema["properties"][name] = {"type": ["string", "null"]}


def errors_are_not_empty(content: Content) -> None:
    """
    A failure has an error at least, by which the client recognises a response of the API.

    A gateway's 404 must not count as a missing profile, so an empty list is none of Adapty's.
    """
    for schema in content["components"]["schemas"].values():
        if schema.get("properties", {}).get("errors", {}).get("type") == "array":
            schema["properties"]["errors"]["minItems"] = 1
            schema["required"] = sorted({*schema.get("required", ()), "errors"})


def empty_bodies_are_none(content: Content) -> None:
    """The web API's 201 is an object in the schema, and an empty body in the prose."""
    for operation in operations(content):
        for response in operation["responses"].values():
            for media in list(response.get("content", {}).values()):
                if media == {"schema": {"type": "object"}}:
                    del response["content"]


def periods_are_dates(content: Content) -> None:
    """The dates of exports are any texts in the schema, a date or two of them in the prose."""
    filters = content["components"]["schemas"].get("MetricsFilters", {})
    for name in {"date", "compare_date"} & filters.get("properties", {}).keys():
        filters["properties"][name] = {
            "type": "array",
            "items": {"type": "string", "format": "date"},
            "minItems": 1,
            "maxItems": 2,
        }


def titles_are_no_names(content: Content) -> None:
    """The title of SubscriptionDTO, "Subscription", is the name of another schema."""
    for schema in content["components"]["schemas"].values():
        schema.pop("title", None)


def pages_are_counted_from_one(content: Content) -> None:
    """A page with items is one of at least one; random values have any number of pages."""
    for schema in nodes(content["components"]["schemas"]):
        properties = schema.get("properties", {})
        if "pages" in properties:
            for name in ("page", "pages"):
                properties[name]["minimum"] = 1
        if {"data", "meta"} <= properties.keys():
            properties["data"]["minItems"] = 1


#: The mends that every tool gets.
EVERYWHERE = (
    nullable_is_a_type,
    security_scheme_has_no_default,
    discriminator_has_a_mapping,
    errors_may_be_strings,
    fields_of_errors_may_be_null,
    errors_are_not_empty,
    empty_bodies_are_none,
    periods_are_dates,
    titles_are_no_names,
)


def saved(content: Content, path: Path) -> Path:
    """Write a document as JSON, and return its path."""
    path.write_text(json.dumps(content, indent=1), "utf-8")
    return path


def profiles_exist(paywalls: list[str], ids: list[str], erased: list[str]) -> Mend:
    """
    Return a mend that names profiles and paywalls of the sandbox.

    One of two identifiers is required, which a schema cannot say. A tool that makes identifiers up
    would learn of nothing but missing profiles.
    """

    def mend(content: Content) -> None:
        for operation in operations(content):
            is_deletion = operation["operationId"] == "deleteProfile"
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "adapty-customer-user-id":
                    parameter["required"] = True
                    parameter["schema"]["enum"] = erased if is_deletion else ids
                elif parameter["name"] == "paywall_id":
                    parameter["schema"]["enum"] = paywalls
            _without_parameter(operation, "adapty-profile-id")
        for schema in content["components"]["schemas"].values():
            properties = schema.get("properties", {})
            if {"customer_user_id", "profile_id"} <= properties.keys() and "required" in schema:
                _identified_by_customer(schema, ids)

    return mend


def _without_parameter(operation: dict[str, Any], name: str) -> None:
    parameters = operation.get("parameters", [])
    operation["parameters"] = [one for one in parameters if one["name"] != name]


def _identified_by_customer(schema: dict[str, Any], ids: list[str]) -> None:
    # A response that has both ids has an id of the app as well.
    if "app_id" in schema["properties"]:
        return
    del schema["properties"]["profile_id"]
    schema["properties"]["customer_user_id"] = {"type": "string", "enum": ids}
    schema["required"] = [*schema["required"], "customer_user_id"]
