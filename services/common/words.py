"""English words that nobody is known by: the most frequent, in lower case, contractions without their apostrophe."""

from __future__ import annotations

# Tell no line from another. Short on purpose: a rare word weighs more by itself. Recall's index leaves these out, so a
# change here needs a new `INDEX_VERSION` in `services/chat/terms.py`.
_COMMON = (
    "a an and are as at be been but by can did do does dont for from had has have he her him his how i if im in "
    "is it its ive just me my no not of oh ok on or our she so that thats the their them then there they this "
    "to too us was we were what when where which who why will with would yes you your youre"
)
# Could be anybody's: that one says them tells nothing of what another said.
_ANYBODYS = (
    "about after again all am any come could get go here into know like many more much now off one out over say some "
    "still tell than these those up very well"
)
COMMON = frozenset(_COMMON.split())
ANYBODYS = COMMON | frozenset(_ANYBODYS.split())
