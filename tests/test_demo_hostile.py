"""Hundreds of hostile inputs over HTTP: each gets an answer or one sentence of the app's own; nothing outside its folders is read or written.

The app runs in this process, so Python's audit hook sees every file, program and connection that it opens.
"""

import io
import json
import os
import random
import re
import struct
import sys
import threading
import zipfile
import zlib
from pathlib import Path

import pytest

pytest.importorskip("gradio")

import httpx  # noqa: E402

from hfxfer import demo  # noqa: E402
from hfxfer.demo import words  # noqa: E402

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
SCRIPT = "<script>window.hacked=1</script>"
LABELS = (SCRIPT, "<img src=x onerror=window.hacked=1>", "../../etc/passwd", "{threshold}", "שלום")
SECRET = "the-canary-sings"
HTTP = httpx.Client(timeout=60)
SENTENCES = re.compile("|".join(re.sub(r"\\\{.*?\\\}", r"[\\s\\S]*", re.escape(said)) for said in vars(words).values()
                                if isinstance(said, str) and len(said) > 12))
TRICKS = ("../../secret.png", "..\\..\\secret.png", "/etc/passwd", "/etc/passwd\0.png", "C:\\windows\\win.ini", "con.png", ".png", "..", ".",
          "a/../../../b.png", "%2e%2e%2fsecret.png", "..%c0%af..%c0%afx.png", "x" * 5000 + ".png", f"{SCRIPT}.png", "a\u202egnp.exe", "👩‍👩‍👧‍👦.png",
          "a\nb.png", "a\r\nSet-Cookie: x=1.png", '".png', "'; DROP TABLE x;--.png", "$(touch hacked).png", "`touch hacked`.png", "|touch hacked",
          "file:///etc/passwd", "http://127.0.0.1:9/x.png", "~/.ssh/id_rsa", "\0", " ", "a.png.exe", "metadata.jsonl", "flags.jsonl")


class Watch:
    """What this process opens for writing, starts or connects to while it watches; and whether it opens what nobody may read."""

    def __init__(self):
        self.allowed, self.forbidden, self.seen, self.on = [], [], [], False
        sys.addaudithook(self.look)  # For the life of the process: none can be taken away.

    def look(self, event, given):
        if not self.on:
            return
        if event == "open":
            path, _, flags = given
            if isinstance(path, (str, bytes)):
                path = os.path.realpath(os.fsdecode(path))
                writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                if path in self.forbidden or (writes and not path.startswith(tuple(self.allowed))):
                    self.seen.append((event, path, flags))
        elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.link", "os.symlink"):
            if not os.path.realpath(os.fsdecode(given[0])).startswith(tuple(self.allowed)):
                self.seen.append((event, given))
        elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.fork"):
            self.seen.append((event, given))
        elif event == "socket.connect" and isinstance(given[1], tuple) and given[1][0] not in ("127.0.0.1", "::1"):
            self.seen.append((event, given[1]))


@pytest.fixture(scope="module")
def watch():
    return Watch()


@pytest.fixture(scope="module")
def apps(tmp_path_factory, watch):
    """kind → address of an app, with reports on: pictures, texts, words."""
    import torch
    import transformers
    from tiny_models import bert_checkpoint, timm_checkpoint

    folder = tmp_path_factory.mktemp("hostile")
    (folder / "secret.png").write_text(SECRET, encoding="utf-8")
    os.mkfifo(folder / "endless.png")
    bert_checkpoint(folder / "bert")
    timm_checkpoint(folder / "pictures", classes=len(LABELS))
    config = json.loads((folder / "pictures" / "config.json").read_text())
    config.update(id2label=dict(enumerate(LABELS)), label2id={label: index for index, label in enumerate(LABELS)}, label_names=list(LABELS))
    (folder / "pictures" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for kind, labels in (("SequenceClassification", LABELS), ("TokenClassification", ("O", f"B-{SCRIPT}", "I-../x"))):
        torch.manual_seed(0)
        named = {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}
        getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder / "bert", **named).save_pretrained(folder / kind)
        transformers.AutoTokenizer.from_pretrained(folder / "bert").save_pretrained(folder / kind)
    started, addresses = [], {}
    for name, source in (("pictures", "pictures"), ("texts", "SequenceClassification"), ("words", "TokenClassification")):
        app, addresses[name] = demo.launch([str(folder / source)], wait=False, flag_folder=folder / f"reports-{name}")
        started.append(app)
        watch.allowed.append(str(folder / f"reports-{name}"))
    watch.allowed += [os.path.realpath(os.environ["GRADIO_TEMP_DIR"]), "/dev/null"]
    secrets = (folder / "secret.png", folder / "endless.png", "/etc/passwd", "/proc/self/environ", "/dev/zero")
    watch.forbidden += [os.path.realpath(path) for path in secrets]
    for address in addresses.values():  # Loaded, and every late import done, before it is watched.
        alive(address)
    yield addresses, folder
    for app in started:
        app.close()


