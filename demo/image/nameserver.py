#!/usr/bin/env python3
"""A nameserver that knows one name (RFC 1035): `nameserver.py ADDRESS NAME ANSWER`."""

import socket
import struct
import sys


def question(packet):
    """The labels of the question, its type, and where it ends."""
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode())
        at += 1 + packet[at]
    return ".".join(labels).lower(), struct.unpack("!H", packet[at + 1 : at + 3])[0], at + 5


def answer(packet, name, address):
    asked, kind, end = question(packet)
    is_known, is_address = asked == name, kind == 1
    flags = 0x8580 if is_known else 0x8583
    header = packet[:2] + struct.pack("!HHHHH", flags, 1, int(is_known and is_address), 0, 0)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton(address)
    return header + packet[12:end] + (record if is_known and is_address else b"")


def main():
    at, name, address = sys.argv[1:]
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((at, 53))
    while True:
        packet, peer = server.recvfrom(512)
        server.sendto(answer(packet, name, address), peer)


if __name__ == "__main__":
    main()
