// The arithmetic of sampling, for the CPU's and the GPU's sampler: probabilities as integers, whose sums do
// not depend on their order, made with operations that have one result everywhere.
//
// The weight of a token is 2^((logit - max) * log2(e) / temperature) times 2^kWeightBits, rounded down:
// what is less than 2^-kWeightBits times as probable as the best token is never drawn.
#pragma once

#include <cstdint>

#include "kernels/args/sample_row.h"

// For functions that both compilers see.
#ifndef NIB_HOST_DEVICE
#ifdef __CUDACC__
#define NIB_HOST_DEVICE __host__ __device__
#else
#define NIB_HOST_DEVICE
#endif
#endif

namespace nibble::kernels::sampling {

inline constexpr int kWeightBits = 40;
inline constexpr std::uint64_t kFullWeight = std::uint64_t{1} << kWeightBits;
// So that the sum of all weights has 63 bits.
inline constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 23;

// Orders like the logits, the largest first; -0 and +0 have the same key.
NIB_HOST_DEVICE inline std::uint32_t key_of(float logit) {
  constexpr std::uint32_t kSign = 0x80000000U;
  const auto bits = __builtin_bit_cast(std::uint32_t, logit);
  if ((bits & kSign) == 0) return kSign - 1 - bits;
  return bits == kSign ? kSign - 1 : bits;
}
NIB_HOST_DEVICE inline float logit_of(std::uint32_t key) {
  constexpr std::uint32_t kSign = 0x80000000U;
  return __builtin_bit_cast(float, (key & kSign) == 0 ? kSign - 1 - key : key);
}

NIB_HOST_DEVICE inline bool is_finite(float logit) {
  constexpr std::uint32_t kExponent = 0x7F800000U;
  return (__builtin_bit_cast(std::uint32_t, logit) & kExponent) != kExponent;
}

// Exponents are multiples of 2^-kExponentBits.
inline constexpr int kExponentBits = 24;

// What logit differences are multiplied with to be exponents. Temperatures so low that only equal logits
// share the probability are all alike.
NIB_HOST_DEVICE inline float exponent_scale(float temperature) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLargest = 3.4028234663852886e38;
  const double scale = kLog2E * (1 << kExponentBits) / static_cast<double>(temperature);
  return static_cast<float>(scale < kLargest ? scale : kLargest);
}

// Minus the exponent of the weight, rounded down; kNoWeight, the largest: the weight is 0, else it is at
// least 1. Float32 like the logits: its rounding moves a weight by at most 3 * 2^-24 of the (scaled)
// difference.
inline constexpr std::int32_t kNoWeight = (kWeightBits << kExponentBits) + 1;
NIB_HOST_DEVICE inline std::int32_t distance_of(float logit, float max, float scale) {
  constexpr auto kFarthest = static_cast<float>(kWeightBits << kExponentBits);
  const float distance = (max - logit) * scale;
  return distance <= kFarthest ? static_cast<std::int32_t>(distance) : kNoWeight;
}

// 2^(fraction * 2^-32), times 2^31: a polynomial with a relative error below 2^-27, which never falls.
NIB_HOST_DEVICE inline std::uint32_t exp2_fraction(std::uint32_t fraction) {
  constexpr std::uint32_t kCoefficients[] = {894122U,    5451243U,    41455862U,
                                             238353606U, 1031767985U, 2977044430U};
  std::uint32_t sum = 0;
  for (const std::uint32_t c : kCoefficients) {
    sum = c + static_cast<std::uint32_t>((std::uint64_t{sum} * fraction) >> 32);
  }
  return 0x80000000U + (static_cast<std::uint32_t>((std::uint64_t{sum} * fraction) >> 32) >> 1);
}

NIB_HOST_DEVICE inline std::uint64_t weight_at(std::int32_t distance) {
  const auto exponent = -static_cast<std::uint32_t>(distance);
  const std::uint32_t fraction = exponent << (32 - kExponentBits);
  const auto halvings = (static_cast<std::uint32_t>(distance) + (1U << kExponentBits) - 1) >> kExponentBits;
  return std::uint64_t{exp2_fraction(fraction)} << (kWeightBits - 31) >> halvings;
}
NIB_HOST_DEVICE inline std::uint64_t weight_of(float logit, float max, float scale) {
  return weight_at(distance_of(logit, max, scale));
}