@pytest.fixture
def watched(apps, watch, capsys, caplog):
    """(addresses, folder); what was seen to be opened fails the test, and so does a traceback in the log; every app must still answer."""
    watch.seen.clear()
    watch.on = True
    yield apps
    watch.on = False
    for address in apps[0].values():
        alive(address)
    assert watch.seen == []
    assert "Traceback" not in "".join(capsys.readouterr()) and not [record for record in caplog.records if record.exc_info]
    assert not Path("hacked").exists()


def alive(address):
    takes = HTTP.get(f"{address}gradio_api/info").json()["named_endpoints"]["/predict"]["parameters"]
    given = [upload(address, picture("PNG"), "a.png")] if takes[0]["parameter_name"] == "image" else ["a good day", ""][:len(takes)]
    kind, said = asked(address, "predict", given)
    assert kind == "complete", said


def picture(kind, size=(48, 40)):
    from PIL import Image

    made = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(made, kind)
    return made.getvalue()


def upload(address, content, name):
    """What a client sends in place of the file; None where already the upload is turned away."""
    answer = HTTP.post(f"{address}gradio_api/upload", files={"files": (name, content)})
    assert answer.status_code < 500 and "Traceback" not in answer.text, (name[:80], answer.text)
    return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}} if answer.status_code == 200 else None


def asked(address, endpoint, data):
    """("complete", what came back), ("error", its sentence) or ("refused", text of the response)."""
    body = json.dumps({"data": data}) if not isinstance(data, (str, bytes)) else data
    answer = HTTP.post(f"{address}gradio_api/call/{endpoint}", content=body, headers={"content-type": "application/json"})
    if answer.status_code != 200 or "event_id" not in answer.text:
        return "refused", f"{answer.status_code} {answer.text}"
    event, last = "", None
    with HTTP.stream("GET", f"{address}gradio_api/call/{endpoint}/{answer.json()['event_id']}") as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event in ("complete", "error"):
                last = (event, json.loads(line.removeprefix("data: ")))
    return last


def checked(what, found):
    """An answer, or a sentence of the app's own; nothing of the server."""
    kind, said = found
    assert not any(sign in json.dumps(said) for sign in ("Traceback", SECRET, "root:x:0", 'File \\"', "site-packages")), (what, found)
    if kind == "error":
        assert isinstance(said, dict) and isinstance(said.get("error"), str) and SENTENCES.fullmatch(said["error"]), (what, found)
    return kind


# --- pictures -----------------------------------------------------------------------------------------------------------

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *more):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(b"0" * 99)) + chunk(b"IEND", b"")


def bombs():
    yield "wide and high", png(60_000, 60_000)
    yield "wide", png(2**31 - 1, 1)
    yield "no size", png(0, 0)
    yield "a text that unpacks to 50 MB", png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 5 * 10**7)))
    yield "a colour profile that unpacks to 50 MB", png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 5 * 10**7)))
    yield "a thousand texts", png(8, 8, *[chunk(b"tEXt", b"k\0" + b"v" * 5000)] * 1000)
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\0\x02\x02\x4c\x01\0;"
    yield "a giant GIF", b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + b"\0" * 6 + frame
    for name, width, height in (("a giant BMP", 2**30, 2**30), ("a BMP from below", -5, -2**31)):
        yield name, b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    yield "a TIFF whose directory follows itself", b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8)
    yield "a TIFF of many tags", b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 65535) + b"\xff" * 20_000
    sides = struct.pack("<HHIIHHII", 256, 4, 1, 2**31, 257, 4, 1, 2**31)
    yield "a giant TIFF", b"II*\0" + struct.pack("<IH", 8, 2) + sides + b"\0" * 4
    yield "a giant WEBP", b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\xff" * 6
    yield "a giant JPEG", b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\x01\x03\x11\x01\xff\xd9"
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", b"\0" * 10**7)
    yield "a zip", many.getvalue()


