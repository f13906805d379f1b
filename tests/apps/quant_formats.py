"""The number formats of quantised checkpoints, written from their published definitions.

Independent of nibble's code: plain Python, exact arithmetic through double (a quotient or product of two float32
numbers, rounded from double to float32, is the correctly rounded float32 one).
"""

import bisect
import json
import math
import pathlib
import struct

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
E4M3 = [(c & 7) * 2.0 ** -9 if c < 8 else (1 + (c & 7) / 8) * 2.0 ** ((c >> 3) - 7) for c in range(127)]
FLOAT_CODES = {"F32": "f", "BF16": "H", "F16": "e"}


def f32(x):
    """The nearest float32."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def bf16_bits(x):
    """Round to nearest even."""
    (bits,) = struct.unpack("<I", struct.pack("<f", x))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def bf16_value(bits):
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


def e4m3_value(code):
    return math.copysign(E4M3[code & 0x7F], -1.0 if code & 0x80 else 1.0)


def e2m1_value(code):
    return math.copysign(E2M1[code & 7], -1.0 if code & 8 else 1.0)


class Nearest:
    """Codes of a table of magnitudes: nearest, ties to the even code, saturated; the sign bit above them."""

    def __init__(self, values, sign_bit):
        self.midpoints = [(a + b) / 2 for a, b in zip(values, values[1:])]
        self.sign_bit = sign_bit

    def __call__(self, x):
        magnitude = abs(x)
        code = bisect.bisect_left(self.midpoints, magnitude)
        if code < len(self.midpoints) and magnitude == self.midpoints[code] and code % 2 == 1:
            code += 1
        return code | (self.sign_bit if math.copysign(1.0, x) < 0 else 0)


e2m1_code = Nearest(E2M1, 8)
e4m3_code = Nearest(E4M3, 0x80)


class File:
    """A checkpoint directory: raw tensors by name, whatever shard they are in."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.config = json.loads((self.folder / "config.json").read_text())
        self.tensors = {}
        for path in sorted(self.folder.glob("model*.safetensors")):
            data = path.read_bytes()
            (size,) = struct.unpack_from("<Q", data)
            header = json.loads(data[8:8 + size])
            header.pop("__metadata__", None)
            for name, entry in header.items():
                begin, end = entry["data_offsets"]
                assert name not in self.tensors, name
                self.tensors[name] = (entry["dtype"], entry["shape"], data[8 + size + begin:8 + size + end])

    def floats(self, name):
        """Values of a plain or scale tensor."""
        dtype, shape, raw = self.tensors[name]
        if dtype == "F8_E4M3":
            return [e4m3_value(code) for code in raw]
        values = struct.unpack(f"<{math.prod(shape)}{FLOAT_CODES[dtype]}", raw)
        return [bf16_value(bits) for bits in values] if dtype == "BF16" else list(values)

    def gptq_modules(self):
        return sorted(n.rsplit(".", 1)[0] for n in self.tensors if n.endswith(".qweight"))

    def decode_gptq(self, module):
        """(n, k, float32 values): (q - (stored zero + 1)) * scale of the input's group; codes along k, zeros along n."""
        bits = self.config["quantization_config"]["bits"]
        fields, mask = 32 // bits, (1 << bits) - 1

        def words(suffix):
            dtype, shape, raw = self.tensors[module + suffix]
            assert dtype == "I32", dtype
            return shape, struct.unpack(f"<{len(raw) // 4}I", raw)
        (rows, n), codes = words(".qweight")
        (groups, columns), zeros = words(".qzeros")
        (k,), g_idx = words(".g_idx")
        assert k == rows * fields and n == columns * fields
        assert self.tensors[module + ".scales"][:2] == ("F16", [groups, n])
        scales = self.floats(module + ".scales")
        values = []
        for row in range(n):
            for i in range(k):
                q = codes[i // fields * n + row] >> bits * (i % fields) & mask
                zero = (zeros[g_idx[i] * columns + row // fields] >> bits * (row % fields)) + 1 & mask
                values.append(f32((q - zero) * scales[g_idx[i] * n + row]))
        return n, k, values

    def modules(self):
        """Names of the layers that are quantised, and of those that are plain."""
        weights = [n.rsplit(".", 1)[0] for n in self.tensors if n.endswith((".weight", ".weight_packed"))]
        quantized = [m for m in weights if m + ".weight_scale" in self.tensors or m + ".weight_scale_inv" in self.tensors]
        return quantized, sorted(set(weights) - set(quantized))

    def decode(self, module):
        """(n, k, float32 values) of a quantised layer, in the formula of its format."""
        suffix = ".weight_packed" if module + ".weight_packed" in self.tensors else ".weight"
        dtype, shape, raw = self.tensors[module + suffix]
        n = shape[0]
        if dtype == "F8_E4M3":
            scales = self.floats(module + (".weight_scale_inv" if module + ".weight_scale_inv" in self.tensors
                                           else ".weight_scale"))
            k = shape[1]
            columns = -(-k // 128)
            assert len(scales) == -(-n // 128) * columns
            return n, k, [f32(e4m3_value(raw[i]) * scales[i // k // 128 * columns + i % k // 128])
                          for i in range(n * k)]
        if dtype == "I8":
            scales = self.floats(module + ".weight_scale")
            assert len(scales) == n
            k = shape[1]
            return n, k, [f32(code * scales[i // k]) for i, code in enumerate(struct.unpack(f"<{n * k}b", raw))]
        if dtype == "I32":
            stored = struct.unpack("<2q", self.tensors[module + ".weight_shape"][2])
            assert stored[0] == n and shape[1] == -(-stored[1] // 8)
            k = stored[1]
            scales = self.floats(module + ".weight_scale")
            groups = -(-k // 128)
            assert len(scales) == n * groups
            words = struct.unpack(f"<{n * shape[1]}I", raw)
            return n, k, [f32(((words[i // k * shape[1] + i % k // 8] >> 4 * (i % k % 8) & 15) - 8)
                              * scales[i // k * groups + i % k // 128]) for i in range(n * k)]
        assert dtype == "U8", dtype
        k = 2 * shape[1]
        values = [e2m1_value(raw[i // 2] >> 4 * (i % 2) & 15) for i in range(n * k)]
        scale_dtype, scale_shape, scale_raw = self.tensors[module + ".weight_scale"]
        if scale_dtype == "U8":  # mxfp4: E8M0
            assert scale_shape == [n, k // 32]
            return n, k, [v * 2.0 ** (scale_raw[i // 32] - 127) for i, v in enumerate(values)]
        assert scale_shape == [n, k // 16]
        scales = self.floats(module + ".weight_scale")
        if module + ".weight_scale_2" in self.tensors:  # ModelOpt multiplies
            (factor,) = self.floats(module + ".weight_scale_2")
        else:  # compressed-tensors divides
            (divisor,) = self.floats(module + ".weight_global_scale")
            factor = f32(1.0 / divisor)
        return n, k, [f32(f32(v * scales[i // 16]) * factor) for i, v in enumerate(values)]


def partner(module):
    for own, other in (("gate_proj", "up_proj"), ("up_proj", "gate_proj")):
        if module.endswith(own):
            return module[:-len(own)] + other
    return module


def pack_nibbles(codes):
    return bytes(low | high << 4 for low, high in zip(codes[::2], codes[1::2]))


def encode_mxfp4(w, n, k, **_):
    """DeepSeek's rule: 2^ceil(log2(amax / 6)); codes nearest even."""
    codes, scales = [], []
    for begin in range(0, n * k, 32):
        group = w[begin:begin + 32]
        amax = max(map(abs, group))
        exponent = -126
        if amax > 0:
            mantissa, exponent = math.frexp(amax / 6)  # in [0.5, 1): a power of two has 0.5
            exponent = max(exponent - (mantissa == 0.5), -126)
        scales.append(exponent + 127)
        codes += [e2m1_code(x * 2.0 ** -exponent) for x in group]
    return {".weight_packed": pack_nibbles(codes), ".weight_scale": bytes(scales)}


def encode_nvfp4(w, n, k, amax, **_):
    """ModelOpt's rule: weight_scale_2 = amax / 2688, block scale e4m3(amax_16 / (6 weight_scale_2))."""
    factor = f32(amax / 2688)
    codes, scales = [], []
    for begin in range(0, n * k, 16):
        group = w[begin:begin + 16]
        largest = max(map(abs, group))
        scale = max(e4m3_code(f32(largest / f32(6 * factor))), 1) if largest > 0 else 0x38
        scales.append(scale)
        step = f32(e4m3_value(scale) * factor)
        codes += [e2m1_code(f32(x / step)) for x in group]
    return {".weight": pack_nibbles(codes), ".weight_scale": bytes(scales),
            ".weight_scale_2": struct.pack("<f", factor)}


def encode_fp8(w, n, k, **_):
    """DeepSeek-V3's rule: amax / 448 of each 128 x 128 block."""
    columns = -(-k // 128)
    amax = [0.0] * (-(-n // 128) * columns)
    block = [i // k // 128 * columns + i % k // 128 for i in range(n * k)]
    for b, x in zip(block, w):
        amax[b] = max(amax[b], abs(x))
    scales = [f32(a / 448) if a > 0 else 1.0 for a in amax]
    return {".weight": bytes(e4m3_code(f32(x / scales[b])) for b, x in zip(block, w)),
            ".weight_scale_inv": struct.pack(f"<{len(scales)}f", *scales)}


def integer_scales(w, n, k, group, divisor):
    bits = []
    for row in range(n):
        for begin in range(0, k, group):
            amax = max(map(abs, w[row * k + begin:row * k + min(begin + group, k)]))
            bits.append(bf16_bits(f32(amax / divisor)) if amax > 0 else 0x3F80)
    return bits


def encode_int8(w, n, k, **_):
    """amax / 127 of each row, in BF16."""
    bits = integer_scales(w, n, k, k, 127)
    scales = [bf16_value(b) for b in bits]
    codes = [min(max(round(f32(x / scales[i // k])), -128), 127) for i, x in enumerate(w)]
    return {".weight": struct.pack(f"<{n * k}b", *codes), ".weight_scale": struct.pack(f"<{n}H", *bits)}


def encode_int4(w, n, k, **_):
    """compressed-tensors' rule: amax / 7.5 of each 128 weights, in BF16; words of eight, the last one padded."""
    bits = integer_scales(w, n, k, 128, 7.5)
    scales = [bf16_value(b) for b in bits]
    groups, words = -(-k // 128), -(-k // 8)
    packed = [0] * (n * words)
    for i, x in enumerate(w):
        row, column = divmod(i, k)
        code = min(max(round(f32(x / scales[row * groups + column // 128])), -8), 7) + 8
        packed[row * words + column // 8] |= code << 4 * (column % 8)
    return {".weight_packed": struct.pack(f"<{n * words}I", *packed),
            ".weight_scale": struct.pack(f"<{n * groups}H", *bits), ".weight_shape": struct.pack("<2q", n, k)}


def encode_bf16(w, n, k, **_):
    return {".weight": struct.pack(f"<{n * k}H", *map(bf16_bits, w))}


ENCODERS = {"mxfp4": encode_mxfp4, "nvfp4": encode_nvfp4, "fp8": encode_fp8, "int8": encode_int8,
            "int4": encode_int4}