// The least integer that is at least value * 2^bits; 0 <= value <= 1.
NIB_HOST_DEVICE inline std::uint64_t scaled_up(float value, int bits) {
  const double scaled = static_cast<double>(value) * static_cast<double>(std::uint64_t{1} << bits);
  const auto whole = static_cast<std::uint64_t>(scaled);
  return static_cast<double>(whole) < scaled ? whole + 1 : whole;
}

// The mass that top-p wants of `total`; top_p is rounded up to a multiple of 2^-32.
NIB_HOST_DEVICE inline std::uint64_t wanted_mass(std::uint64_t total, float top_p) {
  constexpr std::uint64_t kLow = 0xFFFFFFFFU;
  const std::uint64_t share = scaled_up(top_p, 32);
  return (total >> 32) * share + (((total & kLow) * share + kLow) >> 32);
}
// The weight that min-p wants.
NIB_HOST_DEVICE inline std::uint64_t wanted_weight(float min_p) { return scaled_up(min_p, kWeightBits); }

// floor(a * b / 2^64).
NIB_HOST_DEVICE inline std::uint64_t high_product(std::uint64_t a, std::uint64_t b) {
  constexpr std::uint64_t kLow = 0xFFFFFFFFU;
  const std::uint64_t middle = (a >> 32) * (b & kLow) + (((a & kLow) * (b & kLow)) >> 32);
  const std::uint64_t other = (a & kLow) * (b >> 32) + (middle & kLow);
  return (a >> 32) * (b >> 32) + (middle >> 32) + (other >> 32);
}

// A penalised logit. `generated`: how often the token was. Finite logits stay finite.
NIB_HOST_DEVICE inline float penalize(float logit, const SampleRow& row, std::int32_t generated) {
  constexpr float kLargest = 3.402823466e+38F;
  // In double, where products of floats are exact and so cannot be fused with a sum to another result.
  const auto value =
      static_cast<double>(logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty);
  const double frequency = static_cast<double>(row.frequency_penalty) * generated;
  const double penalized =
      value - frequency - (generated > 0 ? static_cast<double>(row.presence_penalty) : 0.0);
  if (!is_finite(logit)) return logit;
  return static_cast<float>(penalized < -static_cast<double>(kLargest)  ? -static_cast<double>(kLargest)
                            : penalized > static_cast<double>(kLargest) ? static_cast<double>(kLargest)
                                                                        : penalized);
}

// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11): counter-based, so
// that the n-th number of a seed needs no state.
struct PhiloxBlock {
  std::uint32_t words[4];
  friend bool operator==(const PhiloxBlock&, const PhiloxBlock&) = default;
};
NIB_HOST_DEVICE inline PhiloxBlock philox4x32(PhiloxBlock counter, std::uint32_t key0, std::uint32_t key1) {
  // Multipliers and Weyl increments of the paper (section 4.3).
  constexpr std::uint32_t kMultiplier0 = 0xD2511F53U;
  constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57U;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9U;
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85U;
  constexpr int kRounds = 10;
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = std::uint64_t{kMultiplier0} * counter.words[0];
    const std::uint64_t product1 = std::uint64_t{kMultiplier1} * counter.words[2];
    counter = {{static_cast<std::uint32_t>(product1 >> 32) ^ counter.words[1] ^ key0,
                static_cast<std::uint32_t>(product1),
                static_cast<std::uint32_t>(product0 >> 32) ^ counter.words[3] ^ key1,
                static_cast<std::uint32_t>(product0)}};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

// 64 uniform bits for token `index` of a reply. That token is drawn with which the sum of weights, by id,
// first exceeds high_product(bits, sum of all).
NIB_HOST_DEVICE inline std::uint64_t philox_bits(std::uint64_t seed, std::uint64_t index) {
  const PhiloxBlock counter{
      {static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32), 0, 0}};
  const PhiloxBlock block =
      philox4x32(counter, static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32));
  return std::uint64_t{block.words[0]} << 32 | block.words[1];
}

}  // namespace nibble::kernels::sampling
