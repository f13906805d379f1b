"""nibble on a GPU against the reference logits and against the CPU. Skipped, with a message, without a GPU."""

import json
import pathlib
import statistics
import sys
import tempfile
import unittest

import modules_test
import nibble_process as nibble

SKIPPED = 77  # CTest's SKIP_RETURN_CODE
FAMILIES = ("v2", "v3-")  # golden directories that can be run; v32 and v4 are refused
FEEDS = {
    "one chunk": [],
    "chunks of 7": ["--prefill-chunk", "7"],
    "decoded from 5": ["--decode-from", "5"],
    "batched, chunks of 7, decoded from 40": ["--batch-with", "OTHER", "--prefill-chunk", "7", "--decode-from", "40"],
}
SCHEMES = ("bf16", "fp8", "mxfp4", "nvfp4", "int8", "int4")


def golden_models():
    """Every golden directory of the families, by name, from all roots."""
    found = {}
    for root in nibble.golden_roots():
        for folder in sorted(root.iterdir()):
            if folder.name.startswith(FAMILIES) and (folder / "golden.safetensors").is_file():
                found.setdefault(folder.name, folder)
    return found


class OnGpu(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def compute(self, model, want, row, options):
        files = []
        for r in (row, 1 - row):
            file = self.folder / f"ids{r}.json"
            file.write_text(json.dumps(want["ids"][r]))
            files.append(file)
        options = [files[1] if o == "OTHER" else o for o in options]
        output = self.folder / "out.safetensors"
        answer = nibble.run("logits", model, "--tokens", files[0], "--output", output, "--device", "cuda", *options)
        self.assertEqual(answer.code, 0, answer)
        return nibble.read_safetensors(output)["logits"][2]

    def test_golden_logits(self):
        for name, model in golden_models().items():
            want = nibble.golden_reference(model)
            _, median_limit, share_limit = nibble.tolerances(model)
            for mla in ("naive", "absorb"):
                for feed, options in FEEDS.items():
                    with self.subTest(model=name, mla=mla, feed=feed):
                        errors = []
                        for row in (0, 1):
                            got = self.compute(model, want, row, ["--mla", mla, *options])
                            errors += nibble.position_errors(got, want["logits"][row], want["vocab"])
                        self.assertLessEqual(statistics.median(errors), median_limit)
                        self.assertLessEqual(sum(e > 0.1 for e in errors) / len(errors), share_limit)

    def perplexity(self, device, *options):
        answer = nibble.run("eval", "ppl", nibble.DEMO, "--text", nibble.DEMO / "valid.txt", "--tokens", 8192, "--device",
                            device, "--json", *options, timeout=600)
        self.assertEqual(answer.code, 0, answer)
        return answer.json["perplexity"]

    def test_perplexity_is_the_cpus(self):
        for scheme in SCHEMES:
            with self.subTest(scheme=scheme):
                cpu = self.perplexity("cpu", "--quantization", scheme)
                self.assertLess(abs(self.perplexity("cuda", "--quantization", scheme) / cpu - 1), 1e-3)

    def test_fp8_cache(self):
        for dtype in ("bf16", "fp8_e4m3", "fp8_e5m2"):
            with self.subTest(dtype=dtype):
                cpu = self.perplexity("cpu", "--kv-cache-dtype", dtype)
                self.assertLess(abs(self.perplexity("cuda", "--kv-cache-dtype", dtype) / cpu - 1), 1e-3)

    def test_greedy_text_is_the_cpus(self):
        for scheme in ("bf16", "mxfp4"):
            for prompt in ("The old house stood at the end of the lane, and", "Once upon a time"):
                with self.subTest(scheme=scheme, prompt=prompt):
                    texts = [nibble.run("run", nibble.DEMO, "-p", prompt, "--raw", "--max-tokens", 48, "--temperature", 0,
                                        "--quantization", scheme, "--device", device, "--json").json["text"]
                             for device in ("cpu", "cuda")]
                    self.assertEqual(texts[0], texts[1])

    def test_doctor_names_the_gpu(self):
        self.assertTrue(json.loads(nibble.run("doctor", "--json").out)["cuda_devices"])

    def test_a_model_that_is_too_large_is_refused(self):
        config = nibble.SOURCE / "bench" / "configs" / "deepseek-v3.json"
        answer = nibble.run("run", "--load-format", "dummy", "--config", config, "--device", "cuda", "--prompt-tokens",
                            "1", "--quantization", "bf16")
        self.assertEqual(answer.code, 4, answer)


class ModulesOnGpu(modules_test.ModuleBench):
    device = "cuda"


if __name__ == "__main__":
    doctor = nibble.run("doctor", "--json")
    if not json.loads(doctor.out)["cuda_devices"]:
        print("skipped: no Hopper GPU:", json.loads(doctor.out).get("cuda_status", ""))
        sys.exit(SKIPPED)
    unittest.main()
