"""Calls of grpcio, and HTTP/2 frames written and read with hyperframe and hpack, to guarded gRPC services.

tower-oidc-guard/tests/it/foreign_clients.rs starts the services and passes their ports, and the calls that they refuse, as JSON on
the standard input.
"""

import concurrent.futures
import json
import os
import re
import socket
import sys
import threading
import time
import urllib.parse

import grpc
import hpack
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from checks import Checks

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
EMPTY_MESSAGE = b"\0\0\0\0\0"
SERVICE = "/shop.Feed/"
# What a client has sent when the refusal arrives: data, and whether that ends the stream.
UPLOADS = {
    "a complete message": (EMPTY_MESSAGE, True),
    "nothing": (b"", False),
    "a part of a message": (b"\0\0\0", False),
    "a whole message of more": (EMPTY_MESSAGE, False),
    "as much as the server permits": (None, False),
}
# The kinds of calls: the names of grpcio's methods, and the method of the service.
KINDS = {
    "unary": ("unary_unary", "Get"),
    "server streaming": ("unary_stream", "Watch"),
    "client streaming": ("stream_unary", "Upload"),
    "bidirectional": ("stream_stream", "Echo"),
}


class Connection:
    """An HTTP/2 connection that shows each frame it receives."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.next_stream, self.frames, self.pings = 1, [], 0
        self.connection_window, self.stream_window, self.windows = 65535, 65535, {}
        self.socket.sendall(PREFACE)
        self.send(SettingsFrame(0))

    def send(self, frame):
        self.socket.sendall(frame.serialize())

    def read(self, length):
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise EOFError("the server has closed the connection")
            data += part
        return data

    def receive(self):
        """Reads a frame. Those of streams are kept, and the others are answered."""
        frame, length = Frame.parse_frame_header(memoryview(self.read(9)))
        frame.parse_body(memoryview(self.read(length)))
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.stream_window = frame.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, self.stream_window)
            self.decoder.max_allowed_table_size = 4096
            self.send(SettingsFrame(0, flags=["ACK"]))
        elif isinstance(frame, PingFrame) and "ACK" in frame.flags:
            self.pings += 1
        elif isinstance(frame, PingFrame):
            self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
        elif isinstance(frame, WindowUpdateFrame):
            if frame.stream_id:
                self.windows[frame.stream_id] = self.windows.get(frame.stream_id, 0) + frame.window_increment
            else:
                self.connection_window += frame.window_increment
        elif isinstance(frame, GoAwayFrame):
            raise EOFError(f"GOAWAY with {frame.error_code}")
        elif isinstance(frame, HeadersFrame):
            self.frames.append((frame.stream_id, frame, self.decoder.decode(frame.data)))
        elif frame.stream_id:
            self.frames.append((frame.stream_id, frame, None))
        return frame

    def synchronize(self):
        """Waits until everything has arrived that the server has sent so far."""
        expected = self.pings + 1
        self.send(PingFrame(0, b"12345678"))
        while self.pings < expected:
            self.receive()

    def open(self, method, authorization, query=""):
        """Begins a call and returns the number of its stream."""
        stream, self.next_stream = self.next_stream, self.next_stream + 2
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"{SERVICE}{method}{query}"),
            (":authority", "service.example"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *(("authorization", value) for value in authorization),
        ]
        self.send(HeadersFrame(stream, self.encoder.encode(fields), flags=["END_HEADERS"]))
        return stream

    def upload(self, stream, data, ends):
        """Sends data, or as much as the windows permit if it is `None`."""
        if data is None:
            self.synchronize()
            while (left := min(self.connection_window, self.stream_window + self.windows.get(stream, 0), 1 << 20)) > 0:
                part = b"\0" * min(left, 16384)
                self.connection_window -= len(part)
                self.windows[stream] = self.windows.get(stream, 0) - len(part)
                self.send(DataFrame(stream, part))
                if any(of == stream for of, _, _ in self.frames):
                    break
            return
        if data or ends:
            self.connection_window -= len(data)
            self.send(DataFrame(stream, data, flags=["END_STREAM"] if ends else []))

    def frames_of(self, stream):
        return [(frame, fields) for of, frame, fields in self.frames if of == stream]

    def response(self, stream):
        """Waits for the end of the response and returns all frames of the stream."""
        while not any("END_STREAM" in frame.flags or isinstance(frame, RstStreamFrame) for frame, _ in self.frames_of(stream)):
            self.receive()
        # What the server sends after that.
        self.synchronize()
        return self.frames_of(stream)

    def close(self):
        self.socket.close()


def shown(frames):
    return [(type(frame).__name__, sorted(frame.flags), fields) for frame, fields in frames]


def fields_of_refusal(call):
    fields = {":status": "200", "content-type": "application/grpc", "cache-control": "no-store", "grpc-status": str(call["status"])}
    if call["message"] is not None:
        fields["grpc-message"] = call["message"]
    return fields


def check_trailers_only(checks, name, frames, fields):
    """Checks that the response is one HEADERS frame with exactly these fields, which ends the stream. RST_STREAM with NO_ERROR may
    follow, because the request may not have arrived in full (RFC 9113, section 8.1)."""
    (head, found), *rest = frames or [(None, None)]
    is_whole = isinstance(head, HeadersFrame) and {"END_STREAM", "END_HEADERS"} <= set(head.flags)
    without_date = sorted((key, value) for key, value in found or [] if key != "date")
    resets = [frame.error_code if isinstance(frame, RstStreamFrame) else None for frame, _ in rest]
    checks.that(name, is_whole and without_date == sorted(fields.items()) and resets in ([], [0]), (shown(frames), fields))


def check_frames(checks, call):
    name = f"frames: {call['name']}"
    connection = Connection(call["port"])
    for upload, (data, ends) in UPLOADS.items():
        stream = connection.open("Upload", call["authorization"], call["query"])
        connection.upload(stream, data, ends)
        check_trailers_only(checks, f"{name}, {upload}", connection.response(stream), fields_of_refusal(call))
        if not ends:
            # The client may go on after the refusal, or reset the stream.
            connection.send(DataFrame(stream, b"\0\0", flags=["END_STREAM"]))
            connection.connection_window -= 2
            connection.synchronize()
    check_next(checks, f"{name}: the next call on the connection", connection, call)
    connection.close()


def check_next(checks, name, connection, call):
    """Makes a call that is admitted, if there is one."""
    authorization = [f"Bearer {call['valid']}"] if call["valid"] else call["authorization"]
    stream = connection.open("Get", authorization, "" if call["valid"] else call["query"])
    connection.upload(stream, EMPTY_MESSAGE, True)
    frames = connection.response(stream)
    if not call["valid"]:
        return check_trailers_only(checks, name, frames, fields_of_refusal(call))
    data = b"".join(frame.data for frame, _ in frames if isinstance(frame, DataFrame))
    status = dict(frames[-1][1] or []).get("grpc-status")
    checks.check(name, (EMPTY_MESSAGE, "0"), (data, status))


def check_many(checks, call):
    """Refused uploads give their share of the connection's window back."""
    connection = Connection(call["port"])
    for _ in range(60):
        stream = connection.open("Upload", call["authorization"], call["query"])
        connection.upload(stream, b"\0" * 16000, False)
        connection.response(stream)
        connection.send(RstStreamFrame(stream, 8))
    connection.synchronize()
    checks.that("frames: the window of the connection after 60 refused uploads", connection.connection_window >= 65535,
                connection.connection_window)
    check_next(checks, "frames: the next call after 60 refused uploads", connection, call)
    connection.close()


