"""A rosbag2 sqlite3 file read row by row in the order it was written, as far as it goes."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from mtaclip_ros.bag_source import Channel, Entry


class SqliteFile:
    """The messages of one .db3 file up to where its pages end or make no sense.

    Attributes:
        channels: by the file's own numbers.
        entries: in the order of the file.
        broken: how and where the file breaks off; None when all its messages are there.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.channels: dict[int, Channel] = {}
        self.entries: list[Entry] = []
        self.broken: str | None = None
        path.open("rb").close()
        # immutable: neither locks nor a journal that a dead recorder left; nothing is written beside the bag
        self._base = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1", uri=True)
        try:
            # SQLite opens a file that is shorter than its header says only for those who say so.
            self._base.execute("PRAGMA writable_schema=ON")
            self._index()
        except sqlite3.Error as error:
            self.broken = f"it breaks off ({error})"
        self._drop_unreadable()

    def read(self, entry: Entry) -> bytes:
        """The serialised message of an entry."""
        row = self._base.execute("SELECT data FROM messages WHERE id = ?", (entry.place[0],)).fetchone()
        return bytes(row[0])

    def close(self) -> None:
        self._base.close()

    def _index(self) -> None:
        columns = {row[1] for row in self._base.execute("PRAGMA table_info(topics)")}
        qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
        for number, name, msgtype, offered in self._base.execute(f"SELECT id, name, type, {qos} FROM topics"):
            self.channels[number] = Channel(name, msgtype, offered)
        for row, number, recorded in self._base.execute("SELECT id, topic_id, timestamp FROM messages ORDER BY id"):
            if number in self.channels:
                self.entries.append(Entry(recorded, number, (row, 0, 0)))

    def _drop_unreadable(self) -> None:
        """Long messages lie on pages of their own, which may be missing although the row is there."""
        while self.entries:
            try:
                self.read(self.entries[-1])
            except sqlite3.Error as error:
                self.broken = self.broken or f"it breaks off ({error})"
                self.entries.pop()
            else:
                return