def others():
    """What is no picture."""
    yield "svg", f'<svg xmlns="http://www.w3.org/2000/svg" onload="hacked()">{SCRIPT}<image href="file:///etc/passwd"/></svg>'.encode()
    yield "html", f"<!doctype html><html>{SCRIPT}</html>".encode()
    yield "xml", b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>'
    yield "laughs", b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "' + b"&a;" * 1000 + b'">]><x>' + b"&b;" * 1000 + b"</x>"
    yield "pdf", b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.alert(1))>>>>endobj"
    yield "eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
    yield "psd", b"8BPS\0\x01" + b"\0" * 6 + b"\0\x03\0\0\xff\xff\0\0\xff\xff\0\x08\0\x03"
    yield "ico", b"\0\0\x01\0\x01\0\0\0\0\0\x01\0\x20\0\xff\xff\xff\x7f\x16\0\0\0"
    yield "icns", b"icns" + struct.pack(">I", 2**31) + b"ic10" + struct.pack(">I", 2**31)
    yield "fits", b"SIMPLE  =                    T" + b" " * 2850
    yield "pcx", b"\x0a\x05\x01\x08" + b"\xff" * 124
    yield "ppm", b"P6\n99999999 99999999\n255\n"
    yield "tga", b"\0\0\x02" + b"\0" * 9 + b"\xff\xff\xff\xff\x18\0"
    yield "sgi", b"\x01\xda\x01\x01\0\x03\xff\xff\xff\xff\0\x03" + b"\0" * 500
    yield "mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0" * 100
    yield "elf", b"\x7fELF\x02\x01\x01" + b"\0" * 200
    yield "sh", b"#!/bin/sh\ntouch hacked\n"
    yield "pickle", b"cos\nsystem\n(S'touch hacked'\ntR."
    yield "json", b'{"path": "/etc/passwd"}'
    yield "nothing", b""
    yield "zeros", b"\0" * 100_000
    yield "text", "👩‍👩‍👧‍👦 שלום".encode()
    yield "gzip", b"\x1f\x8b\x08" + b"\0" * 50
    yield "polyglot", b"GIF89a/*" + SCRIPT.encode() + b"*/=1;"


def test_broken_pictures_are_answered_or_refused_in_a_sentence(watched):
    address = watched[0]["pictures"]
    draw, said = random.Random(0), []
    for kind in FORMATS:
        whole = picture(kind)
        for share in (0.02, 0.5, 0.99):
            cut = whole[:int(share * len(whole))]
            said.append(checked((kind, share), asked(address, "predict", [upload(address, cut, f"a.{kind.lower()}")])))
        for _ in range(3):
            broken = bytearray(whole)
            for _ in range(20):
                broken[draw.randrange(len(broken))] = draw.randrange(256)
            said.append(checked((kind, "changed"), asked(address, "predict", [upload(address, bytes(broken), f"a.{kind.lower()}")])))
    assert len(said) == 42 and said.count("error") >= 21


def test_bombs_and_what_is_no_picture_are_refused(watched):
    address = watched[0]["pictures"]
    harmless = ("a thousand texts", "a text that unpacks to 50 MB", "a colour profile that unpacks to 50 MB")  # Pillow may leave these aside.
    for name, content in (*bombs(), *others()):
        found = asked(address, "predict", [upload(address, content, f"a.{name if name.isalpha() else 'png'}")])
        assert checked(name, found) == "error" or name in harmless, (name, found)


def test_names_of_uploads_lead_nowhere(watched):
    addresses, _ = watched
    content = picture("PNG")
    for name in TRICKS:
        given = upload(addresses["pictures"], content, name)
        if given is None:
            continue
        assert os.path.realpath(given["path"]).startswith(os.path.realpath(os.environ["GRADIO_TEMP_DIR"])), name
        checked(name, asked(addresses["pictures"], "predict", [given]))
        checked(name, asked(addresses["pictures"], "batch", [[{**given, "orig_name": name}]]))


def test_paths_and_addresses_in_place_of_an_upload_are_refused(watched):
    addresses, folder = watched
    places = ["/etc/passwd", "/proc/self/environ", "/dev/zero", "/dev/stdin", "/", "", ".", "..", str(folder / "secret.png"),
              str(folder / "endless.png"), f"{os.environ['GRADIO_TEMP_DIR']}/../{folder.name}/secret.png", "file:///etc/passwd",
              "http://127.0.0.1:9/x.png", "https://169.254.169.254/latest", "ftp://127.0.0.1/x", "//127.0.0.1/share/x.png",
              "data:image/png;base64,AAAA", "\0", "a\0b", "~", "%2fetc%2fpasswd", "x" * 100_000]
    meta = {"_type": "gradio.FileData"}
    for place in places:
        for given in ({"path": place, "meta": meta}, {"path": place}, {"url": place, "meta": meta}, place)[:4 if len(place) < 12 else 2]:
            assert checked((place[:80], given), asked(addresses["pictures"], "predict", [given])) != "complete", (place[:80], given)
        assert checked(place[:80], asked(addresses["texts"], "batch", [[{"path": place, "orig_name": "a.csv", "meta": meta}]])) != "complete"