def messages(count, block=None):
    for _ in range(count):
        yield b""
    if block:
        block.wait(20)


def start(channel, kind, metadata, requests):
    method, path = KINDS[kind]
    call = getattr(channel, method)(f"{SERVICE}{path}", None, None)
    argument = requests if method.startswith("stream") else b""
    options = {"metadata": metadata, "timeout": 30}
    if method.endswith("unary"):
        return call.future(argument, **options)
    return call(argument, **options)


def outcome(call, kind):
    """Waits for the end of a call and returns its code and message, and how many messages were received."""
    received = 0
    try:
        if KINDS[kind][0].endswith("unary"):
            call.result()
            received = 1
        else:
            for _ in call:
                received += 1
    except grpc.RpcError:
        pass
    return call.code().name, call.details(), received


def check_grpcio(checks, call):
    codes = {7: "PERMISSION_DENIED", 14: "UNAVAILABLE", 16: "UNAUTHENTICATED"}
    message = urllib.parse.unquote(call["message"] or "")
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{call['port']}", options=options) as channel:
        metadata = [("authorization", value) for value in call["authorization"]]
        # grpcio sends a path as it is, so the query is a part of the method's name.
        for kind in KINDS:
            if call["query"]:
                continue
            for blocked in (False, True):
                block = threading.Event()
                made = start(channel, kind, metadata, messages(3, block if blocked else None))
                found = outcome(made, kind)
                block.set()
                name = f"grpcio: {call['name']}, {kind}{', unfinished' if blocked else ''}"
                metadata_of_refusal = dict(made.trailing_metadata() or []).get("cache-control")
                expected = (codes[call["status"]], message, 0), "no-store"
                checks.check(name, expected, (found, metadata_of_refusal))
        if call["valid"]:
            valid = [("authorization", f"Bearer {call['valid']}")]
            for kind in ("unary", "client streaming", "bidirectional"):
                found = outcome(start(channel, kind, valid, messages(3)), kind)
                expected = 3 if kind == "bidirectional" else 1
                checks.check(f"grpcio: {kind} with a valid token after {call['name']}", ("OK", "", expected), found)


