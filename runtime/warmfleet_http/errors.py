"""What goes wrong between a client, this process and what is behind it.

Exception
 ├─ ClientGoneError         the client closed the connection, or takes nothing
 └─ UpstreamError           nobody answers; `timed_out` says whether it was patience that ended
     ├─ NotConnectedError   nothing was sent: another one may be asked
     ├─ LostError           sent, and no byte of an answer came: another one may be asked if that does no harm
     └─ BrokenError         a part of the answer came
"""


class ClientGoneError(Exception):
    """The client closed the connection, or takes nothing."""


class UpstreamError(Exception):
    """The other side did not answer, or not to the end. The message says what happened."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class NotConnectedError(UpstreamError):
    """No connection: nothing was sent."""


class LostError(UpstreamError):
    """The request was sent, perhaps in part, and no byte of an answer came."""


class BrokenError(UpstreamError):
    """The answer began and did not end."""
