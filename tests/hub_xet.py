"""The test Hub's Xet storage: what hf_xet 1.8 asks of a CAS server for up- and downloads, https://huggingface.co/docs/xet.

Spoken: token refresh, xorb upload, shard upload (v1), reconstruction (v1, v2), fetching. Not spoken, and 404, which hf_xet takes:
upload grants, the streaming shard upload (v2), global deduplication. Xorb and chunk hashes are believed; SHA-256 is checked.
"""

import re
import struct
import time

from hub_api import API, Answer, check_gate, repo_of, route
from hub_repos import HubRefusal
from hub_transfer import ranged

ENTRY = 48  # bytes of every record of a shard
WITH_VERIFICATION, WITH_SHA256 = 1 << 31, 1 << 30
CAS = "/_cas"


class Xet:
    """Xorbs, and files as ranges of their chunks."""

    def __init__(self, hub, offered: bool):
        self.hub, self.offered = hub, offered
        self.tokens: dict[str, str] = {}  # CAS token → "read" or "write"
        self.xorbs: dict[str, bytes] = {}
        self.files: dict[str, list[tuple]] = {}  # Xet hash → its terms: (xorb, first chunk, end chunk, bytes)
        self.hashes: dict[str, str] = {}  # SHA-256 → Xet hash

    def hash_of(self, sha256):
        return self.hashes.get(sha256)

    def register(self, shard: bytes):
        """Takes in the files of a shard; refuses 400 unless each can be rebuilt and has the SHA-256 that it says."""
        for xet_hash, terms, sha256 in files_of_shard(shard):
            if missing := [xorb for xorb, *_ in terms if xorb not in self.xorbs]:
                raise HubRefusal(400, f"shard refers to xorbs that were not uploaded: {missing}")
            content = b"".join(b"".join(map(unpacked, chunks_of(self.xorbs[xorb])[first:end])) for xorb, first, end, _ in terms)
            if self.hub.blobs.put(content) != sha256:
                raise HubRefusal(400, f"file {xet_hash} does not have the SHA-256 {sha256}")
            self.files[xet_hash], self.hashes[sha256] = terms, xet_hash


