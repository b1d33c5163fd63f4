"""Decoders of version 2's responses: an object alone or in an envelope, as documented."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from adapty_async._api.results import data_decoder, read_attributes

__all__ = ("reader", "whole_reader")

ResultT = TypeVar("ResultT")


def reader(result: type[ResultT], *requires: str) -> Callable[[bytes], ResultT]:
    """Return a decoder of an object that stands alone or under ``data``."""
    return data_decoder(result, read_attributes, requires=requires)


def whole_reader(result: type[ResultT], *requires: str) -> Callable[[bytes], ResultT]:
    """Return a decoder of an object whose ``data`` is one of several fields, as in a page."""
    return data_decoder(result, read_attributes, unwrap=False, requires=requires)
