"""`nibble quantize`: every format decoded and encoded again by independent code, bit for bit; the same results as
quantising while loading; interrupted runs go on; what cannot be written is refused."""

import json
import math
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

import nibble_process as nibble
import quant_formats as formats

# 48 inputs of q_b_proj do not fill groups of 32: MXFP4 takes another model.
MODEL_OF = {"mxfp4": "v2lite-tiny", "nvfp4": "v2-tiny", "fp8": "v2-tiny", "int8": "v2-tiny", "int4": "v2-tiny"}
METHODS = {"mxfp4": ("compressed-tensors", "mxfp4-pack-quantized"), "nvfp4": ("modelopt", None), "fp8": ("fp8", None),
           "int8": ("compressed-tensors", "int-quantized"), "int4": ("compressed-tensors", "pack-quantized")}


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def quantize(self, source, name, *options, **run):
        """The directory `name`, quantised; the run must succeed."""
        answer = nibble.run("quantize", source, self.folder / name, *options, **run)
        self.assertEqual(answer.code, 0, answer)
        return self.folder / name

    def refused(self, code, words, source, destination, *options, **run):
        answer = nibble.run("quantize", source, destination, *options, **run)
        self.assertEqual(answer.code, code, answer)
        self.assertTrue(answer.err.startswith("error: "), answer)
        for word in words:
            self.assertIn(word, answer.err)
        return answer

    def logits(self, model, *options):
        ids = self.folder / "ids.json"
        ids.write_text("[1, 5, 9, 33, 2, 7, 60, 4]")
        out = self.folder / "logits.safetensors"
        answer = nibble.run("logits", model, "--tokens", ids, "--output", out, *options)
        self.assertEqual(answer.code, 0, answer)
        return nibble.read_safetensors(out)["logits"][2]


