#include "kernels/cuda/fill.h"

namespace nibble::kernels::cuda {
namespace {

// splitmix64 (Steele, Lea, Flood 2014).
__device__ std::uint64_t splitmix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

__global__ void fill_random_kernel(std::uint32_t* words, std::size_t count, RandomBits bits,
                                   std::uint64_t seed) {
  const std::size_t stride = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    const std::uint64_t random = splitmix(splitmix(seed) + i);
    words[i] = (static_cast<std::uint32_t>(random >> 32) & bits.keep) | bits.set;
  }
}

}  // namespace

void fill_random(cudaStream_t stream, std::byte* data, std::size_t bytes, RandomBits bits,
                 std::uint64_t seed) {
  if (bytes < 4) return;
  constexpr int kThreads = 256;
  constexpr int kBlocks = 1056;
  fill_random_kernel<<<kBlocks, kThreads, 0, stream>>>(reinterpret_cast<std::uint32_t*>(data), bytes / 4,
                                                       bits, seed);
}

void repeat(cudaStream_t stream, std::byte* data, std::size_t bytes, std::size_t count) {
  for (std::size_t done = 1; done < count;) {
    const std::size_t more = done < count - done ? done : count - done;
    cudaMemcpyAsync(data + done * bytes, data, more * bytes, cudaMemcpyDeviceToDevice, stream);
    done += more;
  }
}

}  // namespace nibble::kernels::cuda
