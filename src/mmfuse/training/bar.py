"""The progress bar of whatever takes long."""

import threading
from typing import Any

from tqdm import tqdm


class Bar(tqdm):
    """tqdm's bar without its thread and without a lock that other processes share.

    That thread takes tqdm's lock every ten seconds. A process that is forked meanwhile, such as a worker of a loader,
    would wait for it for ever, and one that is killed while it holds the lock would stop all others. Without the thread
    nobody looks after a bar that is updated seldom, so each update looks at the clock.
    """

    monitor_interval = 0

    def __init__(self, **settings: Any) -> None:
        super().__init__(miniters=1, **settings)


Bar.set_lock(threading.RLock())
