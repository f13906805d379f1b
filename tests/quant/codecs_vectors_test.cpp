// Vectors computed by hand from the formats' definitions.
#include <gtest/gtest.h>

#include <cmath>

#include "quant/e2m1.h"
#include "quant/e8m0.h"
#include "quant/float8.h"
#include "quant/matrix_view.h"

namespace nibble::quant {
namespace {

TEST(CodecVectors, E2m1RoundsTiesToEven) {
  const std::pair<float, int> cases[] = {{0.25F, 0}, {0.2500001F, 1}, {0.75F, 2}, {1.25F, 2},     {1.75F, 4},
                                         {2.5F, 4},  {3.5F, 6},       {5.0F, 6},  {5.0001F, 7},   {7.0F, 7},
                                         {0.0F, 0},  {6.0F, 7},       {1e30F, 7}, {0.7499999F, 1}};
  for (const auto& [x, code] : cases) {
    EXPECT_EQ(float_to_e2m1_saturated(x), code) << x;
    EXPECT_EQ(float_to_e2m1_saturated(-x), code + 8) << -x;
  }
}

TEST(CodecVectors, E2m1CodeEightIsNegativeZero) {
  EXPECT_EQ(kE2m1Values[8], 0.0F);
  EXPECT_TRUE(std::signbit(kE2m1Values[8]));
}

TEST(CodecVectors, E8m0) {
  EXPECT_EQ(e8m0_to_float(0), 0x1p-127F);
  EXPECT_EQ(e8m0_to_float(1), 0x1p-126F);
  EXPECT_EQ(e8m0_to_float(126), 0.5F);
  EXPECT_EQ(e8m0_to_float(127), 1.0F);
  EXPECT_EQ(e8m0_to_float(128), 2.0F);
  EXPECT_EQ(e8m0_to_float(254), 0x1p127F);
  EXPECT_TRUE(std::isnan(e8m0_to_float(255)));
}

TEST(CodecVectors, E8m0CeilAtTheEdges) {
  EXPECT_EQ(float_to_e8m0_ceil(0x1p-149F), 0);
  EXPECT_EQ(float_to_e8m0_ceil(0x1p-127F), 0);
  EXPECT_EQ(float_to_e8m0_ceil(0x1.8p-127F), 1);
  EXPECT_EQ(float_to_e8m0_ceil(1.0F), 127);
  EXPECT_EQ(float_to_e8m0_ceil(std::nextafter(1.0F, 2.0F)), 128);
  EXPECT_EQ(float_to_e8m0_ceil(0x1.fp127F), 254);
  EXPECT_EQ(float_to_e8m0_ceil(std::numeric_limits<float>::quiet_NaN()), kE8m0Nan);
}

TEST(CodecVectors, E4m3) {
  EXPECT_EQ(e4m3_to_float(0x01), 0x1p-9F);
  EXPECT_EQ(e4m3_to_float(0x08), 0x1p-6F);
  EXPECT_EQ(e4m3_to_float(0x38), 1.0F);
  EXPECT_EQ(e4m3_to_float(0x7A), 320.0F);
  EXPECT_EQ(e4m3_to_float(0x7E), 448.0F);
  EXPECT_TRUE(std::isnan(e4m3_to_float(0x7F)));
  EXPECT_TRUE(std::isnan(e4m3_to_float(0xFF)));
  EXPECT_EQ(float_to_e4m3(336.0F), 0x7A);  // tie between 320 and 352
  EXPECT_EQ(float_to_e4m3(464.0F), 0x7E);  // the last value that still rounds to 448
  EXPECT_TRUE(std::isnan(e4m3_to_float(float_to_e4m3(464.01F))));
  EXPECT_EQ(float_to_e4m3_saturated(464.01F), 0x7E);
}

// The NVFP4 block of section 20: codes 0 9 2 B 3 C 5 D 5 E 6 E 7 F 7 F, block scale 0x7A.
TEST(CodecVectors, Nvfp4Block) {
  const std::uint8_t codes[8] = {0x90, 0xB2, 0xC3, 0xD5, 0xE5, 0xE6, 0xF7, 0xF7};
  const std::uint8_t scale = 0x7A;
  const float global = 7.4404762e-4F;
  const float block_scale = e4m3_to_float(scale) * global;
  EXPECT_NEAR(block_scale, 0.2380952F, 1e-7F);
  const MatrixView matrix{.format = WeightFormat::nvfp4,
                          .n = 1,
                          .k = 16,
                          .codes = reinterpret_cast<const std::byte*>(codes),
                          .scales = reinterpret_cast<const std::byte*>(&scale),
                          .global_scale = global};
  float row[16];
  dequantize_rows(matrix, 0, 1, row);
  for (int i = 0; i < 16; ++i) {
    const float x = 0.1F * static_cast<float>(i) * (i % 2 == 0 ? 1.0F : -1.0F);
    EXPECT_EQ(float_to_e2m1_saturated(x / block_scale), (codes[i / 2] >> (4 * (i % 2))) & 0xF) << i;
    EXPECT_NEAR(row[i], x, 0.24F) << i;
  }
  EXPECT_EQ(row[1], -0.5F * 320.0F * global);
  EXPECT_EQ(row[15], -6.0F * 320.0F * global);
}

}  // namespace
}  // namespace nibble::quant
