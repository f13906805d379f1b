// Random weight matrices of every format, as a checkpoint would hold them.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "kernels/device.h"
#include "quant/matrix_view.h"
#include "tests/support/random.h"

namespace nibble::kernels::testing {

// Owns what its view points at.
struct StoredMatrix {
  quant::MatrixView view;
  std::vector<std::byte> codes;
  std::vector<std::byte> scales;
  std::vector<std::byte> zeros;
  std::vector<std::int32_t> g_idx;

  // All weights, [n, k], from the source and not from a packed copy.
  [[nodiscard]] std::vector<float> dequantised() const;
};

// Random codes and scales; weights are of the order of 1 / sqrt(k), with zeros and negative zeros
// among them. Scales of eight-bit formats alternate
// between their types with the seed; groups are dealt out to inputs at random with act-order.
std::unique_ptr<StoredMatrix> random_matrix(::nibble::testing::Random& random, quant::WeightFormat format,
                                            std::int64_t n, std::int64_t k,
                                            const quant::Grouping& grouping = {});

// Matrices of equal shape packed as the groups of one weight.
struct PackedGroups {
  std::vector<std::unique_ptr<StoredMatrix>> sources;
  std::vector<std::vector<float>> weights;  // dequantised, per group
  Weight packed;
};
PackedGroups random_groups(Device& device, ::nibble::testing::Random& random, quant::WeightFormat format,
                           std::int64_t num_groups, std::int64_t n, std::int64_t k,
                           const quant::Grouping& grouping = {});

// Packs sources[g] into group g of a new weight.
Weight pack(Device& device, const std::vector<std::unique_ptr<StoredMatrix>>& sources);

}  // namespace nibble::kernels::testing