# --- texts --------------------------------------------------------------------------------------------------------------

PAIR = {"texts": [""], "words": []}
"""What follows the text: a second one."""

INVISIBLE = ("\ufeffgood", "\u200b", "\ud800", "\udfff good")
"""Whether they are texts is a matter of taste; what is said of them is a sentence."""


def texts():
    yield from ("\0", "good\0day", "\0" * 20_000, "a" * 20_000, "a " * 10_000, "x" * 20_001, "x" * 1_000_000, "é" * 20_000, "👩‍👩‍👧‍👦" * 2_000,
                "שלום עולם", "\u202egood\u202c", "ا" * 5000, "e\u0301" * 5000, "z" + "\u0334" * 15_000, *INVISIBLE, "\u00a0", " \n\t\r", "",
                "\n" * 19_000, "\x1b[31mred", "\x07\x08", SCRIPT, "<img src=x onerror=window.hacked=1>", "[a](javascript:alert(1))",
                "![a](http://127.0.0.1:9/x.png)", "{threshold}", "{0.__class__}", "%s%n", "{{7*7}}", "${7*7}", "'; DROP TABLE x;--", "/etc/passwd",
                "../../x.csv", "file:///etc/passwd", "http://127.0.0.1:9/", "metadata.jsonl", "[PAD]", "[CLS] [SEP] [MASK]" * 200,
                "=cmd|'/C calc'!A0", "NaN", "None", "-1", "a" * 511 + "\U0010ffff", "\u2028\u2029\x85")


def test_texts_are_texts(watched):
    for kind in ("texts", "words"):
        for text in texts():
            found = asked(watched[0][kind], "predict", [text, *PAIR[kind]])
            checked((kind, text[:80]), found)
            wanted = "error" if not text.strip() or len(text) > 20_000 else "complete"
            assert found[0] == wanted or text in INVISIBLE, (kind, text[:80], found)


def test_what_is_no_text_is_told(watched):
    deep = json.loads("[" * 300 + "]" * 300)
    for kind in ("texts", "words"):
        upload_of_another = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
        for value in (None, 0, 1.5, 10**400, True, [], {}, ["a"], upload_of_another, {"a": {"b": "c"}}, deep):
            checked((kind, str(value)[:80]), asked(watched[0][kind], "predict", [value, *PAIR[kind]]))


# --- requests -----------------------------------------------------------------------------------------------------------

def test_requests_that_are_none_are_turned_away(watched):
    address = watched[0]["texts"]
    for body in (b"", b"{", b"[]", b"null", b"0", b'"x"', b"\0" * 100, b"\xff\xfe", b'{"data": 5}', b'{"data": {}}', b'{"data": []}',
                 b'{"data": ["a", "b", "c", "d"]}', b'{"dat": 1}', b'{"data": ["a"], "session_hash": "../../x"}', b"[" * 100_000,
                 b'{"data": [' + b"1" * 5000 + b"]}"):
        for endpoint in ("predict", "batch", "flag", "explain", "compare", "../../x", "nothing", "0", "-1"):
            answer = HTTP.post(f"{address}gradio_api/call/{endpoint}", content=body, headers={"content-type": "application/json"})
            assert answer.status_code < 500 and "Traceback" not in answer.text and "site-packages" not in answer.text, (body[:80], endpoint, answer.text[:300])


def test_no_address_of_the_app_gives_a_file_of_the_server(watched):
    addresses, folder = watched
    for place in ("/etc/passwd", str(folder / "secret.png"), str(Path(__file__).resolve())):
        flat, up, coded = place.lstrip("/"), "../" * 12, "..%2f" * 12
        for route in (f"file={place}", f"file=%2f{flat}", f"file=%252f{flat}", f"file={up}{flat}", f"file={coded}{flat}", f"file=file://{place}",
                      f"file/{flat}", f"proxy={place}", f"file={place}%00.png", f"file={place}?x=.png", f"stream/x/y/z/{coded}{flat}",
                      f"file={os.environ['GRADIO_TEMP_DIR']}/..%2f..%2f{flat}", f"deep_link?session_hash={coded}{flat}", f"../file={place}",
                      f"../static/{up}{flat}", f"../static/{coded}{flat}", f"../assets/{coded}{flat}", f"../theme.css/{coded}{flat}",
                      f"../custom_component/x/y/{coded}{flat}"):
            answer = HTTP.get(f"{addresses['pictures']}gradio_api/{route}")
            assert answer.status_code < 500, (route, answer.text[:300])
            assert not any(sign in answer.text for sign in ("root:x:0", SECRET, "Traceback", "class Watch")), route


