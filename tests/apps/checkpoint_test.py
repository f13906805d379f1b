"""`nibble inspect` and `nibble plan`, and every malformed checkpoint through the command line."""

import hashlib
import json
import os
import pathlib
import shutil
import struct
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor

import nibble_process as nibble

MALFORMED = nibble.SOURCE / "tests" / "data" / "malformed"
# Instrumented code is several times slower and keeps freed memory for a while.
MAX_SECONDS = 10.0 if nibble.SANITIZED else 1.0
MAX_RSS = (1024 if nibble.SANITIZED else 256) << 20


def header_of(file):
    data = file.read_bytes()
    (size,) = struct.unpack_from("<Q", data)
    return {k: v for k, v in json.loads(data[8:8 + size]).items() if k != "__metadata__"}


class Inspect(unittest.TestCase):
    def setUp(self):
        self.model = nibble.golden("v3-tiny-fp8")

    def test_json_lists_every_tensor(self):
        info = nibble.run("inspect", self.model, "--json").json
        header = header_of(self.model / "model.safetensors")
        listed = {t["name"]: t for t in info["tensors"]}
        self.assertEqual(sorted(listed), sorted(header))
        for name, entry in header.items():
            self.assertEqual(listed[name]["dtype"], entry["dtype"])
            self.assertEqual(listed[name]["shape"], entry["shape"])
            self.assertEqual(listed[name]["bytes"], entry["data_offsets"][1] - entry["data_offsets"][0])
            self.assertEqual(pathlib.Path(listed[name]["file"]).name, "model.safetensors")
        self.assertEqual(info["model_type"], "deepseek_v3")
        self.assertEqual(info["num_tensors"], len(header))
        self.assertIn("fp8", " ".join(f["format"] for f in info["formats"]))

    def test_sha256(self):
        info = nibble.run("inspect", self.model, "--sha256", "--json").json
        want = hashlib.sha256((self.model / "model.safetensors").read_bytes()).hexdigest()
        self.assertEqual([f["sha256"] for f in info["files"]], [want])
        self.assertIn(want, nibble.run("inspect", self.model, "--sha256").out)

    def test_text(self):
        short = nibble.run("inspect", self.model)
        self.assertEqual(short.code, 0, short)
        self.assertNotIn("model.embed_tokens.weight", short.out)
        self.assertIn("model.embed_tokens.weight", nibble.run("inspect", self.model, "--tensors").out)

    def test_truncated_file_is_named_with_byte_counts(self):
        with tempfile.TemporaryDirectory() as folder:
            broken = pathlib.Path(folder) / "broken"
            shutil.copytree(self.model, broken)
            file = broken / "model.safetensors"
            size = file.stat().st_size
            os.truncate(file, size - 1000)
            for command in (["inspect"], ["plan"], ["run", "--prompt-tokens", "1"]):
                answer = nibble.run(command[0], broken, *command[1:])
                self.assertEqual(answer.code, 2, answer)
                self.assertIn("model.safetensors", answer.err)
                self.assertRegex(answer.err, f"{size - 1000}|{size}|1000")


