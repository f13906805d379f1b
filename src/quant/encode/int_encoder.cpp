// int8 and int4: one scale (and zero point) per row and group, rounded to nearest. Canonical codes: int8
// signed bytes, int4 plus 8 in nibbles.
#include <algorithm>
#include <array>

#include "quant/encode/encoder.h"
#include "quant/encode/int_scale.h"
#include "quant/encode/scale_rounding.h"

namespace nibble::quant {
namespace {

void write_int8(const float* w, std::int64_t count, const IntScale& s, const IntScaleRule& rule,
                std::uint8_t* out) {
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = static_cast<std::uint8_t>(int_code(w[i], s, rule.min_code(), rule.max_code()));
  }
}

void write_int4(const float* w, std::int64_t count, const IntScale& s, const IntScaleRule& rule,
                std::uint8_t* out) {
  constexpr std::int64_t kChunk = 64;
  std::array<std::uint8_t, kChunk> codes;
  for (std::int64_t begin = 0; begin < count; begin += kChunk) {
    const std::int64_t chunk = std::min(kChunk, count - begin);
    for (std::int64_t i = 0; i < chunk; ++i) {
      const int code = int_code(w[begin + i], s, rule.min_code(), rule.max_code()) + 8;
      codes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(code);
    }
    pack_nibbles(codes.data(), chunk / 2, out + begin / 2);
  }
}

template <int kBits>
void encode_rows(const float* rows, std::int64_t row_begin, std::int64_t row_end, const EncodeTarget& out) {
  const IntScaleRule rule{.bits = kBits,
                          .zero_points = out.options.zero_points,
                          .scale_dtype = out.view.scale_dtype,
                          .scales = out.options.scales};
  const std::int64_t k = out.view.k;
  const std::int64_t num_groups = out.view.num_groups();
  for (std::int64_t i = row_begin * num_groups; i < row_end * num_groups; ++i) {
    const std::int64_t row = i / num_groups;
    const std::int64_t begin = i % num_groups * out.view.group_k();
    const std::int64_t count = std::min(out.view.group_k(), k - begin);
    const float* w = rows + (row - row_begin) * k + begin;
    const IntScale s = choose_int_scale(w, count, rule);
    store_scale(out.scales, rule.scale_dtype, i, s.scale);
    if (rule.zero_points) out.zeros[i] = static_cast<std::int8_t>(s.zero);
    std::uint8_t* codes = out.codes + (row * k + begin) * kBits / 8;
    kBits == 8 ? write_int8(w, count, s, rule, codes) : write_int4(w, count, s, rule, codes);
  }
}

}  // namespace

constinit const Encoder kInt8Encoder = {.format = WeightFormat::int8,
                                        .encode_rows = encode_rows_widest<encode_rows<8>>};
constinit const Encoder kInt4Encoder = {.format = WeightFormat::int4,
                                        .encode_rows = encode_rows_widest<encode_rows<4>>};

}  // namespace nibble::quant
