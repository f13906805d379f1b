"""`nibble logits` against the reference logits of the golden models, in every way of feeding tokens."""

import functools
import json
import pathlib
import statistics
import struct
import tempfile
import unittest

import nibble_process as nibble

MODELS = ["v2-tiny", "v2lite-tiny", "v3-tiny", "v3-tiny-fp8", "v3-tiny-nvfp4", "v3-tiny-ct-mxfp4"]
REFUSED = ["v32-tiny", "v4-tiny", "v4-tiny-mxfp4"]

# Ways to feed the same tokens; all must give the same logits.
FEEDS = {
    "one chunk": [],
    "chunks of 7": ["--prefill-chunk", "7"],
    "decoded from 5": ["--decode-from", "5"],
    "batched": ["--batch-with", "OTHER"],
    "batched, chunks of 7, decoded from 40": ["--batch-with", "OTHER", "--prefill-chunk", "7", "--decode-from", "40"],
}


@functools.cache
def isas():
    return nibble.supported_isas()


reference = functools.cache(nibble.golden_reference)


class Logits(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def tokens_file(self, name, ids):
        file = self.folder / name
        file.write_text(json.dumps(ids))
        return file

    def compute(self, model, row, *options, isa="scalar"):
        want = reference(model)
        options = [self.tokens_file("other.json", want["ids"][1 - row]) if o == "OTHER" else o for o in options]
        output = self.folder / "out.safetensors"
        answer = nibble.run("logits", model, "--tokens", self.tokens_file("ids.json", want["ids"][row]), "--output",
                            output, "--isa", isa, *options)
        self.assertEqual(answer.code, 0, answer)
        tensors = nibble.read_safetensors(output)
        self.assertEqual(list(tensors), ["logits"])
        dtype, shape, values = tensors["logits"]
        self.assertEqual((dtype, shape), ("F32", [len(want["ids"][row]), want["vocab"]]))
        return values

    def check_float32(self, model, got, row):
        want = reference(model)["logits"][row]
        tolerance, _, _ = nibble.tolerances(model)
        self.assertLessEqual(max(abs(a - b) for a, b in zip(got, want)), tolerance)

    def test_float32_tiers(self):
        for name in MODELS:
            model = nibble.golden(name)
            if model is None:
                continue
            for isa in isas()[0]:
                for mla in ("naive", "absorb"):
                    for feed, options in FEEDS.items():
                        if nibble.SANITIZED and isa == "scalar" and feed != "one chunk":
                            continue
                        with self.subTest(model=name, isa=isa, mla=mla, feed=feed):
                            self.check_float32(model, self.compute(model, 0, "--mla", mla, *options, isa=isa), 0)

    def test_automatic_mla_and_second_row(self):
        for name in MODELS:
            model = nibble.golden(name)
            if model is not None:
                with self.subTest(model=name):
                    self.check_float32(model, self.compute(model, 1, isa=isas()[0][-1]), 1)

    def test_bfloat16_tiers(self):
        for name in MODELS:
            model = nibble.golden(name)
            if model is None:
                continue
            for isa in isas()[1]:
                for mla in ("naive", "absorb"):
                    for feed, options in FEEDS.items():
                        with self.subTest(model=name, isa=isa, mla=mla, feed=feed):
                            self.check_bfloat16(model, ["--mla", mla, *options], isa)

    def check_bfloat16(self, model, options, isa):
        want = reference(model)
        _, median_limit, share_limit = nibble.tolerances(model)
        errors = []
        for row in (0, 1):
            got = self.compute(model, row, *options, isa=isa)
            errors += nibble.position_errors(got, want["logits"][row], want["vocab"])
        self.assertLessEqual(statistics.median(errors), median_limit)
        self.assertLessEqual(sum(e > 0.1 for e in errors) / len(errors), share_limit)

    def test_greedy_continuation(self):
        for name in MODELS:
            model = nibble.golden(name)
            if model is None:
                continue
            want = reference(model)
            for isa in isas()[0]:
                with self.subTest(model=name, isa=isa):
                    prompt = ",".join(map(str, want["ids"][0]))
                    answer = nibble.run("run", model, "--prompt-tokens", prompt, "--max-tokens", len(want["greedy"]),
                                        "--ignore-eos", "--isa", isa, "--json")
                    self.assertEqual(answer.code, 0, answer)
                    self.assertEqual(answer.json["token_ids"], want["greedy"])

    def test_families_of_later_versions_are_refused(self):
        for name in REFUSED:
            model = nibble.golden(name)
            if model is not None:
                answer = nibble.run("logits", model, "--tokens", self.tokens_file("ids.json", [1, 2]), "--output",
                                    self.folder / "out.safetensors")
                self.assertEqual(answer.code, 3, answer)
                self.assertFalse((self.folder / "out.safetensors").exists())

    def test_json_summary(self):
        model = nibble.golden("v2-tiny")
        output = self.folder / "out.safetensors"
        answer = nibble.run("logits", model, "--tokens", self.tokens_file("ids.json", [1, 2, 3]), "-o", output, "--json")
        self.assertEqual(answer.json, {"output": str(output), "tokens": 3, "vocab_size": reference(model)["vocab"]})
        (size,) = struct.unpack_from("<Q", output.read_bytes())
        self.assertEqual(size % 8, 0, "the header ends on a multiple of eight")

    def test_mistakes(self):
        model = nibble.golden("v2-tiny")
        vocab = reference(model)["vocab"]
        output = self.folder / "out.safetensors"
        cases = {
            "[]": "empty",
            "": "JSON",
            "[1, 2": "JSON",
            "{}": "list",
            "[1.5]": "index 0",
            "[1, -1]": "index 1",
            "[1, \"2\"]": "index 1",
            "[true]": "index 0",
            "[99999999999999999999]": "index 0",
            "[4294967296]": "index 0",
            "[" * 5000: "JSON",
            f"[1, {vocab}]": str(vocab),
        }
        for text, word in cases.items():
            with self.subTest(text=text[:20]):
                file = self.folder / "ids.json"
                file.write_text(text)
                answer = nibble.run("logits", model, "--tokens", file, "--output", output)
                self.assertEqual(answer.code, 2, answer)
                self.assertIn(word, answer.err)
        good = self.tokens_file("good.json", [1, 2])
        self.assertEqual(nibble.run("logits", model, "--output", output).code, 2)
        self.assertEqual(nibble.run("logits", model, "--tokens", good).code, 2)
        self.assertEqual(nibble.run("logits", model, "--tokens", good, "-o", output, "--decode-from", 3).code, 2)
        bad_second = nibble.run("logits", model, "--tokens", good, "-o", output, "--batch-with",
                                self.tokens_file("bad.json", [vocab]))
        self.assertEqual(bad_second.code, 2, bad_second)
        nowhere = nibble.run("logits", model, "--tokens", good, "-o", self.folder / "none" / "out.safetensors")
        self.assertEqual(nowhere.code, 2, nowhere)
        self.assertEqual(sorted(p.name for p in self.folder.glob("*safetensors*")), [])

    def test_more_tokens_than_the_context(self):
        model = nibble.golden("v2-tiny")
        answer = nibble.run("logits", model, "--tokens", self.tokens_file("ids.json", [1] * 9), "--max-model-len", 8,
                            "-o", self.folder / "out.safetensors")
        self.assertEqual(answer.code, 2, answer)
        self.assertIn("9", answer.err)
        self.assertIn("8", answer.err)


if __name__ == "__main__":
    unittest.main()