def check_streams(checks, streams):
    """Streams end with their token, in trailers."""
    # The first one that does not end while the calls begin.
    token = next(token for expires_at, token in streams["tokens"] if expires_at >= time.time() + 3)
    metadata = [("authorization", f"Bearer {token}")]
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{streams['port']}", options=options) as channel:
        block = threading.Event()
        calls = {kind: start(channel, kind, metadata, messages(1, block)) for kind in KINDS if kind != "unary"}
        connection = Connection(streams["port"])
        watched = connection.open("Watch", [f"Bearer {token}"])
        connection.upload(watched, EMPTY_MESSAGE, True)
        uploaded = connection.open("Upload", [f"Bearer {token}"])
        connection.upload(uploaded, EMPTY_MESSAGE, False)
        began = time.monotonic()
        received = {"server streaming": 1, "client streaming": 0, "bidirectional": 1}
        for kind, call in calls.items():
            code, details, count = outcome(call, kind)
            checks.check(f"grpcio: a {kind} call ends with its token", ("UNAUTHENTICATED", received[kind]), (code, count))
            checks.that(f"grpcio: a {kind} call ends with its token: the message",
                        re.fullmatch("the (request|response) body was ended because the token has expired", details), details)
        block.set()
        ends = {watched: ["HeadersFrame", "DataFrame", "HeadersFrame"], uploaded: ["HeadersFrame"]}
        for stream, expected in ends.items():
            frames = connection.response(stream)
            name = f"frames: stream {'of messages' if stream == watched else 'that is read'} ends with its token"
            without_reset = [frame for frame in frames if not isinstance(frame[0], RstStreamFrame)]
            checks.check(f"{name}: frames", expected, [type(frame).__name__ for frame, _ in without_reset])
            last, fields = without_reset[-1]
            checks.that(f"{name}: the last one ends it", "END_STREAM" in last.flags, shown(frames))
            checks.check(f"{name}: grpc-status", "16", dict(fields).get("grpc-status"))
            resets = [frame.error_code for frame, _ in frames if isinstance(frame, RstStreamFrame)]
            checks.that(f"{name}: no error", resets in ([], [0]), resets)
        # The token has expired, so a new call on the connection is refused.
        stream = connection.open("Get", [f"Bearer {token}"])
        connection.upload(stream, EMPTY_MESSAGE, True)
        fields = fields_of_refusal({"status": 16, "message": "the token has expired"})
        check_trailers_only(checks, "frames: a call after the token has expired", connection.response(stream), fields)
        checks.that("frames: streams do not end early", time.monotonic() - began < 20)
        connection.close()


def main():
    checks = Checks(os.environ.get("FOREIGN_CHECKS", "").split())
    given = json.load(sys.stdin)
    ends = threading.Thread(target=checks.run, args=("streams", check_streams, given["streams"]))
    ends.start()
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for call in given["calls"]:
            threads.submit(checks.run, f"frames: {call['name']}", check_frames, call)
            threads.submit(checks.run, f"grpcio: {call['name']}", check_grpcio, call)
    checks.run("frames", check_many, given["calls"][0])
    ends.join()
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
