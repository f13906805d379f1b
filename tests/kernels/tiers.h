// The kernel tiers this machine can run, and a device for each.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "kernels/device.h"

namespace nibble::kernels::testing {

struct TierCase {
  std::string name;
  std::string isa;     // DeviceOptions::isa
  bool bf16_products;  // operands of fast products may be rounded to bf16
  // A GPU: integer arrays are not checked, attention rounds to bf16 as well, and which kernel runs, and so
  // the order of sums, may depend on the size of the batch.
  bool gpu = false;
};

// For messages of failed tests.
inline void PrintTo(const TierCase& tier, std::ostream* out) { *out << tier.name; }

std::vector<TierCase> available_tiers();

// Made once per tier and thread count, kept until the program ends. Its scratch is filled with NaN at
// every call, so that a kernel which trusts old contents is found out.
Device& device_of(const TierCase& tier, int num_threads = 2);

}  // namespace nibble::kernels::testing