# --- tables and reports -------------------------------------------------------------------------------------------------

def tables():
    yield "a.csv", b"text\n=cmd|'/C calc'!A0\n"
    yield "a.csv", b"text\n" + b"a" * 1_000_000 + b"\n"
    yield "a.csv", b",".join(b"c%d" % number for number in range(50_000)) + b"\n"
    yield "a.csv", b"text\n" + b"a\n" * 100_000
    yield "a.csv", b'text\n"never closed\n' + b"a\n" * 100
    yield "a.csv", b"\0" * 1000
    yield "a.csv", b"text\n\0\n"
    yield "a.csv", b"\xff\xfet\0e\0x\0t\0\n\0a\0\n\0"
    yield "a.csv", b""
    yield "a.csv", b"text"
    yield "a.csv", SCRIPT.encode() + b"\na\n"
    yield "a.csv", b"text,text\na,b\n"
    yield "a.csv", b"image\n/etc/passwd\n"
    yield "a.csv", b"PK\x03\x04" + b"\0" * 100
    yield "a.csv", b",".join(b"c%d" % number for number in range(20_000)) + b"\n" + b"a\n" * 100_000
    yield "a.jsonl", b"".join(b'{"k%d": 1}\n' % number for number in range(20_000))
    yield "a.jsonl", b"{" + b",".join(b'"k%d": 1' % number for number in range(20_000)) + b"}\n"
    yield "a.tsv", b"text\tb\n\"\t\"\n"
    yield "a.jsonl", b'{"text": {"a": [1]}}\n'
    yield "a.jsonl", b'{"text": "a"}\n{"other": 1}\n'
    yield "a.jsonl", b"[" * 100_000
    yield "a.jsonl", b'{"text": NaN}\n'
    yield "a.jsonl", b'{"__class__": "x", "text": "\\u0000"}\n'
    yield "a.jsonl", b'{"text": "\\ud800"}\n'
    yield "a.txt", b"\xff\xfe\xfd"
    yield "a.txt", b"/etc/passwd\n../../x.csv\nhttp://127.0.0.1:9/\n"
    yield "a.txt", b"\n\n\n"
    yield "a.xlsx", b"PK\x03\x04" + b"\0" * 100
    yield "a.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1"
    yield "a.pkl", b"cos\nsystem\n(S'touch hacked'\ntR."
    yield "../a.csv", b"text\na\n"
    yield f"{SCRIPT}.csv", b"text\na\n"


def test_tables_are_answered_or_refused_in_a_sentence(watched):
    for number, (name, content) in enumerate(tables()):
        address = watched[0][("texts", "words")[number % 2]]
        checked((name, content[:80]), asked(address, "batch", [[upload(address, content, name)]]))


def test_reports_hold_nothing_but_labels_of_the_model(watched):
    addresses, folder = watched
    given = upload(addresses["pictures"], picture("PNG"), "../../x.png")
    for right in ("../../../x", "a\0b", {"a": 1}, ["x"], 5, None, True, [], [[]], "x" * 100_000, "\ud800", f"{LABELS[0]}\n", [LABELS[0], LABELS[1]]):
        assert checked(str(right)[:80], asked(addresses["pictures"], "flag", [given, right])) == "error", right
    for right in ("O ../../x", "O\0", ["O", {"a": 1}], "O O", 5, {"O": 1}):
        assert checked(str(right)[:80], asked(addresses["words"], "flag", ["good day", right])) == "error" or right == "O O", right
    assert checked("kept", asked(addresses["pictures"], "flag", [given, "../../etc/passwd"])) == "complete"
    kept = folder / "reports-pictures"
    assert [json.loads(line)["label"] for line in (kept / "metadata.jsonl").read_text(encoding="utf-8").splitlines()] == ["../../etc/passwd"]
    assert sorted(path.suffix for path in kept.iterdir()) == [".jsonl", ".png"]


def test_many_at_once_do_not_disturb_each_other(watched):
    """A good text between bad ones, from many threads: each gets its own answer."""
    address, found = watched[0]["texts"], {}

    def ask(number):
        found[number] = asked(address, "predict", ["x" * 20_001 if number % 2 else f"good day {number}", ""])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number][0] for number in range(24)] == ["complete", "error"] * 12
