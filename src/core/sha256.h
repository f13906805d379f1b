// SHA-256 (FIPS 180-4), for naming files by their contents.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace nibble {

class Sha256 {
 public:
  void update(std::span<const std::byte> bytes);
  // 64 lowercase hexadecimal digits. Call once, at the end.
  [[nodiscard]] std::string hex_digest();

 private:
  static constexpr std::size_t kBlockBytes = 64;
  void process(const std::byte* block);

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, kBlockBytes> pending_{};
  std::uint64_t num_bytes_ = 0;
};

}  // namespace nibble
