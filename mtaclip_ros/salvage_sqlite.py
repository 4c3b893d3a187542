"""A rosbag2 sqlite3 file read row by row in the order it was written, as far as it goes."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import apsw

from mtaclip_ros.bag_source import Channel, DamagedError, Entry


class _WholePages(apsw.VFS):
    """Files whose last page is cut off end before it: SQLite would take what is missing of it for zeros."""

    name = "mtaclip_whole_pages"

    def __init__(self) -> None:
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _WholePagesFile("", name, flags)


class _WholePagesFile(apsw.VFSFile):
    def xFileSize(self) -> int:  # noqa: N802
        size = super().xFileSize()
        return size - _cut_page(size, self.xRead(2, 16) if size >= 18 else b"")


_VFS = _WholePages()
_DAMAGE = (apsw.Error, UnicodeDecodeError)


def _cut_page(size: int, page: bytes) -> int:
    """Bytes of a file's last page where it is cut off, else 0; `page` are the two bytes of the file that say its size,
    1 for 65536."""
    length = int.from_bytes(page, "big")
    return size % (65536 if length == 1 else length or 1)


def unfinished(path: Path) -> str | None:
    """Why a file must not be read as if it were whole although SQLite would; None where it may."""
    if log_of(path):
        return "its recorder did not close it"
    with path.open("rb") as file:
        head = file.read(18)
    return "its last page is cut off" if _cut_page(path.stat().st_size, head[16:]) else None


def _connect(path: Path, log: bool) -> apsw.Connection:
    """Open read-only. Without the log neither locks nor a journal of a dead recorder count, and nothing is written."""
    how = "" if log else f"&immutable=1&vfs={_VFS.name}"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    base = apsw.Connection(f"file:{quote(str(path.absolute()))}?mode=ro{how}", flags)
    # SQLite opens a file that is shorter than its header says only for those who say so.
    base.pragma("writable_schema", True)
    return base


def log_of(path: Path) -> Path | None:
    """The write-ahead log beside a file that was not closed: its last messages are there. None without one."""
    log = path.with_name(f"{path.name}-wal")
    return log if log.is_file() and log.stat().st_size else None


class SqliteFile:
    """The messages of one .db3 file, from its beginning and from its end up to pages that are missing or make no sense;
    see `Finds` for the attributes.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.channels: dict[int, Channel] = {}
        self.entries: list[Entry] = []
        self.broken: str | None = None
        path.open("rb").close()  # what is wrong with it is said better here
        log = log_of(path)
        self._base = _connect(path, log is not None)
        try:
            if log:
                self.broken = "its recorder did not close it"
                self._base.execute("SELECT count(*) FROM sqlite_master")
        except apsw.Error as error:  # a folder that cannot be written, and no index of the log in it
            self._base.close()
            self._base = _connect(path, False)
            self.broken = f"{log} cannot be read ({error})"
        try:
            self._read_channels()
            self._read_entries()
        except _DAMAGE as error:
            self._breaks_off(error)
        self._drop_unreadable()

    def read(self, entry: Entry) -> bytes:
        try:
            query = "SELECT CAST(data AS BLOB) FROM messages WHERE id = ?"
            row = self._base.execute(query, (entry.place[0],)).fetchone()
        except apsw.Error as error:
            raise DamagedError(str(error)) from error
        if row is None or not isinstance(row[0], bytes):
            raise DamagedError("its row holds no message")
        return row[0]

    def close(self) -> None:
        self._base.close()

    def _breaks_off(self, error: Exception) -> None:
        self.broken = self.broken or f"it breaks off ({error})"

    def _read_channels(self) -> None:
        columns = {row[1] for row in self._base.execute("PRAGMA table_info(topics)")}
        names = ["name", "type", "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"]
        texts = ", ".join(f"CAST({name} AS BLOB)" for name in names)
        for number, *values in self._base.execute(f"SELECT id, {texts} FROM topics"):
            try:
                self.channels[number] = Channel(*(bytes(value or b"").decode() for value in values))
            except UnicodeDecodeError as error:
                self._breaks_off(error)

    def _read_entries(self) -> None:
        found: dict[int, Entry] = {}
        for direction in ("ASC", "DESC"):
            columns = "id, CAST(topic_id AS INTEGER), CAST(timestamp AS INTEGER)"
            query = f"SELECT {columns} FROM messages ORDER BY id {direction}"
            try:
                for row, number, recorded in self._base.execute(query):
                    if row in found:
                        break
                    if number in self.channels and isinstance(recorded, int):
                        found[row] = Entry(recorded, number, (row, 0, 0))
            except _DAMAGE as error:
                self._breaks_off(error)
            else:
                break
        self.entries = [found[row] for row in sorted(found)]

    def _drop_unreadable(self) -> None:
        """Long messages lie on pages of their own, which may be missing although the row is there."""
        while self.entries:
            try:
                self.read(self.entries[-1])
            except DamagedError as error:
                self._breaks_off(error)
                self.entries.pop()
            else:
                return
