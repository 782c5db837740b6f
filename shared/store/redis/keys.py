"""The names of the store's keys and channels. All keys share one hash tag, so a cluster keeps them in one slot."""

from __future__ import annotations


class Keys:
    """The keys of one deployment: ``prefix`` keeps deployments apart; channels also have the number of the database,
    because Redis has one space of channels for all databases.

    ======================  =======  ==========================================================================
    ``s:<session>``         hash     model, created, used, um and mm (messages), running, last, rev
    ``st:`` ``sa:``         list     the turns that the session shows; all its turns
    ``idx`` ``act``         zset     sessions by age; sessions by use
    ``t:<turn>``            hash     the turn; no expiry while it runs or a session shows it
    ``l:<turn>``            stream   its log: one entry a commit, id ``<last seq>-0``, field ``e``: JSON lines
    ``k:<key>``             hash     idempotency key: turn and hash of the request
    ``im:<image>``          hash     a picture with its bytes
    ``ti:<turn>``           set      the ids of a turn's pictures
    ``owners``              zset     nodes and the store's time at which their leases end
    ``run:<owner>``         set      the running turns of a node
    ``dropped``             set      running turns that no node owns any more
    ``trash``               list     turns of cleared and deleted sessions, to be dealt with
    ``signals``             string   the id of the newest signal
    ``version``             string   the version of this schema
    ``write_check``         string   written to see that the store takes writes
    ======================  =======  ==========================================================================
    """

    def __init__(self, prefix: str, database: int) -> None:
        self.tag = "{" + prefix + "}:"
        self._channels = f"{self.tag}{database}:"
        self.by_age = self.tag + "idx"
        self.by_use = self.tag + "act"
        self.owners = self.tag + "owners"
        self.dropped = self.tag + "dropped"
        self.trash = self.tag + "trash"
        self.signals = self.tag + "signals"
        self.version = self.tag + "version"
        self.write_check = self.tag + "write_check"
        self.signal_channel = self._channels + "sig"
        # A script declares each key that it may use; this one stands for "none".
        self.none = self.tag + "-"

    def session(self, session_id: str | None) -> str:
        """The key of a session; of no session at all where there is none."""
        return f"{self.tag}s:{session_id}" if session_id else self.none

    def shown(self, session_id: str | None) -> str:
        """The key of a session's shown turns."""
        return f"{self.tag}st:{session_id}" if session_id else self.none

    def all_turns(self, session_id: str | None) -> str:
        """The key of all of a session's turns."""
        return f"{self.tag}sa:{session_id}" if session_id else self.none

    def turn(self, turn_id: str) -> str:
        """The key of a turn."""
        return f"{self.tag}t:{turn_id}"

    def log(self, turn_id: str) -> str:
        """The key of a turn's log."""
        return f"{self.tag}l:{turn_id}"

    def request(self, request_id: str | None) -> str:
        """The key of an idempotency key."""
        return f"{self.tag}k:{request_id}" if request_id else self.none

    def image(self, image_id: str | None) -> str:
        """The key of a picture."""
        return f"{self.tag}im:{image_id}" if image_id else self.none

    def images_of(self, turn_id: str) -> str:
        """The key of the ids of a turn's pictures."""
        return f"{self.tag}ti:{turn_id}"

    def running(self, owner: str) -> str:
        """The key of a node's running turns."""
        return f"{self.tag}run:{owner}"

    def channel(self, turn_id: str) -> str:
        """The channel on which a turn's commits are pushed."""
        return f"{self._channels}l:{turn_id}"

    def turn_of(self, channel: str) -> str:
        """The turn of a channel."""
        return channel.removeprefix(self._channels + "l:")
