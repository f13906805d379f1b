"""The demo model against the figures transformers computed for it (models/demo/reference.json)."""

import json
import unittest

import nibble_process as nibble

REFERENCE = nibble.DEMO / "reference.json"


@unittest.skipUnless(REFERENCE.is_file(), "no demo model")
class Demo(unittest.TestCase):
    def setUp(self):
        self.reference = json.loads(REFERENCE.read_text())

    def test_greedy_continuations(self):
        # bf16 operands may flip a choice where the two best logits are close.
        isas, _ = nibble.supported_isas()
        for case in self.reference["greedy"]:
            with self.subTest(prompt=case["prompt"]):
                answer = nibble.run("run", nibble.DEMO, "-p", case["prompt"], "--raw", "--max-tokens",
                                    len(case["ids"]), "--ignore-eos", "--isa", isas[-1], "--json")
                self.assertEqual(answer.code, 0, answer)
                self.assertEqual(answer.json["token_ids"], case["ids"])
                self.assertEqual(answer.json["text"], case["text"])
                self.assertEqual(answer.json["prompt_tokens"], len(case["prompt_ids"]), "BOS and the text")

    @unittest.skipIf(nibble.SANITIZED, "minutes with sanitizers")
    def test_perplexity(self):
        want = self.reference["perplexity"]["window512_stride512"]
        answer = nibble.run("eval", "ppl", nibble.DEMO, "--text", nibble.DEMO / "valid.txt", "--json", timeout=900)
        self.assertEqual(answer.code, 0, answer)
        got = answer.json
        self.assertEqual(got["tokens"], want["tokens"])
        self.assertEqual(got["bytes"], (nibble.DEMO / "valid.txt").stat().st_size)
        self.assertAlmostEqual(got["perplexity"] / want["perplexity"], 1, delta=1e-3)
        self.assertAlmostEqual(got["bits_per_byte"] / want["bits_per_byte"], 1, delta=1e-3)

    @unittest.skipIf(nibble.SANITIZED, "minutes with sanitizers")
    def test_moe_backends(self):
        def perplexity(*args):
            answer = nibble.run("eval", "ppl", nibble.DEMO, "--text", nibble.DEMO / "valid.txt", "--tokens", 3000,
                                "--device", "cpu", "--scales", "plain", "--json", *args, timeout=900)
            self.assertEqual(answer.code, 0, answer)
            return answer.json["perplexity"]
        w4a16 = perplexity("--experts", "mxfp4", "--moe-backend", "w4a16")
        w4a8 = perplexity("--experts", "mxfp4", "--moe-backend", "w4a8")
        self.assertEqual(perplexity("--experts", "mxfp4"), w4a16)
        self.assertEqual(perplexity("--experts", "mxfp4_w4a8"), w4a8)
        self.assertEqual(perplexity("--experts", "mxfp4_w4a8", "--moe-backend", "w4a16"), w4a16)
        self.assertNotEqual(w4a8, w4a16)
        self.assertAlmostEqual(w4a8 / w4a16, 1, delta=5e-3)
        self.assertAlmostEqual(perplexity("--experts", "mxfp4", "--moe-backend", "reference") / w4a16, 1, delta=1e-3)
        self.assertEqual(perplexity("--moe-backend", "fp8"), perplexity("--experts", "fp8_w8a8"))

    def test_inspect_says_what_is_left_out(self):
        info = nibble.run("inspect", nibble.DEMO, "--json").json
        self.assertEqual(info["model_type"], "deepseek_v3")
        self.assertEqual(info["num_layers"], 8)
        self.assertTrue(any("multi-token prediction" in note for note in info["notes"]), info["notes"])
        self.assertGreater(len({t["file"] for t in info["tensors"]}), 1)

    def test_prompt_longer_than_the_context(self):
        answer = nibble.run("run", nibble.DEMO, "-p", "word " * 2000)
        self.assertEqual(answer.code, 2, answer)
        self.assertIn("512", answer.err)


if __name__ == "__main__":
    unittest.main()
