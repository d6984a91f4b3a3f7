"""What one of many replicas owns, and what the one owner of everything does."""

from __future__ import annotations

import pytest

from services.common.errors import NotOwner, Unavailable
from services.common.ownership import PARTITIONS, EmbeddedOwnership, Fence, LeasedOwnership, partition_of

HERE = partition_of("t", "w")


def test_the_only_owner_has_everything_and_no_parts() -> None:
    ownership = EmbeddedOwnership(7)
    assert ownership.parts is None
    assert ownership.sure
    assert ownership.owns("t", "w")
    assert (ownership.fence("t", "w"), ownership.life) == (Fence(HERE, 7), 7)


def test_a_replica_that_holds_nothing_has_no_parts_and_is_not_mistaken_for_the_only_one() -> None:
    ownership = LeasedOwnership(lambda: 0.0)
    assert ownership.parts == {}
    assert not ownership.owns("t", "w")
    assert ownership.life == 0
    with pytest.raises(NotOwner):
        ownership.fence("t", "w")


def test_it_owns_what_it_holds_until_it_drops_it_or_its_lease_ends() -> None:
    now = [0.0]
    ownership = LeasedOwnership(lambda: now[0])
    ownership.owners = {HERE: "b:1"}
    assert ownership.owner("t", "w") == "b:1"
    ownership.hold({HERE: 3, (HERE + 1) % PARTITIONS: 9})
    ownership.until = 5.0
    assert ownership.parts == {HERE: Fence(HERE, 3), (HERE + 1) % PARTITIONS: Fence((HERE + 1) % PARTITIONS, 9)}
    assert (ownership.fence("t", "w"), ownership.life, ownership.owner("t", "w")) == (Fence(HERE, 3), 9, "")
    assert ownership.sure
    now[0] = 5.1
    assert not ownership.sure
    with pytest.raises(Unavailable) as caught:
        ownership.fence("t", "w")
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert ownership.owns("t", "w"), "it is read as before: nobody else is known to have it"
    ownership.drop([HERE])
    with pytest.raises(NotOwner):
        ownership.fence("t", "w")
