#!/usr/bin/env python3
"""C-STORE ingest: ours, dcmtk's storescp and Orthanc, against the raw ceiling of the same run.

200 slices of 512 x 512 (105 MB) over one association. Two senders: `fast`, which has everything encoded beforehand and
costs next to nothing (for Oarlock also over eight associations at a time), and dcmtk's storescu as shipped. The ceiling is
the same bytes over one raw TCP connection, one file per slice, written and synced before one byte of answer goes back:
nothing that is durable can be faster.

    cargo build --release
    tests/bench/ingest.py target/release/oarlock [--runs 5]

Needs Python 3.9, and dcmtk and Orthanc for their columns (skipped, visibly, where missing). Prints medians and ranges.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import tempfile
import time
from pathlib import Path

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
SLICES, SIDE = 200, 512
ASSOCIATIONS = 8


def element(group, number, vr, value):
    if isinstance(value, str):
        value = value.encode() + (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    if vr == "OW":
        return struct.pack("<HH2sHI", group, number, vr.encode(), 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr.encode(), len(value)) + value


def slices(root):
    """(SOP Instance UID, data set) of each slice; the pixels are noise, so no disk can cheat by compressing."""
    noise = random.Random(1)
    for k in range(SLICES):
        uid = f"{root}.{k + 1}"
        yield uid, b"".join([
            element(8, 0x16, "UI", CT), element(8, 0x18, "UI", uid), element(8, 0x60, "CS", "CT"),
            element(0x10, 0x10, "PN", "BENCH^INGEST"), element(0x10, 0x20, "LO", "BENCH"),
            element(0x20, 0x0D, "UI", root + ".900"), element(0x20, 0x0E, "UI", root + ".901"),
            element(0x20, 0x13, "IS", str(k + 1)), element(0x20, 0x32, "DS", f"-250\\-250\\{2.5 * k}"),
            element(0x20, 0x37, "DS", "1\\0\\0\\0\\1\\0"), element(0x28, 2, "US", struct.pack("<H", 1)),
            element(0x28, 4, "CS", "MONOCHROME2"), element(0x28, 0x10, "US", struct.pack("<H", SIDE)),
            element(0x28, 0x11, "US", struct.pack("<H", SIDE)), element(0x28, 0x30, "DS", "0.9765625\\0.9765625"),
            element(0x28, 0x100, "US", struct.pack("<H", 16)), element(0x28, 0x101, "US", struct.pack("<H", 16)),
            element(0x28, 0x102, "US", struct.pack("<H", 15)), element(0x28, 0x103, "US", struct.pack("<H", 0)),
            element(0x7FE0, 0x10, "OW", noise.randbytes(SIDE * SIDE * 2))])


def file_of(uid, data_set):
    meta = element(2, 2, "UI", CT) + element(2, 3, "UI", uid) + element(2, 0x10, "UI", EXPLICIT) + element(2, 0x12, "UI", "1.2.3")
    return bytes(128) + b"DICM" + element(2, 0, "UL", struct.pack("<I", len(meta))) + meta + data_set


def item(kind, body):
    return struct.pack(">BBH", kind, 0, len(body)) + body


def associate_rq():
    context = item(0x20, b"\1\0\0\0" + item(0x30, CT.encode()) + item(0x40, EXPLICIT.encode()))
    user = item(0x50, item(0x51, struct.pack(">I", 131072)) + item(0x52, b"1.2.3"))
    body = struct.pack(">HH16s16s32x", 1, 0, b"ANY-SCP".ljust(16), b"BENCH".ljust(16))
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
    return struct.pack(">BBI", 1, 0, len(body)) + body


def command(uid, number):
    def implicit(element_number, value):
        return struct.pack("<HHI", 0, element_number, len(value)) + value
    def ui(text):
        return text.encode() + b"\0" * (len(text) % 2)
    body = implicit(2, ui(CT)) + implicit(0x100, struct.pack("<H", 1)) + implicit(0x110, struct.pack("<H", number))
    body += implicit(0x700, bytes(2)) + implicit(0x800, bytes(2)) + implicit(0x1000, ui(uid))
    return implicit(0, struct.pack("<I", len(body))) + body


def p_data(control, fragment):
    return struct.pack(">BBIIBB", 4, 0, len(fragment) + 6, len(fragment) + 2, 1, control) + fragment


def exactly(sock, n):
    got = b""
    while len(got) < n:
        part = sock.recv(n - len(got))
        if not part:
            raise SystemExit("the receiver closed the connection")
        got += part
    return got


def pdu(sock):
    kind, _, length = struct.unpack(">BBI", exactly(sock, 6))
    return kind, exactly(sock, length)


def max_length(answer):
    at = answer.index(b"\x51\0\0\4")
    return struct.unpack(">I", answer[at + 4:at + 8])[0] or 131072


def fast_sender(port, messages, ready=None):
    """Seconds for all slices over one association; messages are encoded for the receiver's PDU length before. It begins
    when all are `ready`."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(associate_rq())
    kind, answer = pdu(sock)
    if kind != 2:
        raise SystemExit(f"no association: PDU {kind}")
    fragment = (min(max_length(answer), 131072) - 6) & ~1
    encoded = []
    for number, (uid, data_set) in enumerate(messages, 1):
        parts = [p_data(3, command(uid, number))]
        for at in range(0, len(data_set), fragment):
            parts.append(p_data(2 if at + fragment >= len(data_set) else 0, data_set[at:at + fragment]))
        encoded.append(b"".join(parts))
    if ready:
        ready.wait(60)
    started = time.perf_counter()
    for message in encoded:
        sock.sendall(message)
        kind, answer = pdu(sock)
        at = answer.index(b"\0\0\0\x09\2\0\0\0")
        status = struct.unpack("<H", answer[at + 8:at + 10])[0]
        if kind != 4 or status != 0:
            raise SystemExit(f"PDU {kind}, status {status:04X}H")
    seconds = time.perf_counter() - started
    sock.sendall(b"\5\0\0\0\0\4\0\0\0\0")
    pdu(sock)
    sock.close()
    return seconds


