"""`nibble bench` and `nibble eval`: shapes of the results and figures that must fit together."""

import json
import math
import pathlib
import tempfile
import unittest

import nibble_process as nibble

CONFIG = nibble.golden("v2lite-tiny") / "config.json"
DUMMY = ["--load-format", "dummy", "--config", CONFIG]


def load_lines(text):
    return [json.loads(line) for line in text.splitlines()]


class Bench(unittest.TestCase):
    def bench(self, kind, *args):
        answer = nibble.run("bench", kind, *args)
        self.assertEqual(answer.code, 0, answer)
        return answer.out

    def test_decode_json(self):
        (got,) = json.loads(self.bench("decode", *DUMMY, "--quantization", "mxfp4", "-n", "4", "-r", "2", "--json"))
        for key in ("commit", "flags", "cpu", "isa", "model", "formats", "threads", "num_parameters", "load_s"):
            self.assertIn(key, got)
        self.assertEqual((got["test"], got["tokens"], got["depth"], got["batch"]), ("tg4", 4, 0, 1))
        self.assertEqual((got["repetitions"], got["warm_up"], len(got["seconds"])), (2, 1, 2))
        self.assertIn("mxfp4", got["formats"])
        self.assertGreater(got["bytes_per_token"], 0)
        self.assertAlmostEqual(got["gb_s"], got["tok_s"] * got["bytes_per_token"] / 1e9, delta=got["gb_s"] * 1e-6)
        limit = got["read_bandwidth_gb_s"]
        self.assertAlmostEqual(limit["mean"], (limit["before"] + limit["after"]) / 2)
        self.assertAlmostEqual(got["percent_of_read_bandwidth"], 100 * got["gb_s"] / limit["mean"], places=6)

    def test_prefill_json(self):
        (got,) = json.loads(self.bench("prefill", *DUMMY, "-p", "32", "-r", "1", "-o", "json"))
        self.assertEqual(got["test"], "pp32")
        self.assertIn(got["peak_gflops"]["kind"], ("bf16-dot", "fp32-fma"))
        self.assertAlmostEqual(got["gflops"], got["flops"] / 32 * got["tok_s"] / 1e9, delta=got["gflops"] * 1e-6)
        self.assertGreater(got["percent_of_peak"], 0)

    def test_lists_make_one_line_each(self):
        lines = load_lines(self.bench("decode", *DUMMY, "-n", "2", "--depth", "0,16", "--batch", "1,2", "-r", "1",
                                      "-o", "jsonl"))
        self.assertEqual([line["test"] for line in lines], ["tg2", "tg2 b2", "tg2 @ d16", "tg2 @ d16 b2"])

    def test_tables(self):
        table = self.bench("decode", *DUMMY, "--num-hidden-layers", "2", "-n", "2", "-r", "1")
        self.assertRegex(table, r"^\| model +\| +size \| +params \| backend +\| threads \| test +\| +t/s \|\n\| -+ \| -+: \|")
        self.assertIn("2 layers", table)
        self.assertRegex(table, r"\| tg2 +\| +[0-9.]+ ± [0-9.]+ \|")
        header, row = self.bench("decode", *DUMMY, "-n", "2", "-r", "1", "-o", "csv").splitlines()
        self.assertEqual(len(header.split(",")), 23)
        self.assertGreaterEqual(len(row.split(",")), 23)

    def test_the_model_of_a_config_file_is_named_after_it(self):
        with tempfile.TemporaryDirectory() as folder:
            config = pathlib.Path(folder) / "some-shape.json"
            config.write_bytes(CONFIG.read_bytes())
            (got,) = json.loads(self.bench("decode", "--load-format", "dummy", "--config", config, "-n", "1", "-r", "1",
                                           "--json"))
            self.assertEqual(got["model"], "some-shape")
        (got,) = json.loads(self.bench("decode", *DUMMY, "-n", "1", "-r", "1", "--json"))
        self.assertEqual(got["model"], "v2lite-tiny")

    def test_a_context_that_is_too_short(self):
        answer = nibble.run("bench", "decode", *DUMMY, "-n", "20", "--max-model-len", "8", "-r", "1")
        self.assertEqual(answer.code, 2, answer)
        self.assertIn("--max-model-len", answer.err)

    def test_load(self):
        model = nibble.golden("v3-tiny-fp8")
        got = json.loads(self.bench("load", model, "-r", "2", "--json"))
        self.assertEqual(got["file_bytes"], (model / "model.safetensors").stat().st_size)
        self.assertEqual(len(got["seconds"]), 2)
        for way in ("one_thread", "all_threads", "fresh_memory"):
            self.assertGreater(got["page_cache_read_gb_s"][way], 0)
        self.assertTrue(got["phases"])
        self.assertIn("page cache", self.bench("load", model, "-r", "1"))
        self.assertEqual(nibble.run("bench", "load", *DUMMY).code, 2)


class EvalPpl(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.model = nibble.text_model(self.folder)
        if self.model is None:
            self.skipTest("no golden tokenizer")
        self.text = self.folder / "text.txt"
        self.text.write_text("It was the best of times, it was the worst of times. " * 20)

    def evaluate(self, *args):
        answer = nibble.run("eval", "ppl", *self.model, "--text", self.text, "--json", *args)
        self.assertEqual(answer.code, 0, answer)
        return answer.json

    def test_figures_fit_together(self):
        got = self.evaluate()
        self.assertEqual(list(got), ["perplexity", "nll", "tokens", "bytes", "bits_per_byte"])
        ids = nibble.run("tokenize", self.model[0], stdin=json.dumps({"text": self.text.read_text()})).json["ids"]
        self.assertEqual(got["bytes"], self.text.stat().st_size)
        self.assertEqual(got["tokens"], len(ids) - 1)
        self.assertAlmostEqual(got["perplexity"], math.exp(got["nll"] / got["tokens"]), delta=1e-6 * got["perplexity"])
        self.assertAlmostEqual(got["bits_per_byte"], got["nll"] / math.log(2) / got["bytes"], places=9)
        self.assertEqual(self.evaluate("--bos")["tokens"], len(ids))

    def test_windows_score_every_token_once(self):
        whole = self.evaluate()
        overlapping = self.evaluate("--max-model-len", "64", "--stride", "16")
        self.assertEqual(overlapping["tokens"], whole["tokens"])
        self.assertNotEqual(overlapping["nll"], whole["nll"])

    def test_text_output(self):
        answer = nibble.run("eval", "ppl", *self.model, "--text", self.text)
        self.assertRegex(answer.out, r"^perplexity [0-9.]+ ")

    def test_mistakes(self):
        self.assertEqual(nibble.run("eval", "ppl", *self.model).code, 2)
        self.assertEqual(nibble.run("eval", "ppl", *self.model, "--text", nibble.NOTHING_HERE).code, 2)
        self.text.write_bytes(b"\xff\xff")
        self.assertEqual(nibble.run("eval", "ppl", *self.model, "--text", self.text).code, 2)
        self.text.write_bytes(b"")
        self.assertEqual(nibble.run("eval", "ppl", *self.model, "--text", self.text).code, 2)
        self.assertEqual(nibble.run("eval", "ppl", nibble.golden("v2-tiny"), "--text", self.text).code, 2)


if __name__ == "__main__":
    unittest.main()
