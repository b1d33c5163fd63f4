"""
A web service whose replicas share one rate with each other, and with the workers of jobs.

Run it with ``RATE_URL``, the address of the job store, and ``ADAPTY_API_KEY`` in the environment:
``uvicorn web_service:app --workers 4``. A single erasure goes before the items of every job.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request, Response

from adapty_async import AdaptyClient, Limits
from adapty_async.errors import NotFoundError
from adapty_async.shared import SharedRate


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep the client and the shared rate open while the service runs."""
    async with (
        SharedRate(os.environ["RATE_URL"]) as rate,
        AdaptyClient(limits=Limits(shared=rate)) as app.state.adapty,
    ):
        yield


app = FastAPI(lifespan=lifespan)


@app.delete("/users/{user}", status_code=204)
async def erase(user: str, request: Request) -> Response:
    """Erase a user from Adapty; a user who is unknown there is erased already."""
    adapty: AdaptyClient = request.app.state.adapty
    with suppress(NotFoundError):
        await adapty.v2.profiles.delete(customer_user_id=user)
    return Response(status_code=204)