def several_senders(port, messages):
    """Seconds until the last of eight associations has sent its share, each in a process of its own."""
    fork = multiprocessing.get_context("fork")
    ready, ended = fork.Barrier(ASSOCIATIONS), fork.Queue()

    def send(share):
        ended.put(fast_sender(port, share, ready))

    senders = [fork.Process(target=send, args=(messages[k::ASSOCIATIONS],)) for k in range(ASSOCIATIONS)]
    for sender in senders:
        sender.start()
    seconds = max(ended.get(timeout=120) for _ in senders)
    for sender in senders:
        sender.join(10)
    return seconds


def ceiling(messages, folder):
    """The raw server runs in a process of its own, as the receivers do."""
    server = socket.create_server(("127.0.0.1", 0))
    child = os.fork()
    if child == 0:
        conn, _ = server.accept()
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(1 << 20)
        for k in range(len(messages)):
            (length,) = struct.unpack(">I", exactly(conn, 4))
            view, got = memoryview(buffer)[:length], 0
            while got < length:
                got += conn.recv_into(view[got:], length - got)
            out = os.open(f"{folder}/{k}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(out, view)
            os.fsync(out)
            os.close(out)
            conn.sendall(b"k")
        os._exit(0)
    sock = socket.create_connection(server.getsockname(), timeout=60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    encoded = [struct.pack(">I", len(d)) + d for _, d in messages]
    started = time.perf_counter()
    for message in encoded:
        sock.sendall(message)
        exactly(sock, 1)
    seconds = time.perf_counter() - started
    os.waitpid(child, 0)
    return seconds


def storescu(port, folder):
    started = time.perf_counter()
    subprocess.run(["storescu", "+sd", "127.0.0.1", str(port), str(folder)], check=True, timeout=120,
                   env={**os.environ, "DCMDICTPATH": os.environ.get("DCMDICTPATH", "/usr/share/libdcmtk17/dicom.dic")})
    return time.perf_counter() - started


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on {port}")


class Receiver:
    def __init__(self, arguments, port, env=None):
        self.port = port
        self.process = subprocess.Popen(arguments, env={**os.environ, **(env or {})}, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if port is None:
            self.port = int(re.search(r":(\d+)$", self.process.stdout.readline().strip()).group(1))
        wait_for(self.port)

    def stop(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            peak = int(re.search(r"VmHWM:\s+(\d+)", status.read()).group(1)) / 1000
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        return peak


def ours(binary):
    return lambda folder: Receiver([binary, "serve", "--data-dir", folder, "--port", "0"], None)


def dcmtk(folder):
    port = free_port()
    arguments = ["storescp", "-pdu", "131072", "+xa", "-od", folder, str(port)]
    return Receiver(arguments, port, {"TCP_NODELAY": "1"})


def orthanc(folder, environment=None):
    port = free_port()
    settings = {"DicomPort": port, "HttpServerEnabled": False, "StorageDirectory": folder, "IndexDirectory": folder,
                "DicomAlwaysAllowStore": True, "Plugins": []}
    Path(folder, "orthanc.json").write_text(json.dumps(settings))
    return Receiver([shutil.which("Orthanc") or "/usr/sbin/Orthanc", f"{folder}/orthanc.json"], port, environment or {})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    receivers = {"oarlock": ours(args.binary)}
    if shutil.which("storescp"):
        receivers["dcmtk storescp, nodelay, PDU 131072"] = dcmtk
    else:
        print("SKIPPED: dcmtk is not installed")
    if shutil.which("Orthanc") or Path("/usr/sbin/Orthanc").exists():
        receivers["Orthanc as it ships"] = orthanc
        receivers["Orthanc, nodelay"] = lambda folder: orthanc(folder, {"TCP_NODELAY": "1"})
    else:
        print("SKIPPED: Orthanc is not installed")
    messages = list(slices("2.25.1001"))
    megabytes = sum(len(d) for _, d in messages) / 1e6
    rates = {}
    with tempfile.TemporaryDirectory(dir=".") as work:
        source = Path(work, "source")
        source.mkdir()
        for uid, data_set in messages:
            (source / f"{uid}.dcm").write_bytes(file_of(uid, data_set))
        for run in range(args.runs):
            folder = tempfile.mkdtemp(dir=work)
            rates.setdefault(("ceiling", "raw"), []).append(megabytes / ceiling(messages, folder))
            shutil.rmtree(folder)
            for name, start in receivers.items():
                several = [f"fast x {ASSOCIATIONS}"] if name == "oarlock" else []
                for sender in ["fast"] + several + (["storescu"] if shutil.which("storescu") else []):
                    folder = tempfile.mkdtemp(dir=work)
                    receiver = start(folder)
                    try:
                        if sender == "storescu":
                            seconds = storescu(receiver.port, source)
                        else:
                            send = fast_sender if sender == "fast" else several_senders
                            seconds = send(receiver.port, messages)
                    finally:
                        peak = receiver.stop()
                    rates.setdefault((name, sender), []).append(megabytes / seconds)
                    rates.setdefault((name, "RSS MB"), []).append(peak)
                    shutil.rmtree(folder)
    print(f"{SLICES} slices, {megabytes:.1f} MB, {args.runs} runs: median [smallest-largest], MB/s")
    for (name, sender), values in rates.items():
        print(f"{name:40} {sender:10} {statistics.median(values):7.0f} [{min(values):.0f}-{max(values):.0f}]")
    share = statistics.median(rates[("oarlock", "fast")]) / statistics.median(rates[("ceiling", "raw")])
    print(f"oarlock reaches {share:.2f} of the raw ceiling")


if __name__ == "__main__":
    main()
