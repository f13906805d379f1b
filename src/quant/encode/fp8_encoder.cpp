// fp8: one scale per block of group_n x group_k weights, amax / 448; blocks at the edges are partial.
// Per channel is the block 1 x k. F8_E8M0 scales are rounded up to a power of two.
#include <algorithm>

#include "quant/e8m0.h"
#include "quant/encode/e8m0_scale.h"
#include "quant/encode/encoder.h"
#include "quant/encode/lane_rounding.h"
#include "quant/encode/scale_rounding.h"

namespace nibble::quant {
namespace {

// Writes scale i of a block whose largest magnitude is given, and returns its value.
float put_scale(const EncodeTarget& out, std::int64_t i, std::uint32_t amax_bits) {
  const DType dtype = out.view.scale_dtype;
  if (dtype == DType::f8_e8m0) {
    const std::uint8_t code = e8m0_scale<448>(amax_bits);
    out.scales[i] = static_cast<std::byte>(code);
    return e8m0_to_float(code);
  }
  const float scale = amax_bits == 0 ? 1.0F : round_scale(std::bit_cast<float>(amax_bits) / kE4m3Max, dtype);
  store_scale(out.scales, dtype, i, scale);
  return scale;
}

// One block of `num_rows` rows from `w` on, `count` weights of each.
void encode_block(const float* w, std::uint8_t* codes, std::int64_t num_rows, std::int64_t count,
                  const EncodeTarget& out, std::int64_t scale_idx) {
  const std::int64_t k = out.view.k;
  std::uint32_t amax_bits = 0;
  for (std::int64_t r = 0; r < num_rows; ++r) {
    amax_bits = std::max(amax_bits, abs_max_bits(w + r * k, count));
  }
  const float scale = put_scale(out, scale_idx, amax_bits);
  for (std::int64_t r = 0; r < num_rows; ++r) {
    for (std::int64_t i = r * k; i < r * k + count; ++i)
      codes[i] = static_cast<std::uint8_t>(e4m3_lane(w[i] / scale));
  }
}

void encode_rows(const float* rows, std::int64_t row_begin, std::int64_t row_end, const EncodeTarget& out) {
  const std::int64_t k = out.view.k;
  for (std::int64_t row = row_begin; row < row_end; row += out.view.group_n) {
    const std::int64_t num_rows = std::min(out.view.group_n, row_end - row);
    for (std::int64_t g = 0; g < out.view.num_groups(); ++g) {
      const std::int64_t begin = g * out.view.group_k();
      encode_block(rows + (row - row_begin) * k + begin, out.codes + row * k + begin, num_rows,
                   std::min(out.view.group_k(), k - begin), out,
                   row / out.view.group_n * out.view.num_groups() + g);
    }
  }
}

}  // namespace

constinit const Encoder kFp8Encoder = {.format = WeightFormat::fp8,
                                       .encode_rows = encode_rows_widest<encode_rows>};

}  // namespace nibble::quant
