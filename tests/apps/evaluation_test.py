"""`nibble eval kld` and `nibble eval table`: figures that must fit together, and what is refused."""

import pathlib
import tempfile
import unittest

import nibble_process as nibble

KLD_FIELDS = ["kld", "top1_agreement", "perplexity", "nll", "reference_perplexity", "reference_nll", "tokens"]
ROW_FIELDS = ["scheme", "formats", "bits_per_weight", "model_bits_per_weight", "packed_bytes", "projection_bytes",
              "perplexity", "nll", "delta_percent", "kld", "top1_agreement", "decode_tok_s",
              "decode_tok_s_mean", "decode_tok_s_sd"]
WINDOWS = ["--tokens", "300", "--max-model-len", "128"]


@unittest.skipUnless((nibble.DEMO / "valid.txt").is_file(), "no demo model")
class Evaluation(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.text = nibble.DEMO / "valid.txt"
        self.saved = self.folder / "bf16.kld"

    def kld(self, *args, model=nibble.DEMO, windows=WINDOWS):
        return nibble.run("eval", "kld", model, "--text", self.text, *windows, *args)

    def measured(self, *args, **more):
        answer = self.kld(*args, "--json", **more)
        self.assertEqual(answer.code, 0, answer)
        self.assertEqual(list(answer.json), KLD_FIELDS)
        self.assertEqual(list(answer.json["kld"]), ["mean", "median", "p99", "max"])
        return answer.json

    def refused(self, text, *args, **more):
        answer = self.kld(*args, **more)
        self.assertEqual(answer.code, 2, answer)
        self.assertIn(text, answer.err)
        self.assertEqual(answer.out, "")

    def save(self):
        answer = self.kld("--save-reference", self.saved, "--json")
        self.assertEqual(answer.code, 0, answer)
        return answer.json

    def test_a_model_does_not_diverge_from_itself(self):
        got = self.measured("--reference", nibble.DEMO)
        self.assertLess(got["kld"]["max"], 1e-9)
        self.assertEqual(got["top1_agreement"], 1)
        self.assertEqual(got["nll"], got["reference_nll"])
        ppl = nibble.run("eval", "ppl", nibble.DEMO, "--text", self.text, *WINDOWS, "--json").json
        self.assertEqual((got["tokens"], got["nll"], got["perplexity"]), (ppl["tokens"], ppl["nll"], ppl["perplexity"]))

    def test_a_saved_reference_gives_the_same_figures(self):
        saved = self.save()
        self.assertEqual(saved["bytes"], self.saved.stat().st_size)
        self.assertEqual(saved["bytes"], 112 + saved["tokens"] * (12 + 2 * 4096))
        self.assertEqual([path.name for path in self.folder.iterdir()], ["bf16.kld"])
        live = self.measured("--quantization", "mxfp4", "--reference", nibble.DEMO)
        got = self.measured("--quantization", "mxfp4", "--reference", self.saved)
        self.assertGreater(live["kld"]["mean"], 1e-3)
        self.assertLess(live["kld"]["median"], live["kld"]["p99"])
        for name in ("mean", "median", "p99", "max"):
            self.assertAlmostEqual(got["kld"][name] / live["kld"][name], 1, delta=0.01, msg=name)
        self.assertEqual(got["top1_agreement"], live["top1_agreement"])
        self.assertEqual(got["perplexity"], live["perplexity"])
        self.assertAlmostEqual(got["reference_perplexity"] / live["reference_perplexity"], 1, delta=1e-6)
        self.assertLess(self.measured("--reference", self.saved)["kld"]["max"], 1e-6)

    def test_the_references_scheme(self):
        got = self.measured("--quantization", "mxfp4", "--reference", nibble.DEMO, "--reference-quantization", "mxfp4")
        self.assertLess(got["kld"]["max"], 1e-9)

    def test_text_output(self):
        self.assertRegex(self.kld("--reference", nibble.DEMO).out,
                         r"^KL divergence [0-9.]+  \(nats; median [0-9.]+, 99 % [0-9.]+, max [0-9.]+\)\n"
                         r"top-1 agreement 100.00 %\nperplexity [0-9.]+, reference [0-9.]+  \(\d+ tokens\)\n$")

    def test_what_does_not_fit_is_refused(self):
        self.save()
        reference = ("--reference", self.saved)
        self.refused("the reference was made from 300 tokens, the text has 299", *reference,
                     windows=["--tokens", "299", "--max-model-len", "128"])
        self.refused("windows of 128 tokens", *reference, windows=["--tokens", "300", "--max-model-len", "64"])
        self.refused("stride", *reference, "--stride", "64")
        self.refused("no BOS", *reference, "--bos")
        other = self.folder / "other.txt"
        other.write_text(self.text.read_text()[3000:])
        self.text = other
        self.refused("other token ids", *reference)
        tiny = nibble.text_model(self.folder)
        if tiny is not None:
            config = self.folder / "config.json"
            config.write_text(config.read_text().replace('"vocab_size": 4096', '"vocab_size": 4224'))
            self.refused("vocabulary", *reference, "--load-format", "dummy", model=self.folder)

    def test_a_reference_with_another_tokenizer_is_refused(self):
        model = nibble.text_model(self.folder)
        if model is None:
            self.skipTest("no golden tokenizer")
        self.refused("other token ids", "--load-format", "dummy", "--reference", nibble.DEMO, model=self.folder)

    def test_damaged_files_are_refused(self):
        self.save()
        good = self.saved.read_bytes()
        for bad in (b"", good[:50], good[:112], good[:-1], good + b"x", b"\0" * 1000, good[:12] + b"\xff" * 100,
                    good[:40] + (2**63).to_bytes(8, "little") + good[48:]):
            self.saved.write_bytes(bad)
            self.refused("make the reference again", "--reference", self.saved)
        broken = bytearray(good)
        broken[112:116] = b"\xff\xff\xff\xff"
        self.saved.write_bytes(bytes(broken))
        self.refused("row 0 is damaged", "--reference", self.saved)

    def test_mistakes(self):
        self.refused("--reference")
        self.refused("--reference", "--reference", nibble.DEMO, "--save-reference", self.saved)
        self.refused("cannot open", "--reference", nibble.NOTHING_HERE)
        self.refused("cannot write", "--save-reference", nibble.NOTHING_HERE / "a.kld")
        self.refused("a directory", "--save-reference", self.folder)
        self.assertEqual(nibble.run("eval", "kld", nibble.DEMO, "--reference", nibble.DEMO).code, 2)


@unittest.skipUnless((nibble.DEMO / "valid.txt").is_file(), "no demo model")
class SchemeTable(unittest.TestCase):
    def table(self, *args):
        return nibble.run("eval", "table", nibble.DEMO, *WINDOWS, *args, timeout=600)

    def test_json(self):
        answer = self.table("--schemes", "bf16,mxfp4,mxfp4:plain,mxfp4:attn=fp8,auto:kv=int3", "-o", "json")
        self.assertEqual(answer.code, 0, answer)
        got = answer.json
        for key in ("commit", "cpu", "model", "formats", "flags"):
            self.assertIn(key, got)
        self.assertEqual((got["window"], got["stride"], got["bos"]), (128, 128, False))
        self.assertEqual(pathlib.Path(got["text"]).name, "valid.txt")
        bf16, searched, plain, mixed, failed = got["rows"]
        for row in (bf16, searched, plain, mixed):
            self.assertEqual(list(row), ROW_FIELDS)
            self.assertAlmostEqual(row["delta_percent"], 100 * (row["perplexity"] / got["reference_perplexity"] - 1),
                                   places=3)
            self.assertGreater(row["decode_tok_s_mean"], 0)
            self.assertGreaterEqual(row["decode_tok_s"], row["decode_tok_s_mean"])
        self.assertEqual([row["scheme"] for row in got["rows"]],
                         ["bf16", "mxfp4", "mxfp4 (plain)", "mxfp4, attn fp8", "auto + kv int3"])
        self.assertLess(bf16["kld"]["max"], 1e-6)
        self.assertAlmostEqual(bf16["bits_per_weight"], 16, delta=0.1)
        self.assertAlmostEqual(searched["bits_per_weight"], 4.25, delta=0.1)
        self.assertGreater(searched["model_bits_per_weight"], searched["bits_per_weight"])
        self.assertGreater(mixed["packed_bytes"], searched["packed_bytes"])
        self.assertNotEqual(plain["nll"], searched["nll"])
        self.assertEqual(list(failed), ["scheme", "error"])
        self.assertIn("int3", failed["error"])
        ppl = nibble.run("eval", "ppl", nibble.DEMO, "--text", nibble.DEMO / "valid.txt", *WINDOWS, "--quantization",
                         "mxfp4", "--json").json
        self.assertEqual(searched["nll"], ppl["nll"])

    def test_markdown(self):
        answer = self.table("--schemes", "fp8,auto:kv=int3")
        self.assertEqual(answer.code, 0, answer)
        lines = answer.out.splitlines()
        self.assertRegex(lines[0], r"^\| scheme +\| bits/weight \| whole model \| +packed \| perplexity \| +Δ % \|")
        self.assertRegex(lines[2], r"^\| fp8 +\| +8\.\d\d \|")
        self.assertRegex(lines[3], r"^\| auto \+ kv int3 \| +– \|")
        self.assertIn("auto + kv int3: not run: kv_cache_dtype 'int3' is unknown", answer.out)
        self.assertRegex(lines[-1], r"^Reference: demo, bf16, perplexity [0-9.]+ over \d+ tokens of valid.txt")

    def test_nothing_stays_behind(self):
        with tempfile.TemporaryDirectory() as folder:
            answer = nibble.run("eval", "table", nibble.DEMO, *WINDOWS, "--schemes", "bf16", env={"TMPDIR": folder})
            self.assertEqual(answer.code, 0, answer)
            self.assertEqual(list(pathlib.Path(folder).iterdir()), [])

    def test_mistakes(self):
        for schemes, text in (("mxpf4", "did you mean mxfp4?"), ("mxfp4:fast", "unknown modifier"),
                              ("fp8,,int8", "unknown scheme"), ("mxfp4:attn=int3", "unknown scheme"),
                              ("mxfp4:kv=", "unknown modifier")):
            answer = self.table("--schemes", schemes)
            self.assertEqual(answer.code, 2, answer)
            self.assertIn(text, answer.err)
        with tempfile.TemporaryDirectory() as folder:
            model = nibble.text_model(folder)
            if model is not None:
                answer = nibble.run("eval", "table", *model)
                self.assertEqual(answer.code, 2, answer)
                self.assertIn("--text", answer.err)


if __name__ == "__main__":
    unittest.main()
