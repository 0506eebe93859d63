# Sends malformed OSPF, LDP or BFD from a neighbour's own address: badcore.py PROTOCOL LOCAL PEER ROUTER_ID PEER_LOOPBACK
# Every packet is wrong in a way that must be discarded; none of them is a well-formed reason to end anything.
import random, socket, struct, sys

protocol, local, peer, router_id, loopback = sys.argv[1:]
random.seed(7)
noise = lambda n: bytes(random.randrange(256) for _ in range(n))
address = socket.inet_aton
sent = 0


def internet_sum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ospf(kind, body, version=2, length=None, area="0.0.0.0", rid=router_id, wrong_sum=False, auth=0):
    length = 24 + len(body) if length is None else length
    head = struct.pack("!BBH4s4sHH", version, kind, length, address(rid), address(area), 0, auth)
    check = internet_sum(head + body) ^ (0x5555 if wrong_sum else 0)
    return head[:12] + struct.pack("!HH", check, auth) + b"\0" * 8 + body


def fletcher(lsa):
    # RFC 2328 §12.1.7, RFC 1008: over all but the age.
    data = bytearray(lsa[2:])
    data[14:16] = b"\0\0"
    c0 = c1 = 0
    for byte in data:
        c0 = (c0 + byte) % 255
        c1 = (c1 + c0) % 255
    x = ((len(data) - 15) * c0 - c1) % 255
    x = x or 255
    y = 510 - c0 - x
    y = y - 255 if y > 255 else y
    return lsa[:16] + bytes([x, y]) + lsa[18:]


def lsa(kind, body, length=None, good=True):
    length = 20 + len(body) if length is None else length
    head = struct.pack("!HBB4s4sIHH", 1, 2, kind, address("10.66.0.1"), address("10.66.0.1"), 0x80000001, 0, length)
    return fletcher(head + body) if good else head + body


def ospf_packets():
    hello = address("255.255.255.252") + struct.pack("!HBBI4s4s", 1, 2, 1, 4, b"\0" * 4, b"\0" * 4)
    update = lambda *lsas: struct.pack("!I", len(lsas)) + b"".join(lsas)
    yield b""
    yield noise(10)
    yield ospf(1, hello, version=3)
    yield ospf(1, hello, length=2000)
    yield ospf(1, hello, length=12)
    yield ospf(1, hello, wrong_sum=True)
    yield ospf(9, hello)
    yield ospf(0, hello)
    yield ospf(1, hello[:6])
    yield ospf(1, hello, area="0.0.0.66")
    yield ospf(1, hello, auth=1)
    yield ospf(1, hello, auth=7)
    yield ospf(1, hello + b"\1")
    yield ospf(2, b"\x06\x40")
    yield ospf(2, b"\x06\x40\x02\x07" + b"\0\0\0\1" + noise(11))
    yield ospf(3, noise(7))
    yield ospf(4, struct.pack("!I", 1000))
    yield ospf(4, b"\0\0")
    yield ospf(4, update(lsa(1, b"", length=4)))
    yield ospf(4, update(lsa(1, noise(8), length=65535)))
    yield ospf(4, update(lsa(1, noise(8), good=False)))
    yield ospf(4, update(lsa(77, noise(8))))
    yield ospf(4, update(lsa(1, struct.pack("!HH", 0, 500) + noise(12))))
    yield ospf(4, update(lsa(2, b"\xff")))
    yield ospf(4, update(lsa(5, noise(3))))
    yield ospf(5, noise(19))
    for n in range(50):
        yield ospf(1 + n % 5, noise(n), wrong_sum=True)
        yield noise(20 + n * 3)


def tlv(kind, body, length=None):
    return struct.pack("!HH", kind, len(body) if length is None else length) + body


def pdu(body, version=1, length=None, lsr=router_id, space=0):
    return struct.pack("!HH4sH", version, 6 + len(body) if length is None else length, address(lsr), space) + body


def message(kind, body, length=None):
    return struct.pack("!HHI", kind, 4 + len(body) if length is None else length, 66) + body


def ldp_packets():
    good = tlv(0x0400, struct.pack("!HH", 5, 0)) + tlv(0x0401, address(router_id))
    yield b""
    yield noise(5)
    yield pdu(message(0x0100, good), version=2)
    yield pdu(message(0x0100, good), length=4000)
    yield pdu(message(0x0100, good), length=3)
    yield pdu(message(0x0100, good), space=7)
    yield pdu(message(0x0100, good, length=2000))
    yield pdu(message(0x0100, good, length=1))
    yield pdu(message(0x0100, b""))
    yield pdu(message(0x0100, tlv(0x0400, b"\0")))
    yield pdu(message(0x0100, tlv(0x0400, struct.pack("!HH", 5, 0), length=900)))
    yield pdu(message(0x0100, good + tlv(0x0401, b"\1\2\3")))
    yield pdu(message(0x0100, good + tlv(0x0066, noise(9))))
    yield pdu(message(0x0400, tlv(0x0100, b"\2\0\1\x20") + tlv(0x0200, struct.pack("!I", 17))))
    yield pdu(message(0x0100, good), lsr="0.0.0.0")
    yield pdu(message(0x0100, good), lsr=loopback)
    for n in range(50):
        yield pdu(noise(n))
        yield noise(n)


def ldp_streams():
    yield noise(300)
    yield pdu(message(0x0200, b""))
    yield pdu(message(0x0200, tlv(0x0500, b"\0\1")))
    yield pdu(message(0x0200, b""), length=65535)
    yield pdu(message(0x0400, tlv(0x0100, b"\2\0\1\x20")))
    yield pdu(message(0x0201, b"")) * 20


def bfd_packets():
    def packet(first=0x20, second=0xC0, multiplier=5, length=24, mine=66, yours=0, rest=b""):
        return struct.pack("!BBBBIIIII", first, second, multiplier, length, mine, yours, 100000, 100000, 0) + rest

    yield b""
    yield noise(23)
    yield packet(first=0x00)
    yield packet(first=0x40)
    yield packet(multiplier=0)
    yield packet(length=25)
    yield packet(length=23)
    yield packet(length=255)
    yield packet(mine=0)
    yield packet(yours=0x66666666)
    yield packet(yours=0)  # Up, of a session that nobody has
    yield packet(second=0xC1, yours=0x66666666)  # multipoint
    yield packet(second=0xC4, length=26, yours=0x66666666, rest=b"\1\2")  # authentication
    for n in range(50):
        yield b"\x66" + noise(n)


if protocol == "ospf":
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, 89)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address(local))
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    for data in ospf_packets():
        for to in ("224.0.0.5", peer):
            out.sendto(data, (to, 0))
            sent += 1
elif protocol == "ldp":
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, address(local))
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    out.bind((local, 0))
    for data in ldp_packets():
        out.sendto(data, ("224.0.0.2", 646))
        sent += 1
    for data in ldp_streams():
        try:
            with socket.socket() as stream:
                stream.settimeout(2)
                stream.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
                stream.bind((router_id, 0))
                stream.connect((loopback, 646))
                stream.sendall(data)
                sent += 1
                # To its end, or until it is clear that there is none.
                while stream.recv(4096):
                    pass
        except OSError:
            pass
elif protocol == "bfd":
    for ttl in (255, 1):
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        out.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        out.bind((local, 0))
        for data in bfd_packets():
            out.sendto(data, (peer, 3784))
            sent += 1
print(sent)