class Formats(Folder):
    def check_decoding(self, written):
        """nibble's values of every quantised layer are those of the format's definition."""
        plain = formats.File(self.quantize(written, "f32", "--format", "f32", "--other", "f32", "--overwrite"))
        file = formats.File(written)
        for module in file.modules()[0]:
            n, k, values = file.decode(module)
            dtype, shape, raw = plain.tensors[module + ".weight"]
            self.assertEqual((dtype, shape), ("F32", [n, k]), module)
            self.assertEqual(struct.pack(f"<{n * k}f", *values), raw, module)

    def check_encoding(self, written, source, encode):
        """Every quantised layer has the bytes that the documented rule gives."""
        file, original = formats.File(written), formats.File(source)
        quantized, plain = file.modules()
        self.assertTrue(all("proj" in m for m in quantized), quantized)
        for module in quantized:
            _, (n, k), _ = original.tensors[module + ".weight"]
            w = original.floats(module + ".weight")
            amax = max(map(abs, w + original.floats(formats.partner(module) + ".weight")))
            for suffix, raw in encode(w, n, k, amax=amax).items():
                self.assertEqual(file.tensors[module + suffix][2], raw, module + suffix)
        for module in plain:
            self.assertEqual(file.tensors[module + ".weight"], original.tensors[module + ".weight"], module)

    def check_format(self, name):
        source = nibble.golden(MODEL_OF[name])
        written = self.quantize(source, "plain", "--format", name, "--scales", "plain")
        self.check_encoding(written, source, formats.ENCODERS[name])
        self.check_decoding(written)
        claim = json.loads((written / "config.json").read_text())
        self.assertEqual(claim["quantization_config"]["quant_method"], METHODS[name][0])
        self.assertEqual(claim["quantization_config"].get("format"), METHODS[name][1])
        self.assertEqual((written / "hf_quant_config.json").is_file(), name == "nvfp4")
        del claim["quantization_config"]
        self.assertEqual(claim, json.loads((source / "config.json").read_text()))
        self.assertEqual((written / "generation_config.json").read_bytes(),
                         (source / "generation_config.json").read_bytes())

    def check_same_as_online(self, name):
        source = nibble.golden(MODEL_OF[name])
        written = self.quantize(source, "searched", "--format", name)
        self.assertEqual(self.logits(written), self.logits(source, "--quantization", name))
        report = json.loads((written / "quantization_report.json").read_text())
        plain = self.quantize(source, "coarse", "--format", name, "--scales", "plain")
        coarse = json.loads((plain / "quantization_report.json").read_text())
        self.assertGreater(report["num_quantized"], 0)
        self.assertLessEqual(report["relative_rms_error"], coarse["relative_rms_error"])
        self.check_report(formats.File(written), formats.File(source), report)

    def check_report(self, file, original, report):
        for row in report["tensors"]:
            if row["format"] == row["source_format"]:
                self.assertEqual(row["relative_rms_error"], 0)
                continue
            _, _, values = file.decode(row["name"])
            errors = [f - w for f, w in zip(values, original.floats(row["name"] + ".weight"))]
            squares = sum(w * w for w in original.floats(row["name"] + ".weight"))
            self.assertAlmostEqual(row["relative_rms_error"], math.sqrt(sum(e * e for e in errors) / squares), delta=1e-6)
            self.assertAlmostEqual(row["max_error"], max(map(abs, errors)), delta=1e-6)

    def test_mxfp4(self):
        self.check_format("mxfp4")

    def test_nvfp4(self):
        self.check_format("nvfp4")

    def test_fp8(self):
        self.check_format("fp8")

    def test_int8(self):
        self.check_format("int8")

    def test_int4(self):
        self.check_format("int4")

    def test_same_as_online(self):
        for name in MODEL_OF:
            with self.subTest(name):
                self.check_same_as_online(name)
                for folder in ("searched", "coarse"):
                    shutil.rmtree(self.folder / folder)

    def test_fp8_to_bf16(self):
        source = nibble.golden("v3-tiny-fp8")
        written = formats.File(self.quantize(source, "bf16", "--format", "bf16"))
        original = formats.File(source)
        self.assertNotIn("quantization_config", written.config)
        self.assertFalse([name for name in written.tensors if "scale" in name])
        for module in original.modules()[0]:
            n, k, values = original.decode(module)
            self.assertEqual(written.tensors[module + ".weight"],
                             ("BF16", [n, k], formats.encode_bf16(values, n, k)[".weight"]), module)

    def test_fp8_to_mxfp4(self):
        source = nibble.golden("v3-tiny-fp8")
        written = formats.File(self.quantize(source, "mxfp4", "--format", "mxfp4", "--scales", "plain"))
        original = formats.File(source)
        for module in written.modules()[0]:
            n, k, values = original.decode(module)
            for suffix, raw in formats.encode_mxfp4(values, n, k).items():
                self.assertEqual(written.tensors[module + suffix][2], raw, module + suffix)

    def test_formats_by_kind(self):
        """FP8 that stays, NVFP4 and MXFP4 beside each other: compressed-tensors' mixed precision."""
        source = nibble.golden("v3-tiny-fp8")
        options = ["--experts", "nvfp4", "--mlp", "mxfp4", "--exclude", "model.layers.0.mlp.down_proj"]
        written = self.quantize(source, "mixed", *options)
        self.check_decoding(written)
        claim = formats.File(written).config["quantization_config"]
        self.assertEqual(claim["format"], "mixed-precision")
        groups = {group["format"]: group["targets"] for group in claim["config_groups"].values()}
        self.assertEqual(groups["nvfp4-pack-quantized"], ["re:.*mlp\\.experts\\..*"])
        self.assertEqual(groups["float-quantized"], ["re:.*self_attn\\..*", "model.layers.0.mlp.down_proj"])
        self.assertIn("model.layers.0.mlp.up_proj", groups["mxfp4-pack-quantized"])
        # The layers that stay keep their codes and scales.
        file, original = formats.File(written), formats.File(source)
        for module in [m for m in original.modules()[0] if "self_attn" in m]:
            self.assertEqual(file.tensors[module + ".weight"], original.tensors[module + ".weight"])
            self.assertEqual(file.tensors[module + ".weight_scale"], original.tensors[module + ".weight_scale_inv"])

    def test_embedding_and_head(self):
        source = nibble.golden("v2lite-tiny")
        written = self.quantize(source, "all", "--format", "int8", "--other", "fp8")
        file = formats.File(written)
        self.assertEqual(file.tensors["lm_head.weight"][0], "F8_E4M3")
        self.assertEqual(file.tensors["model.embed_tokens.weight"][0], "F8_E4M3")
        routers = [name for name in file.tensors if name.endswith(".mlp.gate.weight")]
        self.assertTrue(routers)
        for name in routers:
            self.assertEqual(file.tensors[name][0], "BF16")
        self.check_decoding(written)

    def test_multi_token_prediction_layer(self):
        """FP8 layers past the last one are kept by FP8 and dequantised by everything else."""
        source = self.folder / "source"
        shutil.copytree(nibble.golden("v3-tiny-fp8"), source)
        original = formats.File(source)
        extra = {name.replace("layers.0", "layers.2"): tensor for name, tensor in original.tensors.items()
                 if name.startswith("model.layers.0.mlp.up_proj")}
        self.assertEqual(len(extra), 2)
        write_safetensors(source / "model.safetensors", {**original.tensors, **extra})
        module = "model.layers.2.mlp.up_proj"
        kept = formats.File(self.quantize(source, "fp8", "--format", "fp8"))
        self.assertEqual({name: kept.tensors[name] for name in extra}, extra)
        written = formats.File(self.quantize(source, "nvfp4", "--format", "nvfp4"))
        n, k, values = original.decode("model.layers.0.mlp.up_proj")
        self.assertEqual(written.tensors[module + ".weight"],
                         ("BF16", [n, k], formats.encode_bf16(values, n, k)[".weight"]))
        self.assertNotIn(module + ".weight_scale_inv", written.tensors)
        self.assertIn("model.layers.2.*", written.config["quantization_config"]["ignore"])
        self.assertEqual(nibble.run("inspect", self.folder / "nvfp4").code, 0)

    def test_public_readers(self):
        """The same through the libraries that others read such files with, where they are installed."""
        try:
            import ml_dtypes
            import numpy
            from safetensors import safe_open
        except ImportError:
            self.skipTest("needs numpy, ml_dtypes and safetensors")
        # safetensors looks for these in numpy itself.
        numpy.float8_e4m3fn = ml_dtypes.float8_e4m3fn
        numpy.bfloat16 = ml_dtypes.bfloat16

        def fp4(packed):
            nibbles = numpy.stack([packed & 15, packed >> 4], axis=-1).reshape(packed.shape[0], -1)
            return nibbles.view(ml_dtypes.float4_e2m1fn).astype(numpy.float32)

        def each(scales, n, group):
            """A scale for every weight of groups of this many columns."""
            return numpy.repeat(scales.astype(numpy.float32), group, axis=1)[:, :n]

        def decode_mxfp4(get):
            scales = get("weight_scale").view(ml_dtypes.float8_e8m0fnu)
            return fp4(get("weight_packed")) * each(scales, None, 32)

        def decode_nvfp4(get):
            return fp4(get("weight")) * each(get("weight_scale"), None, 16) * get("weight_scale_2")

        def decode_fp8(get):
            codes = get("weight")
            scales = numpy.repeat(get("weight_scale_inv"), 128, axis=0)[:codes.shape[0]]
            return codes.astype(numpy.float32) * each(scales, codes.shape[1], 128)

        def decode_int8(get):
            return get("weight").astype(numpy.float32) * get("weight_scale").astype(numpy.float32)

        def decode_int4(get):
            n, k = get("weight_shape")
            shifts = numpy.arange(0, 32, 4, dtype=numpy.uint32)
            words = get("weight_packed").view(numpy.uint32)
            codes = (words[:, :, None] >> shifts & 15).reshape(n, -1)[:, :k].astype(numpy.float32) - 8
            return codes * each(get("weight_scale"), k, 128)

        decoders = {"mxfp4": decode_mxfp4, "nvfp4": decode_nvfp4, "fp8": decode_fp8, "int8": decode_int8,
                    "int4": decode_int4}
        for name, decode in decoders.items():
            written = self.quantize(nibble.golden("v2lite-tiny"), name, "--format", name)
            plain = formats.File(self.quantize(written, "f32", "--format", "f32", "--overwrite"))
            with safe_open(written / "model.safetensors", framework="numpy") as file:
                modules = formats.File(written).modules()[0]
                self.assertTrue(modules)
                for module in modules:
                    values = decode(lambda suffix, m=module: file.get_tensor(f"{m}.{suffix}"))
                    self.assertEqual(values.astype(numpy.float32).tobytes(), plain.tensors[module + ".weight"][2], module)


