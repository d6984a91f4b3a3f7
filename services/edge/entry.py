"""Who comes in: a request's caller, counted against session and tenant; without a good key, against its address."""

from __future__ import annotations

from typing import Any

from services.common.errors import Forbidden, Unauthenticated
from services.edge.admission import Admission
from services.edge.keys import LOCAL_TENANT, Caller, Tenants
from services.edge.peer import Network, all_loopback, client_address
from services.edge.routes import Target

# A wrong key is guessing or a broken configuration; a session that ended is everyday.
_COUNTED = ("KEY_NEEDED", "UNKNOWN_KEY")


class Entry:
    """The one way from a connection's scope to a caller, for requests and WebSockets."""

    def __init__(self, tenants: Tenants, admission: Admission, trusted: tuple[Network, ...]) -> None:
        self._tenants = tenants
        self._admission = admission
        self._trusted = trusted

    def caller(self, target: Target, scope: dict[str, Any], headers: dict[bytes, bytes]) -> Caller:
        """The caller of a request.

        Raises Unauthenticated, Forbidden, and Overloaded (RATE_LIMITED) above a session's, tenant's or address's rate.
        """
        peer = (scope.get("client") or ("",))[0]
        forwarded_for = headers.get(b"x-forwarded-for", b"")
        try:
            caller = self._tenants.resolve(target.key, headers)
        except Unauthenticated as error:
            if error.reason in _COUNTED:
                self._admission.count_stranger(client_address(peer, forwarded_for, self._trusted))
            raise
        if not caller.key_id and caller.tenant == LOCAL_TENANT and not all_loopback(peer, forwarded_for):
            # A proxy on this machine would make the whole world local.
            raise Forbidden(
                "without keys this edge serves its own machine only; create one with: earshot key create",
                reason="KEYS_NEEDED",
            )
        self._admission.count(caller)
        return caller