class Plan(unittest.TestCase):
    def test_json(self):
        model = nibble.golden("v3-tiny-fp8")
        plan = nibble.run("plan", model, "--max-model-len", "100", "--json").json
        self.assertGreaterEqual(plan["max_model_len"], 100)
        self.assertEqual(plan["weight_bytes"], sum(row["packed_bytes"] for row in plan["weights"]))
        self.assertEqual(plan["total_bytes"], plan["weight_bytes"] + plan["cache_bytes"] + plan["scratch_bytes"])
        self.assertTrue(plan["fits"])
        self.assertGreater(plan["bytes_per_decode_token"], 0)
        self.assertTrue(plan["kernels"])

    def test_dummy_weights_need_no_checkpoint(self):
        config = nibble.golden("v2lite-tiny") / "config.json"
        for scheme in ("bf16", "fp8", "mxfp4", "nvfp4"):
            answer = nibble.run("plan", "--load-format", "dummy", "--config", config, "--quantization", scheme)
            self.assertEqual(answer.code, 0, answer)
            self.assertIn("fits", answer.out)

    def test_moe_backend(self):
        model = nibble.golden("v3-tiny-nvfp4")
        for backend, scheme in (("auto", "nvfp4"), ("w4a16", "nvfp4"), ("w4a8", "nvfp4_w4a8"), ("fp8", "fp8_w8a8"),
                                ("reference", "nvfp4")):
            plan = nibble.run("plan", model, "--device", "cpu", "--moe-backend", backend, "--json").json
            self.assertEqual(plan["moe_backend"], f"{backend} ({scheme})")
            experts = [row["format"] for row in plan["weights"] if row["kind"] == "experts"]
            self.assertEqual(experts, [scheme.split("_")[0]])
            self.assertEqual(any("inputs fp8" in kernel for kernel in plan["kernels"]), backend in ("w4a8", "fp8"))
            text = nibble.run("plan", model, "--device", "cpu", "--moe-backend", backend).out
            self.assertIn(f"moe backend  {backend} ({scheme})", text)

    def test_moe_backend_without_a_kernel(self):
        config = nibble.golden("v2lite-tiny") / "config.json"
        dummy = ("plan", "--device", "cpu", "--load-format", "dummy", "--config", config)
        for args in (("--experts", "bf16", "--moe-backend", "w4a16"), ("--experts", "fp8", "--moe-backend", "w4a8"),
                     ("--experts", "mxfp4", "--moe-backend", "fp8")):
            answer = nibble.run(*dummy, *args)
            self.assertEqual(answer.code, 3, answer)
            self.assertIn("supported formats of experts: auto: any; w4a16: mxfp4, nvfp4, int4", answer.err)
        # Of a checkpoint the stored format counts.
        answer = nibble.run("run", nibble.golden("v3-tiny-fp8"), "--prompt-tokens", "1", "--device", "cpu", "--moe-backend",
                            "w4a8")
        self.assertEqual(answer.code, 3, answer)
        self.assertIn("experts.0.gate_proj", answer.err)
        answer = nibble.run("plan", nibble.golden("v3-tiny-fp8"), "--moe-backend", "w4a4")
        self.assertEqual(answer.code, 2, answer)


@unittest.skipUnless(MALFORMED.is_dir(), "no malformed corpus")
class Malformed(unittest.TestCase):
    def check(self, folder, expected):
        with tempfile.TemporaryDirectory() as scratch:
            args = [expected["command"], folder]
            stdin = ""
            if expected["command"] == "logits":
                tokens = pathlib.Path(scratch) / "ids.json"
                tokens.write_text("[1]")
                args += ["--tokens", tokens, "--output", pathlib.Path(scratch) / "out.safetensors"]
            if expected["command"] == "tokenize":
                stdin = '{"text": "Hello"}\n'
            answer = nibble.run(*args, stdin=stdin)
        problems = []
        if answer.code != expected["exit"]:
            problems.append(f"exit {answer.code}, expected {expected['exit']}: {answer.err.strip()[:300]}")
        elif answer.code != 0:
            missing = [word for word in expected["mentions"] if word not in answer.err]
            problems += [f"{word!r} is not in: {answer.err.strip()[:300]}" for word in missing]
            if not answer.err.startswith("error: "):
                problems.append(f"no error line: {answer.err[:300]}")
        if answer.seconds > MAX_SECONDS:
            # The machine may be busy with something else: only a second slow run counts.
            again = nibble.run(*args[:2], stdin=stdin) if expected["command"] != "logits" else answer
            if again.seconds > MAX_SECONDS:
                problems.append(f"took {again.seconds:.2f} s")
        if answer.rss > MAX_RSS:
            problems.append(f"used {answer.rss >> 20} MiB")
        return [f"{folder.name}: {problem}" for problem in problems]

    def test_every_file_is_refused_by_name(self):
        cases = json.loads((MALFORMED / "expected.json").read_text())
        self.assertGreaterEqual(len(cases), 120)
        with ThreadPoolExecutor(max_workers=2) as pool:
            found = pool.map(self.check, [MALFORMED / name for name in cases], cases.values())
            problems = [problem for of_case in found for problem in of_case]
        self.assertEqual(problems, [], "\n" + "\n".join(problems))


if __name__ == "__main__":
    unittest.main()
