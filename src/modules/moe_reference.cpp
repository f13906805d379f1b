// MoeModule::reference: the definition of the layer.
#include <fmt/format.h>

#include <algorithm>

#include "modules/decoder.h"
#include "modules/guard.h"
#include "modules/moe_module.h"

namespace nibble {
namespace {

using modules::Rows64;

void add_scaled(const double* from, double factor, std::int64_t n, double* to) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

}  // namespace

Result<std::vector<double>> MoeModule::reference(std::span<const float> x, std::span<const std::int32_t> ids,
                                                 std::span<const float> weights) const {
  const std::int64_t hidden = impl_->config.hidden_size;
  const std::int64_t topk = impl_->config.experts_per_token;
  const auto m = static_cast<std::int64_t>(x.size()) / hidden;
  if (static_cast<std::int64_t>(x.size()) != m * hidden || ids.size() != weights.size() ||
      static_cast<std::int64_t>(ids.size()) != m * topk) {
    return bad_input(fmt::format("x has {} values, ids {}, weights {}: must be tokens times {}, {} and {}",
                                 x.size(), ids.size(), weights.size(), hidden, topk, topk));
  }
  return modules::guarded([&]() -> Result<std::vector<double>> {
    modules::Decoder decoder(*impl_->device->impl().device);
    layers::FusedMoe& experts = impl_->experts;
    Rows64 y{.width = hidden, .values = std::vector<double>(x.size())};
    for (std::int32_t e = 0; e < impl_->config.num_experts; ++e) {
      Rows64 chosen{.width = hidden, .values = {}};
      std::vector<std::int64_t> slots;
      for (std::int64_t slot = 0; slot < m * topk; ++slot) {
        if (ids[static_cast<std::size_t>(slot)] != e) continue;
        slots.push_back(slot);
        const auto row =
            x.subspan(static_cast<std::size_t>(slot / topk * hidden), static_cast<std::size_t>(hidden));
        chosen.values.insert(chosen.values.end(), row.begin(), row.end());
      }
      if (slots.empty()) continue;
      const Rows64 out =
          modules::gated_mlp(decoder, chosen, experts.gate_proj(), experts.up_proj(), experts.down_proj(), e);
      for (std::size_t i = 0; i < slots.size(); ++i) {
        add_scaled(out.row(static_cast<std::int64_t>(i)),
                   static_cast<double>(weights[static_cast<std::size_t>(slots[i])]), hidden,
                   y.row(slots[i] / topk));
      }
    }
    if (impl_->shared) {
      const Rows64 all{.width = hidden, .values = std::vector<double>(x.begin(), x.end())};
      layers::GatedMlp& shared = *impl_->shared;
      const Rows64 out =
          modules::gated_mlp(decoder, all, shared.gate_proj(), shared.up_proj(), shared.down_proj(), 0);
      for (std::size_t i = 0; i < y.values.size(); ++i) y.values[i] += out.values[i];
    }
    return std::move(y.values);
  });
}

}  // namespace nibble
