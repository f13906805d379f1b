// Reproducible random numbers for tests: the same on every machine and standard library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nibble::testing {

// splitmix64.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }

  // In [0, bound).
  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(bound));
  }

  // In [low, high).
  float uniform(float low, float high) {
    const double unit = static_cast<double>(next() >> 11) * 0x1p-53;
    return static_cast<float>(low + (static_cast<double>(high) - low) * unit);
  }

  std::vector<float> floats(std::int64_t count, float low = -1.0F, float high = 1.0F) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& v : values) v = uniform(low, high);
    return values;
  }

 private:
  std::uint64_t state_;
};

}  // namespace nibble::testing
