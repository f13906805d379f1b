"""Runs the nibble binary and reads what tests need: golden data, safetensors, resource use."""

import json
import math
import os
import pathlib
import re
import struct
import subprocess
import tempfile
import threading
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("NIBBLE_TEST_BINARY", str(SOURCE / "build" / "nibble"))
SANITIZED = os.environ.get("NIBBLE_TEST_SANITIZED", "0") == "1"
DEMO = SOURCE / "models" / "demo"
NOTHING_HERE = SOURCE / "no-such-directory"


class Outcome:
    def __init__(self, code, out, err, seconds, rss):
        self.code = code
        self.out = out
        self.err = err
        self.seconds = seconds
        self.rss = rss

    @property
    def json(self):
        return json.loads(self.out)

    def __repr__(self):
        return f"exit {self.code}\nstdout: {self.out[:2000]!r}\nstderr: {self.err[:2000]!r}"


def environment(extra=None):
    """The caller's environment without nibble's own variables."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("NIBBLE_")}
    env.update(extra or {})
    return env


def run(*args, stdin=b"", env=None, timeout=600):
    """Runs `nibble args...` to its end. stdin: bytes or text."""
    if isinstance(stdin, str):
        stdin = stdin.encode()
    start = time.monotonic()
    with tempfile.TemporaryFile() as in_file, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        in_file.write(stdin)
        in_file.seek(0)
        child = subprocess.Popen([BINARY, *map(str, args)], stdin=in_file, stdout=out, stderr=err,
                                 env=environment(env))
        killer = threading.Timer(timeout, child.kill)
        killer.start()
        _, status, usage = os.wait4(child.pid, 0)
        killer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        return Outcome(child.returncode, out.read().decode(), err.read().decode(), seconds, usage.ru_maxrss * 1024)


def golden_roots():
    wider = os.environ.get("NIBBLE_GOLDEN_DIR")
    roots = [SOURCE / "tests" / "data" / "golden", pathlib.Path(wider) if wider else SOURCE.parent / "shared" / "golden"]
    return [root for root in roots if root.is_dir()]


def golden(name):
    """The first directory of that name among the golden roots, or None."""
    for root in golden_roots():
        if (root / name).is_dir():
            return root / name
    return None


def read_safetensors(path):
    """{name: (dtype, shape, values)}; values is a tuple of numbers for F32, I64 and I32, else bytes."""
    data = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + size])
    codes = {"F32": "f", "I64": "q", "I32": "i"}
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[8 + size + begin:8 + size + end]
        code = codes.get(entry["dtype"])
        values = struct.unpack(f"<{math.prod(entry['shape'])}{code}", raw) if code else raw
        tensors[name] = (entry["dtype"], entry["shape"], values)
    return tensors


def golden_reference(model):
    """Token ids, logits and greedy continuation of a golden model; the first two by row."""
    tensors = read_safetensors(model / "golden.safetensors")
    _, (rows, length, vocab), logits = tensors["logits"]
    ids = tensors["input_ids"][2]
    size = length * vocab
    return {
        "ids": [list(ids[r * length:(r + 1) * length]) for r in range(rows)],
        "logits": [logits[r * size:(r + 1) * size] for r in range(rows)],
        "vocab": vocab,
        "greedy": list(tensors["greedy_ids"][2]),
    }


def position_errors(got, want, vocab):
    """|difference| / |logits| of every position."""
    errors = []
    for start in range(0, len(want), vocab):
        a, b = got[start:start + vocab], want[start:start + vocab]
        errors.append(math.dist(a, b) / math.hypot(*b))
    return errors


def tolerances(model):
    """What the golden directory's README recommends: (f32 max difference, bf16 median e, bf16 share of e > 0.1)."""
    text = (model / "README.md").read_text()
    f32 = re.search(r"float32 arithmetic: max \|diff\| of logits <= ([0-9.e-]+[0-9])", text)
    bf16 = re.search(r"BF16 arithmetic: median of e .*? <= ([0-9.]+[0-9]), e > 0\.1 at no more than ([0-9.]+) %", text)
    return float(f32[1]), float(bf16[1]), float(bf16[2]) / 100


def supported_isas():
    """(tiers that compute in float32, tiers that may use bf16 operands), best last, that this machine can run."""
    isas = run("doctor", "--json").json["isas"]
    return ([isa for isa in ("scalar", "avx2") if isa in isas],
            [isa for isa in ("avx512", "avx512_bf16") if isa in isas])


def text_model(folder, chat_format_files=True):
    """Arguments naming a tiny model with pseudo-random weights and the golden tokenizer, made in `folder`.

    Its text means nothing, but all of the machinery runs. None if the golden tokenizer isn't there.
    """
    tokenizer = golden("tokenizer")
    shape = golden("v2lite-tiny")
    if tokenizer is None or shape is None:
        return None
    folder = pathlib.Path(folder)
    config = json.loads((shape / "config.json").read_text())
    config["vocab_size"] = 4096
    config["max_position_embeddings"] = 163840
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((tokenizer / "tokenizer.json").read_bytes())
    if chat_format_files:
        (folder / "tokenizer_config.json").write_bytes((tokenizer / "tokenizer_config.json").read_bytes())
    return [str(folder), "--load-format", "dummy"]