class Gptq(Folder):
    """The demo model by a small text of the kind it was trained on."""
    OPTIONS = ["--format", "gptq", "--calibration", nibble.SOURCE / "tests" / "data" / "calibration.txt"]
    MODULES = ["model.layers.0.self_attn.kv_a_proj_with_mqa", "model.layers.1.mlp.experts.3.down_proj",
               "model.layers.1.mlp.shared_experts.up_proj", "model.layers.7.self_attn.q_b_proj"]

    def check_decoding(self, written):
        """Values of some layers, by the definition of the format, are those nibble reads."""
        plain = formats.File(self.quantize(written, "f32", "--format", "f32", "--overwrite"))
        file = formats.File(written)
        self.assertEqual(len(file.gptq_modules()), 400)
        for module in self.MODULES:
            n, k, values = file.decode_gptq(module)
            self.assertEqual(plain.tensors[module + ".weight"],
                             ("F32", [n, k], struct.pack(f"<{n * k}f", *values)), module)

    def kld(self, model, *options):
        answer = nibble.run("eval", "kld", model, "--reference", nibble.DEMO, "--text", nibble.DEMO / "valid.txt",
                            "--tokens", "4096", "--json", *options)
        self.assertEqual(answer.code, 0, answer)
        return answer.json["kld"]["mean"]

    def test_better_than_rounding_to_nearest(self):
        written = self.quantize(nibble.DEMO, "gptq", *self.OPTIONS, "--calibration-tokens", "8192")
        claim = formats.File(written).config["quantization_config"]
        self.assertEqual([claim[key] for key in ("quant_method", "bits", "group_size", "desc_act", "sym",
                                                 "checkpoint_format")], ["gptq", 4, 128, False, True, "gptq"])
        self.check_decoding(written)
        report = json.loads((written / "quantization_report.json").read_text())
        self.assertEqual(report["gptq"]["calibration_tokens"], 8192)
        experts = [row for row in report["tensors"] if ".experts." in row["name"] and row["format"] == "int4"]
        self.assertEqual(len(experts), 7 * 16 * 3)
        self.assertTrue(all(0 < row["calibration_tokens"] < 8192 for row in experts))
        self.assertLess(self.kld(written), 0.8 * self.kld(nibble.DEMO, "--quantization", "int4"))

    def test_eight_bits_act_order_zero_points(self):
        written = self.quantize(nibble.DEMO, "gptq8", *self.OPTIONS, "--calibration-tokens", "512", "--bits", "8",
                                "--act-order", "--zero-points", "--group-size", "32")
        claim = formats.File(written).config["quantization_config"]
        self.assertEqual([claim[key] for key in ("bits", "group_size", "desc_act", "sym")], [8, 32, True, False])
        self.check_decoding(written)
        self.assertEqual(nibble.run("inspect", written).code, 0)

    def test_refusals(self):
        out = self.folder / "out"
        self.refused(2, ["--calibration"], nibble.DEMO, out, "--format", "gptq")
        self.refused(2, ["--format gptq only"], nibble.DEMO, out, *self.OPTIONS, "--format", "mxfp4")
        self.refused(3, ["other", "gptq"], nibble.DEMO, out, *self.OPTIONS, "--other", "gptq")
        self.refused(2, ["groups of 40"], nibble.DEMO, out, *self.OPTIONS, "--group-size", "40")
        empty = self.folder / "empty.txt"
        empty.write_text("")
        self.refused(2, ["empty.txt"], nibble.DEMO, out, "--format", "gptq", "--calibration", empty)
        self.assertFalse(out.exists())


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Resume(Folder):
    OPTIONS = ["--format", "mxfp4", "--max-shard-size", "1", "--threads", "1"]

    def contents(self, folder):
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def interrupt(self, folder, signal_number):
        """Starts a run and ends it after its first shard; its exit code."""
        child = subprocess.Popen([nibble.BINARY, "quantize", nibble.DEMO, folder, *self.OPTIONS],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=nibble.environment())
        while child.poll() is None and not (folder / "quantize_state.json").exists():
            time.sleep(0.0005)
        child.send_signal(signal_number)
        self.error = child.communicate()[1].decode()
        return child.returncode

    def check_resumed(self, folder, whole):
        answer = nibble.run("quantize", nibble.DEMO, folder, *self.OPTIONS, "--json")
        self.assertEqual(answer.code, 0, answer)
        self.assertGreaterEqual(answer.json["resumed_shards"], 1)
        self.assertEqual(self.contents(folder), whole)

    def test_interrupted_and_killed_runs_go_on(self):
        whole = self.contents(self.quantize(nibble.DEMO, "whole", *self.OPTIONS))
        self.assertGreaterEqual(len([name for name in whole if name.endswith(".safetensors")]), 10)
        self.assertEqual(self.interrupt(self.folder / "stopped", signal.SIGINT), 130, self.error)
        self.assertIn("goes on", self.error)
        left = self.contents(self.folder / "stopped")
        self.assertFalse([name for name in left if name.endswith(".partial")])
        self.assertNotIn("config.json", left)
        # Other options are refused, and so is a changed source.
        self.refused(2, ["--overwrite", "plain"], nibble.DEMO, self.folder / "stopped", *self.OPTIONS, "--scales", "plain")
        self.check_resumed(self.folder / "stopped", whole)
        self.assertEqual(self.interrupt(self.folder / "killed", signal.SIGKILL), -signal.SIGKILL)
        self.check_resumed(self.folder / "killed", whole)

    def test_lost_and_damaged_shards_are_written_again(self):
        whole = self.contents(self.quantize(nibble.DEMO, "whole", *self.OPTIONS))
        self.interrupt(self.folder / "part", signal.SIGKILL)
        shard = min((self.folder / "part").glob("*.safetensors"))
        os.truncate(shard, shard.stat().st_size - 1)
        self.quantize(nibble.DEMO, "part", *self.OPTIONS)
        self.assertEqual(self.contents(self.folder / "part"), whole)

    def test_source_that_changed(self):
        source = self.folder / "source"
        shutil.copytree(nibble.DEMO, source)
        state = self.folder / "out" / "quantize_state.json"
        child = subprocess.Popen([nibble.BINARY, "quantize", source, state.parent, *self.OPTIONS],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=nibble.environment())
        while child.poll() is None and not state.exists():
            time.sleep(0.0005)
        child.kill()
        child.wait()
        os.utime(source / "model-00001-of-000002.safetensors", (1, 1))
        self.refused(2, ["source", "--overwrite"], source, state.parent, *self.OPTIONS)
        self.quantize(source, "out", *self.OPTIONS, "--overwrite")

    def test_state_that_is_none(self):
        out = self.folder / "out"
        out.mkdir()
        (out / "quantize_state.json").write_text("{}")
        self.refused(2, ["quantize_state.json"], nibble.DEMO, out, *self.OPTIONS)

    def test_shards_with_an_index(self):
        folder = self.quantize(nibble.DEMO, "out", *self.OPTIONS)
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        self.assertEqual(sorted(index["weight_map"]), sorted(formats.File(folder).tensors))
        self.assertEqual(nibble.run("inspect", folder).code, 0)


