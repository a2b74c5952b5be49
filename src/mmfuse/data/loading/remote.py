"""An error of a worker, as what can be sent: its message, and the traceback of its cause as text."""

import traceback
from dataclasses import dataclass

from mmfuse.data.errors import DataError


@dataclass(frozen=True)
class Failure:
    """A DataError of a worker; its cause may hold what cannot be pickled."""

    message: str
    trace: str = ""  # of the cause, if it has one


class RemoteTraceback(Exception):
    """The cause of an error in a worker. As text it is the traceback there, which Python prints above the error."""

    def __init__(self, trace: str) -> None:
        super().__init__(trace)
        self.trace = trace

    def __str__(self) -> str:
        return f'\n"""\n{self.trace}"""'


def failure_of(error: DataError) -> Failure:
    """What is sent for an error."""
    cause = error.__cause__
    return Failure(str(error), "" if cause is None else "".join(traceback.format_exception(cause)))
