// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy as
// 1, 2, 3" (SC 2011): the n-th number of a key is a pure function of key and n, on every machine.
// So what is drawn for a token depends on its request's seed and its index alone, never on what
// else ran.
#pragma once

#include <array>
#include <cstdint>

namespace nibble::engine {

using PhiloxBlock = std::array<std::uint32_t, 4>;

PhiloxBlock philox4x32(PhiloxBlock counter, std::array<std::uint32_t, 2> key) noexcept;

// Uniform in [0, 1), 53 random bits; number `index` of stream `seed`.
double philox_uniform(std::uint64_t seed, std::uint64_t index) noexcept;

}  // namespace nibble::engine
