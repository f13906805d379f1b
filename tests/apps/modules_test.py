"""`nibble bench linear`, `nibble bench moe` and `nibble bench mla` on small layers: results that must fit together, errors, Ctrl-C."""

import json
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

import nibble_process as nibble

SMALL_MOE = ["--hidden", "128", "--intermediate", "64", "--experts", "8", "--topk", "2", "-r", "2"]
SMALL_MLA = {
    "hidden_size": 192, "num_attention_heads": 4, "q_lora_rank": 128, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16, "v_head_dim": 32, "rope_theta": 10000,
    "rope_scaling": {"factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 256},
}


class ModuleBench(unittest.TestCase):
    device = "cpu"

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.config = self.write("config.json", json.dumps(SMALL_MLA))

    def write(self, name, text):
        file = self.folder / name
        file.write_text(text)
        return file

    def bench(self, kind, *args):
        answer = nibble.run("bench", kind, *args, "--device", self.device, timeout=300)
        self.assertEqual(answer.code, 0, answer)
        return answer

    def check_row(self, row, bound):
        self.assertGreater(row["median_s"], 0)
        self.assertGreater(row["floor_s"], 0)
        self.assertAlmostEqual(row["times_floor"], row["median_s"] / row["floor_s"], delta=row["times_floor"] * 1e-9)
        self.assertAlmostEqual(row["gb_s"], row["bytes"] / row["median_s"] / 1e9, delta=row["gb_s"] * 1e-9)
        self.assertIn(row["floor_by"], ("bytes", "compute"))
        self.assertLessEqual(row["error"], bound)
        self.assertGreater(row["error"], 0)

    def test_moe_json(self):
        for options in (["--scheme", "mxfp4"], ["--scheme", "bf16", "--gate"], ["--scheme", "fp8", "--layers", "3"]):
            with self.subTest(options=options):
                got = self.bench("moe", *SMALL_MOE, "--tokens", "1,5,70", "--json", *options).json
                for key in ("commit", "flags", "device", "threads", "limits"):
                    self.assertIn(key, got)
                self.assertEqual((got["hidden"], got["intermediate"], got["experts"], got["topk"]), (128, 64, 8, 2))
                self.assertEqual([row["tokens"] for row in got["results"]], [1, 5, 70])
                for row in got["results"]:
                    self.check_row(row, got["error_bound"])
                    self.assertEqual(row["flops"], 6 * row["tokens"] * 2 * 128 * 64)
                self.assertEqual(got["results"][0]["experts_hit"], 2)
                self.assertLessEqual(got["results"][2]["experts_hit"], 8)
                if "--gate" not in options:  # a gate may leave experts out
                    self.assertGreater(got["results"][2]["experts_hit"], 7.9)

    def test_moe_bytes_are_those_of_the_experts_hit(self):
        (row,) = self.bench("moe", *SMALL_MOE, "--tokens", "1", "--scheme", "mxfp4", "--json").json["results"]
        weights = 3 * 128 * 64
        self.assertGreaterEqual(row["bytes"], 2 * weights * (0.5 + 1 / 32))
        self.assertLessEqual(row["bytes"], 2 * weights * 0.8)

    def test_moe_table_and_config(self):
        config = self.write("moe.json", json.dumps({"hidden_size": 64, "moe_intermediate_size": 32, "n_routed_experts": 4,
                                                    "num_experts_per_tok": 1}))
        out = self.bench("moe", "--config", config, "--tokens", "2", "-r", "1").out
        self.assertIn("4 experts of 64 x 32, top 1, mxfp4", out)
        self.assertRegex(out, r"\| tokens \| experts hit \|")
        self.assertRegex(out, r"\|\s+2 \|\s+[12]\.[0-9] \|")

    def test_moe_errors(self):
        for args, code, words in ((["--scheme", "w3"], 3, "w3"), (["--topk", "9"], 2, "experts_per_token is 9"),
                                  (["--hidden", "100"], 2, "100 inputs"), (["--tokens", "0"], 2, "--tokens"),
                                  (["--config", "/no/such.json"], 2, "/no/such.json")):
            with self.subTest(args=args):
                answer = nibble.run("bench", "moe", *SMALL_MOE, "--device", self.device, *args)
                self.assertEqual(answer.code, code, answer)
                self.assertIn(words, answer.err)

    def test_linear_json(self):
        for scheme in ("mxfp4", "bf16", "fp8_w8a8"):
            with self.subTest(scheme=scheme):
                got = self.bench("linear", "--shapes", "96x128,2x64x256", "--scheme", scheme, "--tokens", "1,9,70", "-r", "1",
                                 "--json").json
                for key in ("commit", "flags", "device", "threads", "limits"):
                    self.assertIn(key, got)
                rows = got["results"]
                self.assertEqual([(r["out_features"], r["in_features"], r["gated"], r["tokens"]) for r in rows],
                                 [(n, k, g, m) for n, k, g in ((96, 128, False), (64, 256, True)) for m in (1, 9, 70)])
                for row in rows:
                    self.check_row(row, got["error_bound"])
                    matrices = 2 if row["gated"] else 1
                    weights = matrices * row["out_features"] * row["in_features"]
                    self.assertEqual(row["flops"], 2 * row["tokens"] * weights)
                    self.assertGreaterEqual(row["bytes"], weights * (2 if scheme == "bf16" else 0.53))

    def test_linear_table_and_config(self):
        v2 = {k: v for k, v in SMALL_MLA.items() if k != "q_lora_rank"}
        more = {"intermediate_size": 96, "n_shared_experts": 2, "moe_intermediate_size": 32}
        for config, first in (({**SMALL_MLA, **more}, r"\| q_a, kv_a +\| +208 x 192 \|"), ({**v2, **more}, r"\| q, kv_a +\| +272 x 192 \|")):
            out = self.bench("linear", "--config", self.write("linear.json", json.dumps(config)), "--tokens", "3", "-r", "1").out
            self.assertRegex(out, first)
            self.assertRegex(out, r"\| o_proj +\| +192 x 128 \|")
            self.assertRegex(out, r"\| gate, up +\| +2 x 96 x 192 \|")
            self.assertRegex(out, r"\| shared gate, up +\| +2 x 64 x 192 \|")
            self.assertRegex(out, r"\| shared down +\| +192 x 64 \|")

    def test_linear_errors(self):
        for args, code, words in ((["--scheme", "w3"], 3, "w3"), (["--shapes", "64"], 2, "64 is not OUTxIN"),
                                  (["--shapes", "3x64x64"], 2, "3x64x64"), (["--shapes", "0x64"], 2, "0x64"),
                                  (["--shapes", "64x100"], 2, "100 inputs"), (["--shapes", ","], 2, "--shapes"),
                                  (["--shapes", "64x64", "--config", self.config], 2, "not both"), (["--tokens", "0"], 2, "--tokens"),
                                  (["--config", self.config], 2, "intermediate_size"), (["--config", "/no/such.json"], 2, "/no/such.json")):
            with self.subTest(args=args):
                answer = nibble.run("bench", "linear", "--device", self.device, *args)
                self.assertEqual(answer.code, code, answer)
                self.assertIn(words, answer.err)

    def test_attention_json(self):
        got = self.bench("mla", "--config", self.config, "--lengths", "65,200", "--batch", "1,3", "--heads", "4,16",
                         "--kv-cache-dtype", "bf16,fp8", "-r", "1", "--json").json
        rows = got["results"]
        self.assertEqual(len(rows), 16)
        self.assertEqual({(r["length"], r["batch"], r["heads"], r["cache_dtype"]) for r in rows},
                         {(s, b, h, c) for s in (65, 200) for b in (1, 3) for h in (4, 16) for c in ("bf16", "fp8")})
        for row in rows:
            self.check_row(row, row["error_bound"])
            if row["cache_dtype"] == "bf16":
                self.assertEqual(row["bytes"], row["length"] * row["batch"] * (64 + 16) * 2)
            self.assertEqual(row["flops"], 2 * row["length"] * row["batch"] * row["heads"] * (2 * 64 + 16))

    def test_challenge_json(self):
        got = self.bench("mla", "--challenge", "--config", self.config, "--rounds", "3", "-r", "1", "--schemes",
                         "bf16,mxfp4", "--json").json
        self.assertEqual([r["scheme"] for r in got["results"]], ["bf16", "mxfp4"])
        for result in got["results"]:
            self.assertLessEqual(result["error"], result["error_bound"])
            self.assertEqual([t["what"] for t in result["timings"]],
                             ["decode, in turn", "decode, one batch", "prefill, in turn", "prefill, one batch"])
            for timing, tokens in zip(result["timings"], (16, 16, 704, 704)):
                self.assertAlmostEqual(timing["tok_s"], tokens / timing["ms"] * 1e3, delta=timing["tok_s"] * 1e-6)
            in_turn, in_batch = (t["bytes"] for t in result["timings"][:2])
            self.assertGreater(in_turn, in_batch)
        bf16, mxfp4 = (r["weight_bytes"] for r in got["results"])
        self.assertGreater(bf16, 3 * mxfp4)

    def test_challenge_table(self):
        out = self.bench("mla", "--challenge", "--config", self.config, "--rounds", "1", "-r", "1", "--scheme", "fp8",
                         "--mla", "absorb").out
        self.assertRegex(out, r"\| fp8 +\| decode, one batch +\|")

    def test_mla_errors(self):
        broken = self.write("broken.json", json.dumps({**SMALL_MLA, "kv_lora_rank": -4}))
        missing = self.write("missing.json", json.dumps({k: v for k, v in SMALL_MLA.items() if k != "v_head_dim"}))
        text = self.write("text.json", "{")
        for args, code, words in ((["--config", broken], 2, "kv_lora_rank"), (["--config", missing], 2, "v_head_dim"),
                                  (["--config", text], 2, "not valid JSON"), (["--challenge", "--schemes", ","], 2, "--schemes"),
                                  (["--challenge", "--schemes", "w3"], 3, "w3"), (["--kv-cache-dtype", "int1"], 2, "int1"),
                                  (["--lengths", "0"], 2, "--lengths"), (["--batch", "5000"], 2, "--batch")):
            with self.subTest(args=args):
                answer = nibble.run("bench", "mla", "--device", self.device, *args)
                self.assertEqual(answer.code, code, answer)
                self.assertIn(words, answer.err)

    def test_help_has_examples(self):
        for kind in ("linear", "moe", "mla"):
            answer = nibble.run("bench", kind, "--help")
            self.assertEqual(answer.code, 0, answer)
            self.assertIn(f"nibble bench {kind} --", answer.out)

    def test_interrupt(self):
        child = subprocess.Popen([nibble.BINARY, "bench", "moe", *SMALL_MOE, "--tokens", "1", "-r", "10000", "--device",
                                  self.device, "--progress", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 env=nibble.environment())
        self.assertIn(b"bench moe", child.stderr.readline())  # the first batch size has begun
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=60)
        self.assertEqual((child.returncode, out), (130, b""))


if __name__ == "__main__":
    unittest.main()
