#include <array>

#include "core/check.h"
#include "quant/codec.h"

namespace nibble::quant {
namespace {

const std::array kCodecs = {&kF32Codec,   &kF16Codec,   &kBf16Codec, &kFp8Codec,
                            &kMxfp4Codec, &kNvfp4Codec, &kInt8Codec, &kInt4Codec};

}  // namespace

const Codec& codec(WeightFormat format) {
  for (const Codec* candidate : kCodecs) {
    if (candidate->format == format) return *candidate;
  }
  NIB_CHECK(false, "weight format {} has no codec", static_cast<int>(format));
}

}  // namespace nibble::quant
