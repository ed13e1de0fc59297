"""The service: FastAPI in front, a consumer behind, one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, HTTPException, Request, status
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from outbox import Outbox
from parcels.labels import print_labels
from parcels.models import Parcel, tables
from parcels.schema import require_newest
from parcels.settings import TOPIC, database_url, kafka

Sessions = async_sessionmaker[AsyncSession]

events = Outbox()


class Booking(BaseModel):
    """What a customer sends."""

    recipient: str = Field(min_length=1, max_length=200)


class ParcelState(BaseModel):
    """What a customer gets."""

    id: UUID
    recipient: str
    label: str | None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Check the tables, then listen until the service ends."""
    engine = create_async_engine(database_url())
    try:
        async with engine.connect() as connection:
            await connection.run_sync(require_newest)
        app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
        async with listening(app.state.sessions):
            yield
    finally:
        await engine.dispose()


@asynccontextmanager
async def listening(sessions: Sessions) -> AsyncIterator[None]:
    """Print labels meanwhile, if there is a Kafka to hear of bookings from."""
    if not (bootstrap_servers := kafka()):
        yield
        return
    stop = asyncio.Event()
    printing = asyncio.create_task(print_labels(sessions, bootstrap_servers, stop))
    try:
        yield
    finally:
        stop.set()
        await printing


def get_sessions(request: Request) -> Sessions:
    """Return what makes sessions.

    And no session: a dependency would commit after the answer was sent.
    """
    sessions: Sessions = request.app.state.sessions
    return sessions


app = FastAPI(title="Parcels", lifespan=lifespan)
WithSessions = Annotated[Sessions, Depends(get_sessions)]


@app.get("/", include_in_schema=False)
async def home() -> RedirectResponse:
    """Show whoever comes with a browser what there is."""
    return RedirectResponse("/docs")


@app.post("/parcels", status_code=status.HTTP_201_CREATED)
async def book(booking: Booking, sessions: WithSessions) -> ParcelState:
    """Book a parcel and tell the world, both or neither."""
    async with sessions.begin() as session:
        parcel = Parcel(id=uuid4(), recipient=booking.recipient)
        session.add(parcel)
        await session.flush()
        await events.add_async(
            session,
            TOPIC,
            {"parcel": parcel.id, "recipient": parcel.recipient},
            key=parcel.id,
            type="parcel.booked",
        )
    return state_of(parcel)


@app.get("/parcels/{parcel_id}")
async def show(parcel_id: UUID, sessions: WithSessions) -> ParcelState:
    """Return a parcel; its label appears when the message has come around."""
    async with sessions() as session:
        parcel = await session.get(Parcel, parcel_id)
    if parcel is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "there is no such parcel")
    return state_of(parcel)


@app.get("/parcels/{parcel_id}/messages")
async def messages(parcel_id: UUID, sessions: WithSessions) -> list[UUID]:
    """Return the ids of the messages about a parcel that are in the log."""
    log = tables.message.c
    async with sessions() as session:
        found = await session.scalars(
            select(log.id).where(log.topic == TOPIC, log.key == str(parcel_id)).order_by(log.seq)
        )
        return list(found)


def state_of(parcel: Parcel) -> ParcelState:
    """Return what a customer may see."""
    return ParcelState(id=parcel.id, recipient=parcel.recipient, label=parcel.label)
