// Fills device memory without the host.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace nibble::kernels::cuda {

// A word is (random & keep) | set.
struct RandomBits {
  std::uint32_t keep;
  std::uint32_t set;
};

// data[bytes], a multiple of 4, becomes pseudo-random words that depend on seed and place alone.
void fill_random(cudaStream_t stream, std::byte* data, std::size_t bytes, RandomBits bits,
                 std::uint64_t seed);

// Copies data[0, bytes) after itself until it is there `count` times.
void repeat(cudaStream_t stream, std::byte* data, std::size_t bytes, std::size_t count);

}  // namespace nibble::kernels::cuda
