"""The condensed documents: what is kept of Adapty's own, and whether they are of the same state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.contract.documents import NAMES, condensed, original, shipped

ORIGINALS = os.environ.get("ADAPTY_OPENAPI")


def test_prose_is_left_out_and_names_are_kept() -> None:
    """Descriptions and summaries go; properties of these names, values and error codes stay."""
    document: dict[str, Any] = {
        "description": "prose",
        "paths": {
            "/a/": {
                "get": {
                    "summary": "prose",
                    "tags": ["prose"],
                    "responses": {
                        "404": {"description": "prose: `error_code` is `a_code` or `b_code`"},
                        "400": {"description": "prose with `a_word`"},
                    },
                }
            }
        },
        "components": {
            "schemas": {
                "A": {
                    "description": "prose",
                    "properties": {"summary": {"type": "string", "description": "prose"}},
                    "examples": {"one": {"summary": "prose", "value": [{"description": "prose"}]}},
                }
            }
        },
    }

    assert condensed(document) == {
        "paths": {
            "/a/": {
                "get": {
                    "responses": {
                        "404": {"description": "", "x-error-codes": ["a_code", "b_code"]},
                        "400": {"description": ""},
                    }
                }
            }
        },
        "components": {
            "schemas": {
                "A": {
                    "properties": {"summary": {"type": "string"}},
                    "examples": {"one": {"value": [{"description": ""}]}},
                }
            }
        },
    }


@pytest.mark.skipif(not ORIGINALS, reason="ADAPTY_OPENAPI is not set: a folder with the originals")
@pytest.mark.parametrize("name", NAMES)
def test_the_condensed_documents_are_of_the_originals(name: str) -> None:
    """A document that Adapty has changed is noticed."""
    assert ORIGINALS is not None
    assert original(Path(ORIGINALS), name) == shipped(name)
