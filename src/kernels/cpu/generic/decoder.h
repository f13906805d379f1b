// What a tile decoder says about its format. A decoder derives from DecoderBase and supplies
// kStepK and decode_step(const std::byte*, V (&)[kStepK]); if it has scales, load_scale(const
// std::byte*); integer decoders also load_zero(const std::byte*).
#pragma once

#include <cstdint>

namespace nibble::kernels::cpu::generic {

// kScaleK of formats whose group size is the weight's (PanelLayout::scale_k).
inline constexpr std::int64_t kAnyGroup = -1;

struct DecoderBase {
  static constexpr std::int64_t kScaleK = 0;  // k per scale vector; 0 = none
  static constexpr bool kHasGlobals = false;  // a factor per row, after all sums
  static constexpr bool kHasZeros = false;    // a zero per row and group, taken off the code
  static constexpr bool kActOrder = false;    // groups are looked up per k
};

template <class D>
struct WithZeros : D {
  static constexpr bool kHasZeros = true;
};

template <class D>
struct WithActOrder : D {
  static constexpr bool kHasZeros = true;
  static constexpr bool kActOrder = true;
};

}  // namespace nibble::kernels::cpu::generic
