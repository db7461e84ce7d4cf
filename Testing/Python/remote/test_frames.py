"""The stream of messages and files, over real pipes."""

from __future__ import annotations

import hashlib
import json
import os
import threading

import pytest

from DiffuGTSLib.remote.frames import (
    PIECE_BYTES,
    FrameReader,
    FrameWriter,
    StreamDamaged,
    StreamEnded,
)


@pytest.fixture
def pipe():
    """Both ends of a pipe, unbuffered."""
    read, write = os.pipe()
    with os.fdopen(read, "rb", buffering=0) as source, os.fdopen(write, "wb", buffering=0) as sink:
        yield source, sink


@pytest.fixture
def received(tmp_path, pipe):
    """Sends with a function, and returns the messages that arrive."""

    def run(send):
        source, sink = pipe

        def work():
            try:
                send(FrameWriter(sink))
            finally:
                sink.close()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            return list(FrameReader(source, lambda name: tmp_path / "in" / name).messages())
        finally:
            source.close()
            thread.join()

    return run


def file_of(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("content", [
    b"", b"x", bytes(3 * PIECE_BYTES), os.urandom(2 * PIECE_BYTES + 17)], ids=len)
def test_a_file_arrives_bit_for_bit(received, tmp_path, content):
    path = file_of(tmp_path, content)
    messages = received(lambda writer: writer.send_file(path, "scan"))
    assert messages[-1] == {"type": "received", "name": "scan", "path": tmp_path / "in" / "scan",
                            "failed": False}
    assert (tmp_path / "in" / "scan").read_bytes() == content
    assert len(os.listdir(tmp_path / "in")) == 1


def test_what_compresses_travels_compressed(pipe, tmp_path):
    source, sink = pipe
    FrameWriter(sink).send_file(file_of(tmp_path, bytes(PIECE_BYTES)), "scan")
    sink.close()
    assert len(source.read(1 << 22)) < PIECE_BYTES / 50


def test_messages_pass_between_the_pieces_of_a_file(received, tmp_path):
    path = file_of(tmp_path, os.urandom(4 * PIECE_BYTES))

    def send(writer):
        writer.send_file(path, "scan", lambda done, size: writer.send({"type": "alive"}))

    kinds = [message["type"] for message in received(send)]
    assert kinds.index("alive") < kinds.index("received")
    assert kinds.count("alive") == 4


def test_a_given_up_file_is_never_there_and_can_be_sent_again(received, tmp_path):
    path = file_of(tmp_path, os.urandom(3 * PIECE_BYTES))

    def send(writer):
        with pytest.raises(KeyError):
            writer.send_file(path, "scan", lambda done, size: {}["stop"])
        assert not (tmp_path / "in" / "scan").exists()
        writer.send_file(path, "scan")

    received(send)
    assert (tmp_path / "in" / "scan").read_bytes() == path.read_bytes()
    assert len(os.listdir(tmp_path / "in")) == 1


def test_a_held_up_reader_does_not_take_it_for_silence(pipe):
    source, sink = pipe
    reader = FrameReader(source, lambda name: None)
    assert reader.silence == 0
    threading.Thread(target=lambda: list(reader.messages()), daemon=True).start()
    threading.Event().wait(0.3)
    assert reader.silence > 0.2
    sink.close()


def test_a_stream_that_ends_in_a_file_leaves_nothing(pipe, tmp_path):
    source, sink = pipe
    sink.write(b'{"type": "file", "name": "scan", "bytes": 9, "sha256": "0"}\n'
               b'{"type": "piece", "name": "scan", "bytes": 5, "zlib": false}\nab')
    sink.close()
    with pytest.raises(StreamEnded):
        list(FrameReader(source, lambda name: tmp_path / "in" / name).messages())
    assert os.listdir(tmp_path / "in") == []


def damaged(first, piece=b"abc", **header):
    """A file of three bytes with something wrong."""
    digest = hashlib.sha256(b"abc").hexdigest()
    begin = {"type": "file", "name": "scan", "bytes": 3, "sha256": digest} | first
    of_piece = {"type": "piece", "name": "scan", "bytes": len(piece), "zlib": False} | header
    return b"".join(json.dumps(each).encode() + b"\n" for each in (begin, of_piece)) + piece


@pytest.mark.parametrize("stream", [
    damaged({}, b"abd"), damaged({}, b"abcd"), damaged({"name": "../scan"}),
    damaged({"name": "a/b"}), damaged({"name": ".hidden"}), damaged({"bytes": -1}),
    damaged({"bytes": True}), damaged({}, zlib=True), damaged({}, name="other"),
    damaged({}, bytes=1 << 40), b"no json\n", b"[]\n", b'{"type": 3}\n'])
def test_a_damaged_stream_is_refused_and_leaves_nothing(pipe, tmp_path, stream):
    source, sink = pipe
    sink.write(stream)
    sink.close()
    with pytest.raises(StreamDamaged):
        list(FrameReader(source, lambda name: tmp_path / "in" / name).messages())
    assert not (tmp_path / "in").exists() or os.listdir(tmp_path / "in") == []


def test_a_piece_that_unpacks_to_more_than_a_piece_is_refused(pipe, tmp_path):
    import zlib

    bomb = zlib.compress(bytes(1 << 24))
    source, sink = pipe
    sink.write(damaged({"bytes": 1 << 24}, bomb, zlib=True))
    sink.close()
    with pytest.raises(StreamDamaged):
        list(FrameReader(source, lambda name: tmp_path / "in" / name).messages())


def test_a_file_that_cannot_be_written_is_reported_and_the_stream_goes_on(received, tmp_path):
    (tmp_path / "in").write_text("a file, where a folder has to be")
    path = file_of(tmp_path, b"abc")

    def send(writer):
        writer.send_file(path, "scan")
        writer.send({"type": "next"})

    messages = received(send)
    assert messages[0]["failed"]
    assert messages[-1] == {"type": "next"}


def test_what_comes_before_the_first_message_is_skipped(pipe):
    source, sink = pipe
    sink.write(b'Welcome\n{"type": "hello"}\n')
    sink.close()
    reader = FrameReader(source, lambda name: None)
    assert reader.skip_to(b'{"type": "hello"') == b"Welcome\n"
    assert next(reader.messages()) == {"type": "hello"}


def test_a_stream_without_a_first_message_ends_with_what_was_said(pipe):
    source, sink = pipe
    sink.write(b"sh: no such thing\n")
    sink.close()
    with pytest.raises(StreamEnded, match="no such thing"):
        FrameReader(source, lambda name: None).skip_to(b'{"type": "hello"')