def hash_text(raw: bytes) -> str:
    """Each eight bytes are one little-endian number."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def files_of_shard(shard):
    """[(Xet hash, terms, SHA-256)] of the file section."""
    place, files = ENTRY, []
    while shard[place:place + 32] != b"\xff" * 32:
        flags, count = struct.unpack_from("<II", shard, place + 32)
        xet_hash, terms = hash_text(shard[place:place + 32]), []
        for start in range(place + ENTRY, place + ENTRY * (count + 1), ENTRY):
            _, size, first, end = struct.unpack_from("<4I", shard, start + 32)
            terms.append((hash_text(shard[start:start + 32]), first, end, size))
        place += ENTRY * (1 + count + (count if flags & WITH_VERIFICATION else 0))
        if not flags & WITH_SHA256:
            raise HubRefusal(400, f"file {xet_hash} comes without its SHA-256")
        files.append((xet_hash, terms, hash_text(shard[place:place + 32])))
        place += ENTRY
    return files


def chunks_of(xorb):
    """[(xorb, start, end, scheme, unpacked size)] of its chunks, start being that of the header. A footer does not begin with 0."""
    place, chunks = 0, []
    while place + 8 <= len(xorb) and xorb[place] == 0:
        packed, size = (int.from_bytes(xorb[at:at + 3], "little") for at in (place + 1, place + 5))
        chunks.append((xorb, place, place + 8 + packed, xorb[place + 4], size))
        place += 8 + packed
    return chunks


def unpacked(chunk):
    xorb, start, end, scheme, size = chunk
    data = xorb[start + 8:end]
    if scheme:
        data = lz4_frame(data)
    if scheme == 2:  # first all first bytes of four, then all second ones, ...
        grouped, data, place = data, bytearray(size), 0
        for nth in range(4):
            length = (size - nth + 3) // 4
            data[nth::4] = grouped[place:place + length]
            place += length
    return bytes(data)


def lz4_frame(data):
    """https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md, checksums unread."""
    flags = data[4]
    place, out = 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0), bytearray()
    while size := int.from_bytes(data[place:place + 4], "little"):
        length = size & 0x7FFFFFFF
        block = data[place + 4:place + 4 + length]
        if size >> 31:
            out += block
        else:
            lz4_block(block, out)
        place += 4 + length + (4 if flags & 16 else 0)
    return out


def lz4_block(block, out):
    place = 0
    while place < len(block):
        token = block[place]
        length, place = _length(block, place + 1, token >> 4)
        out += block[place:place + length]
        place += length
        if place >= len(block):
            return
        distance = int.from_bytes(block[place:place + 2], "little")
        length, place = _length(block, place + 2, token & 15)
        length += 4
        start = len(out) - distance
        piece = bytes(out[start:start + length])
        out += (piece * (length // len(piece) + 1))[:length]


def _length(block, place, length):
    if length == 15:
        while block[place] == 255:
            length, place = length + 255, place + 1
        length, place = length + block[place], place + 1
    return length, place


# --- endpoints ------------------------------------------------------------------------------------------------------

@route("GET", API + "/xet-(read|write)-token/(.+)")
def xet_token(call, plural, repo_id, scope, revision):
    repo = repo_of(call, plural, repo_id, "repo.write" if scope == "write" else "repo.content.read")
    check_gate(call, repo)
    if not call.hub.xet.offered:
        raise HubRefusal(404, "Xet storage is not enabled")
    token, until = f"xet-{scope}-{len(call.hub.xet.tokens)}", int(time.time()) + 3600
    call.hub.xet.tokens[token] = scope
    cas = call.hub.endpoint + CAS
    headers = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(until)}
    return Answer.json({"casUrl": cas, "accessToken": token, "exp": until}, headers=headers)


def check_scope(call, scope):
    held = call.hub.xet.tokens.get(call.headers.get("authorization", "").removeprefix("Bearer "))
    if held is None:
        raise HubRefusal(401, "Unauthorized")
    if scope == "write" and held != "write":
        raise HubRefusal(403, "Forbidden")


@route("POST", CAS + r"/v1/xorbs/default/([0-9a-f]{64})")
def upload_xorb(call, xorb):
    check_scope(call, "write")
    was_there = xorb in call.hub.xet.xorbs
    call.hub.xet.xorbs[xorb] = call.body
    return Answer.json({"was_inserted": not was_there})


@route("POST", CAS + "/v1/shards")
def upload_shard(call):
    check_scope(call, "write")
    call.hub.xet.register(call.body)
    return Answer.json({"result": 1})


@route("GET", CAS + r"/(v1|v2)/reconstructions/([0-9a-f]{64})")
def reconstruction(call, version, xet_hash):
    """The terms that hold the bytes asked for, whole terms, and where to fetch each."""
    check_scope(call, "read")
    if xet_hash not in call.hub.xet.files:
        raise HubRefusal(404, "Not found")
    terms = call.hub.xet.files[xet_hash]
    total = sum(size for *_, size in terms)
    wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", call.headers.get("range", ""))
    first, last = (int(wanted[1]), int(wanted[2])) if wanted else (0, total - 1)
    if total and first >= total:
        raise HubRefusal(416, "Range Not Satisfiable")
    kept, skipped, place = [], 0, 0
    for term in terms:
        if place + term[3] <= first:
            skipped += term[3]
        elif place <= last:
            kept.append(term)
        place += term[3]
    told = {"offset_into_first_range": first - skipped,
            "terms": [{"hash": xorb, "unpacked_length": size, "range": {"start": begin, "end": end}} for xorb, begin, end, size in kept]}
    return Answer.json({**told, **(_fetch_v1 if version == "v1" else _fetch_v2)(call.hub, kept)})


def _ranges(hub, terms):
    """(xorb, chunks, bytes, address) of each range to fetch; hf_xet panics where two ranges of a xorb overlap."""
    merged = []
    for xorb, begin, end in sorted({term[:3] for term in terms}):
        if merged and merged[-1][0] == xorb and begin <= merged[-1][2]:
            merged[-1][2] = max(end, merged[-1][2])
        else:
            merged.append([xorb, begin, end])
    for xorb, begin, end in merged:
        chunks = chunks_of(hub.xet.xorbs[xorb])[begin:end]
        yield xorb, {"start": begin, "end": end}, {"start": chunks[0][1], "end": chunks[-1][2] - 1}, f"{hub.storage}/_xorb/{xorb}"


def _fetch_v1(hub, terms):
    info = {}
    for xorb, chunks, places, url in _ranges(hub, terms):
        info.setdefault(xorb, []).append({"range": chunks, "url": url, "url_range": places})
    return {"fetch_info": info}


def _fetch_v2(hub, terms):
    info = {}
    for xorb, chunks, places, url in _ranges(hub, terms):
        info.setdefault(xorb, []).append({"url": url, "ranges": [{"chunks": chunks, "bytes": places}]})
    return {"xorbs": info}


@route("GET", r"/_xorb/([0-9a-f]{64})")
def fetch_xorb(call, xorb):
    return ranged(call, call.hub.xet.xorbs[xorb], {})
