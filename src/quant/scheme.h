// Schemes: which weight format a linear layer keeps and how its inputs are quantised. One row each;
// the only place that knows scheme names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "nibble/result.h"
#include "quant/quant_format.h"

namespace nibble::quant {

// What is done to the inputs of a linear layer before they are multiplied (activations.h).
enum class ActivationFormat : std::uint8_t {
  none,  // A16: nothing
  fp8,   // E4M3, a scale per token and 128 consecutive inputs
  int8,  // a scale per token
};
inline constexpr std::size_t kNumActivationFormats = 3;
std::string_view activation_name(ActivationFormat format) noexcept;  // "a16", "fp8", "int8"

struct Scheme {
  WeightFormat weights = WeightFormat::bf16;
  ActivationFormat activations = ActivationFormat::none;
  std::int64_t group_k = 0;  // Grouping::group_k; 0 = the format's own, -1 = one scale per row

  // How a matrix of k inputs is grouped under this scheme.
  [[nodiscard]] Grouping grouping(std::int64_t k) const noexcept;
  friend bool operator==(const Scheme&, const Scheme&) = default;
};

struct SchemeRow {
  std::string_view name;     // "fp8_w8a8"
  std::string_view aliases;  // separated by spaces
  Scheme scheme;
  std::string_view summary;  // for help and tables
};
std::span<const SchemeRow> schemes() noexcept;

// The scheme of a name or alias. "weights x activations" pairs nibble does not run and unknown names
// are unsupported, with the list of those it does.
Result<Scheme> find_scheme(std::string_view name);

// The name of a scheme's row; the format's name if it has none.
std::string_view scheme_name(const Scheme& scheme) noexcept;

}  // namespace nibble::quant