class Refusals(Folder):
    def setUp(self):
        super().setUp()
        self.source = nibble.golden("v2-tiny")
        self.out = self.folder / "out"

    def test_formats(self):
        cases = [
            (["--format", "int7"], 3, ["int7", "mxfp4"]),
            (["--format", "fp8_w8a8"], 3, ["activations", "--quantization fp8_w8a8"]),
            (["--format", "mxfp4"], 3, ["kv_b_proj", "48", "32"]),
            ([], 2, ["--format"]),
        ]
        for options, code, words in cases:
            with self.subTest(options):
                self.refused(code, words, self.source, self.out, *options)
                self.assertFalse(self.out.exists())

    def test_half_of_the_experts(self):
        self.refused(3, ["experts"], nibble.golden("v2lite-tiny"), self.out, "--format", "int8", "--exclude",
                     "*.experts.0.*")
        self.assertFalse(self.out.exists())

    def test_destinations(self):
        source = self.folder / "source"
        shutil.copytree(self.source, source)
        self.refused(2, ["the source itself"], source, source, "--format", "fp8")
        self.refused(2, ["inside the source"], source, source / "out", "--format", "fp8")
        (self.folder / "link").symlink_to(source)
        self.refused(2, ["the source itself"], source, self.folder / "link", "--format", "fp8")
        self.out.mkdir()
        (self.out / "notes.txt").write_text("mine")
        self.refused(2, ["not empty", "notes.txt", "--overwrite"], source, self.out, "--format", "fp8")
        self.quantize(source, "out", "--format", "fp8", "--overwrite")
        self.assertEqual((self.out / "notes.txt").read_text(), "mine")
        # A finished checkpoint is not quietly replaced, but may be on request.
        self.refused(2, ["--overwrite"], source, self.out, "--format", "nvfp4")
        self.quantize(source, "out", "--format", "nvfp4", "--overwrite")
        self.quantize(source, "out", "--format", "int8", "--overwrite")
        self.assertFalse((self.out / "hf_quant_config.json").exists())

    def test_weights_that_are_not_finite(self):
        source = self.folder / "source"
        shutil.copytree(self.source, source)
        tensors = formats.File(source).tensors
        name = "model.layers.0.self_attn.o_proj.weight"
        dtype, shape, raw = tensors[name]
        tensors[name] = (dtype, shape, raw[:200] + b"\xc0\x7f" + raw[202:])
        write_safetensors(source / "model.safetensors", tensors)
        for target in ("nvfp4", "fp8", "int4"):
            self.refused(2, [name, "nan"], source, self.out, "--format", target)
            self.assertEqual(list(self.out.iterdir()), [])

    def test_malformed_sources(self):
        """As when loading them: also where the bytes would only be copied."""
        cases = [("fp8_scale_nan", "fp8"), ("value_nan_in_norm", "bf16"), ("value_inf_in_expert", "bf16"),
                 ("gptq_g_idx_out_of_range", "bf16"), ("gptq_scales_inf", "fp8")]
        malformed = nibble.SOURCE / "tests" / "data" / "malformed"
        expected = json.loads((malformed / "expected.json").read_text())
        for name, target in cases:
            with self.subTest(name, target=target):
                self.refused(2, expected[name]["mentions"], malformed / name, self.folder / f"{name}-{target}", "--format", target)

    @unittest.skipUnless(nibble.golden("v3-tiny-gptq-asym-actorder"), "needs the wider golden set")
    def test_channel_order_is_checked_before_anything_is_read_by_it(self):
        """gate_proj needs the largest weight of up_proj, too."""
        source = self.folder / "source"
        shutil.copytree(nibble.golden("v3-tiny-gptq-asym-actorder"), source)
        tensors = formats.File(source).tensors
        name = "model.layers.0.mlp.up_proj.g_idx"
        dtype, shape, raw = tensors[name]
        tensors[name] = (dtype, shape, struct.pack("<i", 1 << 30) + raw[4:])
        write_safetensors(source / "model.safetensors", tensors)
        self.refused(2, ["up_proj", "g_idx[0]"], source, self.out, "--format", "nvfp4")
        answer = nibble.run("run", source, "--prompt-tokens", "1", "--quantization", "nvfp4")
        self.assertEqual(answer.code, 2, answer)
        self.assertIn("g_idx[0]", answer.err)

    def test_no_room(self):
        """A file size limit stands for a full disk."""
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        child = subprocess.run([nibble.BINARY, "quantize", str(self.source), str(self.out), "--format", "fp8"],
                               capture_output=True, env=nibble.environment(), preexec_fn=limit, timeout=60)
        error = child.stderr.decode()
        self.assertEqual(child.returncode, 1, error)
        self.assertIn("model.safetensors", error)
        self.assertIn("File too large", error)
        self.assertEqual(list(self.out.iterdir()), [])

    @unittest.skipIf(os.geteuid() == 0, "root may write everywhere")
    def test_unwritable(self):
        self.folder.chmod(0o500)
        self.addCleanup(self.folder.chmod, 0o700)
        self.refused(2, ["Permission denied"], self.source, self.out, "--format", "fp8")


if __name__ == "__main__":
    unittest.main()
