# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from pathlib import Path

from scheduler.runtime.log_reader import read
from scheduler.runtime.process.log_file import MAX_LINE, LogFile
from scheduler.runtime.protocol import LogLine


def kept(path: Path, *, tail: int | None = None, follow: bool = False) -> list[LogLine]:
    async def collect() -> list[LogLine]:
        found = read(path, follow=follow, tail=tail, ended=lambda: True)
        return [line async for line in found]

    return asyncio.run(collect())


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", 10**6, 2)
    log.write("stdout", b"one\ntw")
    log.write("stderr", b"error\n")
    log.write("stdout", b"o\n\nno newline")
    log.finish()
    found = [(line.stream, line.data) for line in kept(tmp_path / "a.log")]
    assert found == [
        ("stdout", b"one\n"),
        ("stderr", b"error\n"),
        ("stdout", b"two\n"),
        ("stdout", b"\n"),
        ("stdout", b"no newline"),
    ]
    assert [x.data for x in kept(tmp_path / "a.log", tail=2)] == [b"\n", b"no newline"]
    assert kept(tmp_path / "a.log", tail=0) == []


def test_a_long_line_is_kept_in_parts(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", 10**6, 2)
    text = b"x" * (2 * MAX_LINE + 10) + b"\n"
    log.write("stdout", b"before\n" + text)
    log.finish()
    assert b"".join(line.data for line in kept(tmp_path / "a.log")) == b"before\n" + text
    assert b"".join(line.data for line in kept(tmp_path / "a.log", tail=1)) == text


def test_old_output_is_dropped_by_whole_files(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", 4096, 3)
    for number in range(1000):
        log.write("stdout", b"line %d\n" % number)
    log.finish()
    assert len(list(tmp_path.iterdir())) == 3
    for follow in (False, True):
        found = [line.data for line in kept(tmp_path / "a.log", follow=follow)]
        assert found == [b"line %d\n" % n for n in range(1000 - len(found), 1000)]
        assert 100 < len(found) < 1000
    assert len(kept(tmp_path / "a.log", tail=120, follow=True)) == 120


def test_a_full_disk_loses_output_and_says_how_much(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.symlink_to("/dev/full")  # every write fails with ENOSPC
    log = LogFile(path, 10**6, 2)
    log.write("stdout", b"lost\n")
    path.unlink()
    log.write("stdout", b"kept\n")
    log.finish()
    told, line = kept(path)
    assert b"output were lost here: No space left on device" in told.data
    assert line.data == b"kept\n"
