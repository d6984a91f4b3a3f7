"""The roster's endpoints: profiles, locations and players, durable in state before they answer."""

from __future__ import annotations

from earshot.state.v1 import state_pb2
from earshot.type.v1 import type_pb2

from services.common.errors import BadInput, NotFound
from services.edge import bounds
from services.edge.answer import Answer, json_answer
from services.edge.columns import Refusals, listed
from services.edge.contract.roster import (
    DeletedAnswer,
    Npc,
    NpcAnswer,
    NpcsAnswer,
    PlaceAnswer,
    Places,
    PlacesAnswer,
    Roster,
    RosterAnswer,
)
from services.edge.document import Document
from services.edge.profile import locations, players, profiles
from services.edge.request import Request, ask
from services.edge.rooms import READ_S, WRITE_S, Rooms
from services.edge.routes import Route
from services.edge.view import arguments, refusals, vector

_ROSTER, _NPC, _PLACES = Document(Roster), Document(Npc), Document(Places)


class RosterPages:
    """The endpoints."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v1/npcs", self.list_npcs, gives=NpcsAnswer),
            Route("PUT", "/v1/npcs", self.put_roster, Roster, RosterAnswer),
            Route("GET", "/v1/npcs/{id}", self.get_npc, gives=NpcAnswer),
            Route("PUT", "/v1/npcs/{id}", self.put_npc, Npc, RosterAnswer),
            Route("DELETE", "/v1/npcs/{id}", self.delete_npc, gives=DeletedAnswer),
            Route("GET", "/v1/locations", self.list_locations, gives=PlacesAnswer),
            Route("PUT", "/v1/locations", self.put_locations, Places, RosterAnswer),
        ]

    async def list_npcs(self, request: Request) -> Answer:
        """200 with every profile."""
        response = await self._profiles(request.tenant)
        return json_answer(NpcsAnswer([npc_answer(npc) for npc in response.npcs], response.roster_version))

    async def get_npc(self, request: Request) -> Answer:
        """200 with one profile, 404 when there is none."""
        response = await self._profiles(request.tenant, bounds.identify(request.parameters[0], "id"))
        if not response.npcs:
            raise NotFound("no profile has this id", reason="UNKNOWN_NPC")
        return json_answer(npc_answer(response.npcs[0]))

    async def put_roster(self, request: Request) -> Answer:
        """200 with what was taken over and what was refused."""
        roster = _ROSTER.value(await request.content.read())
        refused: Refusals = []
        message = state_pb2.ImportRosterRequest(tenant=request.tenant)
        message.npcs.extend(profiles(listed(roster.npcs), refused))
        message.locations.extend(locations(listed(roster.locations), refused))
        message.players.extend(players(listed(roster.players), refused))
        return await self._import(message, refused)

    async def put_npc(self, request: Request) -> Answer:
        """200 when the profile is durable; 400 when it cannot be."""
        name = bounds.identify(request.parameters[0], "id")
        npc = _NPC.value(await request.content.read())
        if npc.id is not None and bounds.identify(npc.id, "id") != name:
            raise BadInput("id: differs from the path's", reason="ID_MISMATCH")
        npc.id = name
        refused: Refusals = []
        message = state_pb2.ImportRosterRequest(tenant=request.tenant, npcs=profiles([npc], refused))
        if refused:
            raise BadInput(f"{refused[0].path}: not a value that this field takes", reason=refused[0].reason)
        return await self._import(message, refused)

    async def delete_npc(self, request: Request) -> Answer:
        """200 when it was there, 404 when it was not."""
        name = bounds.identify(request.parameters[0], "id")
        response = await ask(
            self._rooms.state.DeleteNpcProfile(
                state_pb2.DeleteNpcProfileRequest(tenant=request.tenant, id=name), timeout=WRITE_S
            )
        )
        if not response.deleted:
            raise NotFound("no profile has this id", reason="UNKNOWN_NPC")
        return json_answer(DeletedAnswer(True, response.roster_version))

    async def list_locations(self, request: Request) -> Answer:
        """200 with every location."""
        response = await ask(
            self._rooms.state.ListLocations(state_pb2.ListLocationsRequest(tenant=request.tenant), timeout=READ_S)
        )
        return json_answer(PlacesAnswer([place_answer(place) for place in response.locations]))

    async def put_locations(self, request: Request) -> Answer:
        """200 when these are the tenant's locations; all of them or, when one is refused, none."""
        places = _PLACES.value(await request.content.read())
        if places.locations is None:
            raise BadInput("locations: missing", reason="INVALID_FIELD")
        refused: Refusals = []
        message = state_pb2.ImportRosterRequest(tenant=request.tenant, replace_locations=True)
        message.locations.extend(locations(listed(places.locations), refused))
        if refused:
            raise BadInput(f"{refused[0].path}: not a location that can stand", reason=refused[0].reason)
        return await self._import(message, refused)

    async def _import(self, message: state_pb2.ImportRosterRequest, refused: Refusals) -> Answer:
        response = await ask(self._rooms.state.ImportRoster(message, timeout=WRITE_S))
        return json_answer(
            RosterAnswer(
                response.roster_version,
                response.npcs,
                response.locations,
                response.players,
                refusals([*refused, *response.refused]),
            )
        )

    async def _profiles(self, tenant: str, *ids: str) -> state_pb2.ListNpcProfilesResponse:
        return await ask(
            self._rooms.state.ListNpcProfiles(state_pb2.ListNpcProfilesRequest(tenant=tenant, ids=ids), timeout=READ_S)
        )


def npc_answer(profile: type_pb2.NpcProfile) -> NpcAnswer:
    return NpcAnswer(
        profile.id,
        profile.display_name,
        list(profile.aliases),
        profile.persona,
        list(profile.actions),
        list(profile.lines),
        list(profile.runtimes),
        list(profile.decide_on),
        profile.version,
        round(profile.talkativeness, 6) if profile.HasField("talkativeness") else None,
        profile.agent_id,
        profile.memory_scope,
        dict(profile.blocks) or None,
        profile.appearance,
        arguments(profile.model_settings) or None,
    )


def place_answer(place: type_pb2.Location) -> PlaceAnswer:
    return PlaceAnswer(place.slug, place.name, vector(place.position), place.description)
